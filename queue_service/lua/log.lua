
-- The log of changes, from which copies of the room are kept exact (docs/adr/0040-room-view.md).
--
-- A script that changes what a copy shows appends one entry to CHANGES at its end: the epoch (e),
-- the number of the entry in that epoch (s), the time (t, ms), the bytes appended so far (b), and the
-- changes (c), which are words with spaces between them:
--
--   J<place>                  waits in line, at its number
--   A<place>,<until>,<user>   is admitted, and its owner has not polled since
--   C<place>,<until>,<user>   is admitted, and its owner has polled since
--   E<place>                  has ended, or is known to have ended
--   F<field>,<field> ...      the fields VIEW_FIELDS, in their order
--
-- If the room has a definition, an entry with an F has it, too (d): its text and DRAW_FIELDS. It is
-- not in the F, because replicas of the version before take exactly VIEW_FIELDS there.
--
-- Each word says where a place stands then, whatever was before. The numbers have no gaps, so a copy
-- notices that it has missed an entry. Where a change has no entry, find_unrecorded leaves a gap.

local VIEW_FIELDS = {
  'capacity', 'max_waiting', 'paused', 'grace_until', 'settled_at',
  'pace_at', 'pace_now', 'pace_before', 'unrecorded_at',
}
local ENTRY_BYTES = 64 -- of an entry beside its words, roughly

local noted, words = {}, {} -- places in the order of their first change; place -> its last word

local function note(kind, place, until_ms, user)
  if not words[place] then
    noted[#noted + 1] = place
  end
  words[place] = kind .. place .. (until_ms and ',' .. int(until_ms) .. ',' .. user or '')
end

-- What a room looked like after the last entry. A replica of the version before, beside this one,
-- appends no entries: afterwards the room has another shape. All versions that append entries have
-- the same shape of a room: it does not depend on the definition.
local function shape()
  local sum = 0
  for _, field in ipairs(VIEW_FIELDS) do
    sum = sum + room[field]
  end
  return string.format('%.0f %.0f %.0f %.0f %.0f',
    room.last, count.waiting, count.admitted, count.unclaimed, sum)
end

local next_seq
local fields_changed = false
local is_recorded = true -- whether the log tells all that has changed

-- Notices a change that has no entry. At most once per second, because a missing number costs
-- every copy a new snapshot; until then the stored shape stays wrong.
local function find_unrecorded(stored_shape)
  next_seq = room.seq + 1
  if stored_shape == shape() then
    return
  end
  if now - room.unrecorded_at >= 1000 or now < room.unrecorded_at then -- or the clock was set back
    next_seq = room.seq + 2
    set('unrecorded_at', now)
  else
    is_recorded = false
    set('shape', 'unknown')
  end
end

local function begin_log() -- of a new epoch
  next_seq = 1
  fields_changed = true
end

-- Appends what has changed to the log, and writes the fields. Called once, at the end.
local function save()
  if not next(unsaved) and #noted == 0 then
    return
  end
  for _, field in ipairs(VIEW_FIELDS) do
    fields_changed = fields_changed or unsaved[field] ~= nil
  end
  if definition then
    fields_changed = fields_changed or unsaved.definition ~= nil
    for _, field in ipairs(DRAW_FIELDS) do
      fields_changed = fields_changed or unsaved[field] ~= nil
    end
  end
  local entry = {}
  for i, place in ipairs(noted) do
    entry[i] = words[place]
  end
  if fields_changed then
    local values = {}
    for i, field in ipairs(VIEW_FIELDS) do
      values[i] = int(room[field])
    end
    entry[#entry + 1] = 'F' .. table.concat(values, ',')
  end
  if #entry > 0 then
    local text = table.concat(entry, ' ')
    set('seq', next_seq)
    set('bytes', room.bytes + #text + ENTRY_BYTES)
    if is_recorded then
      set('shape', shape())
    end
    local described = {}
    if fields_changed and definition then
      described = { 'd', described_definition() }
    end
    redis.call('XADD', CHANGES, '*', 'e', int(room.epoch), 's', int(room.seq), 't', int(now),
      'b', int(room.bytes), 'c', text, unpack(described))
  end
  local pairs_to_write = {}
  for field, value in pairs(unsaved) do
    pairs_to_write[#pairs_to_write + 1] = field
    pairs_to_write[#pairs_to_write + 1] = type(value) == 'string' and value or int(value)
  end
  if #pairs_to_write > 0 then
    redis.call('HSET', STATE, unpack(pairs_to_write))
  end
end

-- Deletes entries that are older than `keep_ms`, and the older half as long as there are more than
-- `max_bytes`. The newest one stays, so that whoever reads on after a deleted one finds the gap.
local function trim(keep_ms, max_bytes)
  local newest = redis.call('XREVRANGE', CHANGES, '+', '-', 'COUNT', 1)[1]
  if not newest then
    return
  end
  local newest_ms = tonumber(string.match(newest[1], '^%d+'))
  local oldest_id = newest_ms < now - keep_ms and newest[1] or int(now - keep_ms)
  redis.call('XTRIM', CHANGES, 'MINID', oldest_id)
  local length = redis.call('XLEN', CHANGES)
  while length > 1 do
    local oldest = redis.call('XRANGE', CHANGES, '-', '+', 'COUNT', 1)[1]
    if room.bytes - tonumber(oldest[2][8]) <= max_bytes then -- the value of its field b
      return
    end
    length = math.ceil(length / 2)
    redis.call('XTRIM', CHANGES, 'MAXLEN', length)
  end
end
