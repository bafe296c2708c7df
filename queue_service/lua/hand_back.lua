-- Takes back what a copy of the room knows of a lost epoch; grants that to one copy at a time.
--
-- Copies of one epoch have all its changes up to some point. So ends are true whoever names them, and
-- lives are taken only from the copy that has come furthest. Repeats change nothing.
local bidding, lease, bidder, lost_epoch, lost_seq, lost_last, all_given, settled, ended, admitted
  = unpack(ARGV, FIRST_ARGUMENT, FIRST_ARGUMENT + 9)
bidding = tonumber(bidding) -- for how long copies may bid before one is granted, ms
lease = tonumber(lease) -- a copy that is silent for longer loses its grant to the next bid, ms
lost_epoch, lost_seq = tonumber(lost_epoch), tonumber(lost_seq) -- the last change that the copy has
lost_last = tonumber(lost_last) -- the greatest place number that the copy has seen
-- Then follow so many ended places: place, user (0: ended by the rules, not by its owner), epoch;
local FIRST_ENDED = FIRST_ARGUMENT + 10
-- so many admitted places: place, user (0: unknown), end of the admission (ms), 1 if claimed; then
-- waiting places.
local FIRST_ADMITTED = FIRST_ENDED + 3 * tonumber(ended)
local FIRST_WAITING = FIRST_ADMITTED + 4 * tonumber(admitted)

local MIXED = 60000 -- for how long a replica of the version before counts as running, ms

-- The hand-back of the current epoch: how far the best bid and the best complete hand-back have come,
-- who bids, when that copy was last heard, and when the bidding ends.
local NAMES = {
  'bid_in', 'bids_until', 'bid_epoch', 'bid_seq', 'bid_at', 'handed_epoch', 'handed_seq',
}
local healing = {}

local function read_healing()
  local stored = redis.call('HMGET', STATE, 'bid_by', unpack(NAMES))
  for i, name in ipairs(NAMES) do
    healing[name] = tonumber(stored[i + 1] or 0)
  end
  healing.bid_by = stored[1]
  if healing.bid_in ~= room.epoch then
    for _, name in ipairs(NAMES) do
      healing[name] = 0
    end
    healing.bid_in, healing.bids_until, healing.bid_by = room.epoch, now + bidding, ''
  end
end

