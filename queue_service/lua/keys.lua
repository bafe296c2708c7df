-- Precedes each script, with definition.lua, log.lua and (but for end_room.lua) prelude.lua: the keys of a room, the arguments, the fields.
--
-- Redis runs one script at a time. Every script is idempotent, so any replica may repeat it after a
-- lost reply. No script reads a whole key, and every loop has a bound.
--
--   waiting    sorted set  place -> its number, or its rank (from 1) if it was drawn: the line
--   admitted   sorted set  place -> when its admission ends, ms
--   unclaimed  set         admitted places whose owner has not polled since
--   users      hash        user -> its place, while that is live (waiting or admitted)
--   places     hash        live place -> "user:last seen ms", or "user:last seen ms:epoch" if it
--                          was restored after a loss; user 0 until the owner of a place that was
--                          handed back shows its token
--   known      sorted set  "first-last" -> last: range of numbers that survived a restart of Redis,
--                          or that a copy of the room has handed back
--   ended      sorted set  place -> when it ended, as a number: ended in an epoch whose data was
--                          lost
--   restored   sorted set  restored place that is live -> the epoch in which it was restored
--   sources    sorted set  source -> when its whole allowance of new places is restored, ms
--   solutions  sorted set  spent solution of a challenge -> when it expires, ms
--   attempts   sorted set  "place:attempt": the attempt to enter that got it -> when it expires, ms
--   changes    stream      what each script changed (log.lua)
--   draw       string      the replica that works at the draw, for two seconds; no script uses it
--   state      hash        the fields below, the replication id of the Redis that wrote them,
--                          `definition`, `next_at` (when the next admission is allowed, µs) and the
--                          fields of a draw (definition.lua), `shape` (log.lua), `beat` (seen.lua),
--                          and told_<limit> for each limit that an operator set
--
-- A place number is the millisecond of its creation times 4096, or one more than the last number if
-- that is greater. So numbers increase even if the clock steps back, and a number assigned after a
-- loss is greater than the lost ones. They are exact in a double, Lua's only number, until 2095.

local STATE, WAITING, ADMITTED, UNCLAIMED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local USERS, PLACES, KNOWN, ENDED = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SOURCES, SOLUTIONS, RESTORED, ATTEMPTS = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local CHANGES = KEYS[13]

local grace = tonumber(ARGV[1]) -- also the silence after which we assume that no poll reaches us
local claim_window = tonumber(ARGV[2])
local admission_ttl = tonumber(ARGV[3])
local absent_after = tonumber(ARGV[4])
local seen_resolution = tonumber(ARGV[5])
local heal_within = tonumber(ARGV[6])
-- What the caller remembers about the room, in case Redis has lost it.
local remembered = {
  capacity = tonumber(ARGV[7]),
  max_waiting = tonumber(ARGV[8]),
  paused = tonumber(ARGV[9]),
  last = tonumber(ARGV[10]), -- 0: the caller does not know this room
  epoch = tonumber(ARGV[11]),
  seq = tonumber(ARGV[12]),
}
local DEFINITION_ARGUMENT = 13 -- what the caller knows of the room's definition (definition.lua)
-- What the caller knows of the room's draw: nothing, or the size of the cohort and, for each place of
-- the call that is in it, its rank: "size,place=rank,place=rank" (draw.lua).
local DRAW_ARGUMENT = 14
local FIRST_ARGUMENT = 15

local UNKNOWN_OWNER = '0' -- of a place that was handed back, until its token is shown
local MAX_STEP = 256 -- places that one step moves or ends; the next step continues
local PACE_WINDOW = 60000
local NOTE_AFTER = math.min(1000, grace / 4) -- precision of timestamps that are written rarely

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function int(number) -- tostring() would give 1.3e+15
  return string.format('%.0f', number)
end

local function number_at(ms)
  return (ms - 1767225600000) * 4096 -- since 2026-01-01
end

local function replication_id() -- of a master; '' on a replica
  local replication = redis.call('INFO', 'replication')
  return string.match(replication, '^# Replication\r\nrole:master.-master_replid:(%x+)') or ''
end

local FIELDS = {
  'epoch', -- every number assigned in it is greater
  'last', -- the greatest number assigned
  'capacity', 'max_waiting', 'paused',
  'grace_until', -- until then only places up to `safe` are admitted
  'safe', -- no lost place stands in front of these
  'settled_at', -- until then orders may grow, because lost places return
  'resumed_at', -- absence counts from here: start of the epoch, or first poll after a silence
  'heard_at', -- the last poll of any place, roughly
  'pace_at', 'pace_now', 'pace_before', -- window of admissions: start, count, count before
  -- The epoch that was opened by a guess: its opener did not remember the room. 0 if there is none,
  -- or once a caller remembers the room (hand_over).
  'blind',
  'certain', -- numbers up to this one that are not live have ended
  'healed', -- the newest epoch in which a copy of the room was handed back in full (hand_back.lua)
  'seq', -- the number of the last entry in CHANGES, in this epoch
  'bytes', -- appended to CHANGES so far
  'unrecorded_at', -- when a change without an entry was last found (find_unrecorded); 0: never
}
local LIMITS = { 'capacity', 'max_waiting', 'paused' }
local room = {}
local admissions = 0
local due_in -- ms until a tick has something to do; only a tick knows

-- Fields that have changed: written at the end, by one command (save).
local unsaved = {}

local function set(field, value)
  if room[field] ~= value then
    room[field], unsaved[field] = value, value
  end
end

-- Sizes of three keys, kept right by whatever adds or removes a member: Redis is asked once.
local count = {
  waiting = redis.call('ZCARD', WAITING),
  admitted = redis.call('ZCARD', ADMITTED),
  unclaimed = redis.call('SCARD', UNCLAIMED),
}