local function write_healing()
  local words = { 'bid_by', healing.bid_by }
  for _, name in ipairs(NAMES) do
    words[#words + 1] = name
    words[#words + 1] = int(healing[name])
  end
  redis.call('HSET', STATE, unpack(words))
end

local function is_ahead_of(epoch, seq) -- whether this copy has come further
  return lost_epoch > epoch or (lost_epoch == epoch and lost_seq > seq)
end

-- A bid proves that there was a loss, also to a replica that guessed otherwise (open_room).
local function begin_grace()
  if room.healed ~= room.epoch
    and room.grace_until <= now
    and room.epoch > number_at(now - grace)
  then
    if room.blind == room.epoch then
      set('safe', 0)
    end
    set('grace_until', now + grace)
    set('settled_at', now + grace)
  end
end

-- Whether this copy is the one that gives back the lives.
local function is_granted()
  local was_silent = now - healing.bid_at > lease
  if is_ahead_of(healing.bid_epoch, healing.bid_seq) or was_silent then
    healing.bid_epoch, healing.bid_seq, healing.bid_by = lost_epoch, lost_seq, bidder
  end
  if healing.bid_by ~= bidder then
    return false
  end
  healing.bid_at = now
  begin_grace()
  return now >= healing.bids_until
end

-- A place that ended before the loss by the rules. If it is of a still earlier epoch, its owner may
-- have brought it back just now by its token: unless the copy was settled, it knew nothing of it.
local function end_by_rules(place)
  local returned = settled ~= '1'
    and tonumber(place) <= lost_epoch
    and owner_of(place) ~= UNKNOWN_OWNER
    and tonumber(redis.call('ZSCORE', RESTORED, place) or 0) == room.epoch
  if not returned then
    end_place(place)
  end
end

-- Returns whether the place stays: its user may have another one.
local function note_owner_of(place, user)
  if user == UNKNOWN_OWNER then -- handed back before, and its token was not shown since
    redis.call('HSET', PLACES, place, UNKNOWN_OWNER .. ':' .. int(now))
    return true
  end
  local epoch = tonumber(place) > lost_epoch and int(lost_epoch) or range_of(place) or '0'
  if not prevails(place, user, epoch) then
    end_place(place)
    return false
  end
  note_owner(place, user, epoch, true)
  return true
end

local function give_back_admission(place, user, until_ms, claimed)
  local owner = owner_of(place)
  local is_owned = owner and owner ~= UNKNOWN_OWNER
  local waits = owner and redis.call('ZSCORE', WAITING, place)
  if not owner and not is_unknown(place) then
    return -- it has ended
  end
  if not owner and definition and lacks_rank(place) then
    return
  end
  if is_owned then
    user = owner
  elseif not note_owner_of(place, user) then
    return
  end
  if owner and not waits then
    -- Admitted here too. If the loss has undone the claim, it counts again.
    if claimed and redis.call('SREM', UNCLAIMED, place) == 1 then
      count.unclaimed = count.unclaimed - 1
      let_in(place, until_ms, 'C', user)
    end
    return
  end
  if not claimed then
    -- The owner could not claim it meanwhile.
    until_ms = math.max(until_ms, room.resumed_at + claim_window)
  end
  if until_ms <= now then
    end_place(place)
  elseif free_slots() > 0 then
    count.waiting = count.waiting - redis.call('ZREM', WAITING, place)
    let_in(place, until_ms, claimed and 'C' or 'A', user)
    if not claimed then
      count.unclaimed = count.unclaimed + redis.call('SADD', UNCLAIMED, place)
    end
  elseif not waits then
    join_line(place) -- before all who joined later
  end
end

-- All waiting places at once: a million of them are to be back within seconds.
local function give_back_waiting()
  local records = redis.call('HMGET', PLACES, unpack(ARGV, FIRST_WAITING))
  local numbers, owners = {}, {}
  for i = FIRST_WAITING, #ARGV do
    local place = ARGV[i]
    if not records[i - FIRST_WAITING + 1] and is_unknown(place)
      and not (definition and lacks_rank(place))
    then
      numbers[#numbers + 1] = definition and score_of(place) or place
      numbers[#numbers + 1] = place
      owners[#owners + 1], owners[#owners + 2] = place, UNKNOWN_OWNER .. ':' .. int(now)
      note('J', place)
    end
  end
  if #numbers > 0 then
    count.waiting = count.waiting + redis.call('ZADD', WAITING, unpack(numbers))
    redis.call('HSET', PLACES, unpack(owners))
  end
end

-- From now on a number of the lost epoch that is not live has ended, or any number up to the last, if
-- places of earlier epochs had had their time to return. Nobody waits for tokens any more.
-- `settled_at` stays: a change that no copy saw may let an order grow once.
local function finish()
  if lost_last > lost_epoch then
    redis.call('ZADD', KNOWN, int(lost_last), int(lost_epoch) .. '-' .. int(lost_last))
  end
  if settled == '1' and lost_last > room.certain then
    set('certain', lost_last)
  end
  healing.handed_epoch, healing.handed_seq = lost_epoch, lost_seq
  set('healed', room.epoch)
  if room.grace_until > now then
    set('grace_until', now)
  end
end

for i = FIRST_ENDED, FIRST_ADMITTED - 1, 3 do
  if ARGV[i + 1] == '0' then
    end_by_rules(ARGV[i])
  else
    leave(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
end
read_healing()
local granted, done, retry_after = false, false, 500 -- ms
-- A number of the current epoch would be given twice; the caller will have remembered it by then.
if lost_epoch < room.epoch and lost_last <= room.epoch then
  done = not is_ahead_of(healing.handed_epoch, healing.handed_seq)
  -- Scripts of the version before do not know places without an owner.
  local is_mixed = room.unrecorded_at > 0 and now - room.unrecorded_at < MIXED
  granted = not done and not is_mixed and is_granted()
  if granted then
    for i = FIRST_ADMITTED, FIRST_WAITING - 1, 4 do
      give_back_admission(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3] == '1')
    end
    if FIRST_WAITING <= #ARGV then
      give_back_waiting()
    end
    if all_given == '1' then
      finish()
      done = true
    end
  end
  if granted or done then
    retry_after = 0
  elseif now < healing.bids_until then
    retry_after = healing.bids_until - now
  end
  write_healing()
end
step()
return reply({
  'granted', granted and 1 or 0, 'done', done and 1 or 0, 'retry_after', retry_after,
})
