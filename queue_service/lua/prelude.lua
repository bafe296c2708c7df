
-- Precedes each script, after log.lua: the epoch of the room, its line, its admissions.

-- Whether a caller has seen more of the room than Redis has now. A fail-over to a replica and back
-- may cause that without another replication id, if no script ran meanwhile.
local function is_behind()
  return remembered.last > room.last
    or remembered.epoch > room.epoch
    or (remembered.epoch == room.epoch and remembered.seq > room.seq)
end

local function open_room()
  -- Takes 4 µs, and no connection, replica or fail-over can bypass it. The replication id changes
  -- at each start and each promotion, and on a running master when its first replica attaches or,
  -- repl-backlog-ttl after the last one left, the backlog is freed: then an epoch begins without
  -- need: a line admits no newcomer until a gateway has handed the room back (about 2 s), or for one
  -- grace period if none lives. The run id would not do: it stays the same when a fail-over goes
  -- back to a master that meanwhile copied an older state.
  -- On a replica nothing matches, and the first write below fails with READONLY: no answer comes
  -- from data that may be old.
  local replid = replication_id()
  local stored = redis.call('HMGET', STATE, 'replid', 'shape', 'definition', unpack(FIELDS))
  for i, field in ipairs(FIELDS) do
    room[field] = tonumber(stored[i + 3] or 0)
  end
  local survived = room.epoch > 0
  if survived then
    find_unrecorded(stored[2])
  end
  take_definition(stored[3])
  if stored[1] == replid and not is_behind() then
    return
  end
  -- Redis restarted or failed over and may have lost its last writes, or everything. A new epoch
  -- begins.
  local last = room.last
  local unsafe = room.grace_until > room.heard_at -- an earlier grace period has not ended
  if survived then
    if last > room.epoch then
      redis.call('ZADD', KNOWN, int(last), int(room.epoch) .. '-' .. int(last))
    end
  elseif not definition then
    for _, limit in ipairs(LIMITS) do
      room[limit] = nil -- so that 0 is written, too
      set(limit, remembered[limit])
    end
  end
  -- The next millisecond: numbers of this one may have been assigned before the loss.
  local epoch = math.max(
    number_at(now + 1), last + 1, remembered.last + 1, room.epoch + 1, remembered.epoch + 1)
  redis.call('HSET', STATE, 'replid', replid)
  begin_log()
  set('epoch', epoch)
  set('last', epoch)
  -- Places up to `last` survived and stand in front of all lost ones: they need not wait.
  if not unsafe then
    set('safe', last)
  end
  set('resumed_at', now)
  set('heard_at', now)
  -- If the caller does not know the room, this is most likely the first start, and nobody has to
  -- wait: the grace period begins when a lost place returns (restore) or a caller remembers the
  -- room (hand_over). If a line or a full shop survived, new users have to wait anyway.
  local crowded = survived
    and (redis.call('ZCARD', WAITING) > 0
      or redis.call('ZCOUNT', ADMITTED, '(' .. int(now), '+inf') >= room.capacity)
  set('grace_until', (remembered.last > 0 or unsafe or crowded) and now + grace or 0)
  set('settled_at', room.grace_until)
  if not survived and remembered.last == 0 then
    set('blind', epoch)
  end
end

-- The room was opened by a guess, and this caller remembers it: restores its limits, except those
-- set meanwhile, and begins the grace period.
local function hand_over()
  if remembered.last == 0 or remembered.last >= room.blind then
    return
  end
  for _, limit in ipairs(LIMITS) do
    if not definition and redis.call('HEXISTS', STATE, 'told_' .. limit) == 0 then
      set(limit, remembered[limit])
    end
  end
  set('blind', 0)
  if room.healed == room.epoch then
    return
  end
  set('safe', 0)
  set('grace_until', now + grace)
  set('settled_at', now + grace)
end

local function hear()
  if now - room.heard_at > grace then
    set('resumed_at', now)
  end
  if now - room.heard_at >= NOTE_AFTER then
    set('heard_at', now)
  end
end

local function owner_of(place) -- user, last seen, epoch or ''; nil if it is not live
  local record = redis.call('HGET', PLACES, place)
  if not record then
    return nil
  end
  local user, seen, epoch = string.match(record, '^(%d+):(%d+):?(%d*)$')
  return user, tonumber(seen), epoch
end

local function see(place, user, seen, epoch)
  if now - seen >= seen_resolution then
    local suffix = epoch ~= '' and ':' .. epoch or ''
    redis.call('HSET', PLACES, place, user .. ':' .. int(now) .. suffix)
  end
end

local function range_of(place) -- the epoch of a number that survived its epoch, or nil
  local range = redis.call('ZRANGEBYSCORE', KNOWN, place, '+inf', 'LIMIT', 0, 1)[1]
  local first = range and string.match(range, '^(%d+)-')
  return first and tonumber(place) > tonumber(first) and first or nil
end

local function epoch_of(place, recorded)
  if recorded ~= '' then
    return tonumber(recorded)
  end
  if tonumber(place) > room.epoch then
    return room.epoch
  end
  return tonumber(range_of(place) or 0)
end

-- Whether it is unknown what became of a place that is not live: lost, or ended unnoticed.
local function is_unknown(place)
  return tonumber(place) > room.certain
    and tonumber(place) <= room.epoch
    and not range_of(place)
    and not redis.call('ZSCORE', ENDED, place)
end

-- Whether a place that is not live was lost, rather than ended, and may return. `issued_at` is when
-- its token was issued, ms; 0 or nil: when the place was given.
local function is_lost(place, issued_at)
  local newest = math.max(tonumber(place), number_at(issued_at or 0))
  return newest > number_at(now - heal_within) and is_unknown(place)
end

-- All tokens of a place were issued before it ended. So the note is needed for heal_within from now,
-- however old the place is.
local function note_end(place)
  redis.call('ZADD', ENDED, int(number_at(now)), place)
  note('E', place)
end

local function end_place(place)
  local user = owner_of(place)
  if user then
    redis.call('HDEL', PLACES, place)
    redis.call('HDEL', USERS, user)
    count.waiting = count.waiting - redis.call('ZREM', WAITING, place)
    count.admitted = count.admitted - redis.call('ZREM', ADMITTED, place)
    count.unclaimed = count.unclaimed - redis.call('SREM', UNCLAIMED, place)
    redis.call('ZREM', RESTORED, place)
    note('E', place)
  end
  if is_unknown(place) then
    note_end(place)
  end
end

-- A user gets a new place only when the room has none of theirs. So a newer place proves that an
-- older one had ended, unless the older one was lost when the newer one was given, in `newer_epoch`.

-- Whether a newer place proves that a live place had ended. A restored place had been lost until
-- the epoch in which it was restored. An unknown epoch (0) proves nothing about those.
local function live_had_ended(older, newer_epoch)
  local restored_in = tonumber(redis.call('ZSCORE', RESTORED, older) or 0)
  return restored_in <= newer_epoch or (newer_epoch > 0 and tonumber(older) > newer_epoch)
end

-- Whether a user's live place proves that an older one, which is lost now, had ended.
local function lost_had_ended(older, live)
  local _, _, recorded = owner_of(live)
  return tonumber(older) > epoch_of(live, recorded)
end

-- Whether a lost place that is shown stays, rather than the user's live one. If neither proves that
-- the other had ended, the older one stays, unless the newer one is admitted.
local function lost_one_stays(place, epoch, live)
  if tonumber(live) < tonumber(place) then
    return live_had_ended(live, tonumber(epoch))
  end
  return not lost_had_ended(place, live) and redis.call('ZSCORE', WAITING, live) ~= false
end

local function join_line(place)
  local score = definition and score_of(place) or place
  count.waiting = count.waiting + redis.call('ZADD', WAITING, score, place)
  note('J', place)
end

-- Whether a place that returns stays, rather than the user's live one, which ends then.
local function prevails(place, user, epoch)
  local live = redis.call('HGET', USERS, user)
  if live and live ~= place then
    if not lost_one_stays(place, epoch, live) then
      return false
    end
    end_place(live)
  end
  return true
end

-- `by_copy`: a copy of the room has handed it back. Its owner did not bring it back, so its epoch in
-- RESTORED is half a number less (end_by_rules in hand_back.lua).
local function note_owner(place, user, epoch, by_copy)
  redis.call('HSET', USERS, user, place)
  redis.call('HSET', PLACES, place, user .. ':' .. int(now) .. ':' .. epoch)
  redis.call(
    'ZADD', RESTORED, string.format('%.1f', by_copy and room.epoch - 0.5 or room.epoch), place)
  local until_ms = redis.call('ZSCORE', ADMITTED, place)
  if until_ms then -- admitted while its owner was unknown, who could not claim it
    note('A', place, tonumber(until_ms), user)
  end
end

-- Restores a lost place at its number, unless the user has a live one that stays.
local function restore(place, user, epoch)
  if definition and lacks_rank(place) then
    return
  end
  if not prevails(place, user, epoch) then
    note_end(place)
    return
  end
  join_line(place)
  note_owner(place, user, epoch)
  -- If one place was lost, others were, too, unless all that a copy knew was handed back.
  if room.healed ~= room.epoch and room.resumed_at + grace > math.max(now, room.grace_until) then
    set('grace_until', room.resumed_at + grace)
  end
  if room.settled_at < now + grace - NOTE_AFTER then
    set('settled_at', now + grace)
  end
end

-- The owner of a place that was handed back shows its token for the first time.
local function adopt(place, user, epoch)
  if prevails(place, user, epoch) then
    note_owner(place, user, epoch, true)
  else
    end_place(place)
  end
end

-- Whether a place with this owner may be the place of the user who shows its token: it is theirs, it
-- is not live, or its owner is not known yet.
local function may_be_of(owner, user)
  return owner == nil or owner == user or owner == UNKNOWN_OWNER
end

-- Takes a poll of a place for a sign of life, or restores the place if it was lost. Returns whether
-- it may be the place of this user.
local function poll(place, user, epoch, issued_at)
  local owner, seen, recorded = owner_of(place)
  if owner == user then
    see(place, user, seen, recorded)
  elseif owner == UNKNOWN_OWNER then
    adopt(place, user, epoch)
  elseif not owner and is_lost(place, issued_at) then
    restore(place, user, epoch)
  end
  return may_be_of(owner, user)
end

-- Ends a place that its user leaves or has paid for; no-op for another user's place. Epoch 0:
-- unknown.
local function leave(place, user, epoch)
  local owner = owner_of(place)
  if owner == UNKNOWN_OWNER or (not owner and is_unknown(place)) then
    -- The end of an older place may have been lost with this one.
    local live = redis.call('HGET', USERS, user)
    if live and tonumber(live) < tonumber(place) and live_had_ended(live, tonumber(epoch)) then
      end_place(live)
    end
  end
  if may_be_of(owner, user) then
    end_place(place)
  end
end

-- Sets the end of an admission. `kind` is C if the owner knows of it, otherwise A (log.lua).
local function let_in(place, until_ms, kind, user)
  count.admitted = count.admitted + redis.call('ZADD', ADMITTED, int(until_ms), place)
  note(kind, place, until_ms, user)
end

local function admit(place, until_ms, kind, user)
  let_in(place, until_ms, kind, user)
  admissions = admissions + 1
  if definition then
    spend_admission(place)
  end
end

local function free_slots()
  return is_bypassed and math.huge or room.capacity - count.admitted
end

-- A bypassed room admits everybody: there is no order to keep for those who were lost.
local function is_graced()
  return now < room.grace_until and not is_bypassed
end

-- In how many ms a step may admit somebody from the line; 0 if it has admitted fewer than it may;
-- PACE_WINDOW if that depends on something else.
local function line_due_in()
  if not admits or is_graced() or count.waiting == 0 or free_slots() <= 0 then
    return PACE_WINDOW
  end
  if definition and is_drawing() and not is_bypassed
    and redis.call('ZCOUNT', WAITING, '-inf', int(room.drawn)) == 0
  then
    return PACE_WINDOW
  end
  return definition and wait_for_allowance() or 0
end

-- Ends expired admissions and gives the free slots to the line.
local function step()
  -- If no place polls at all, the connection is broken rather than everybody absent: admits nobody,
  -- skips nobody as absent, and extends the claim windows.
  local silent = now - room.heard_at > grace
  local back = silent and now or room.resumed_at
  local lapsed = redis.call('ZRANGEBYSCORE', ADMITTED, '-inf', int(now), 'LIMIT', 0, MAX_STEP)
  for _, place in ipairs(lapsed) do
    if back + claim_window > now and redis.call('SISMEMBER', UNCLAIMED, place) == 1 then
      let_in(place, back + claim_window, 'A', owner_of(place))
    else
      end_place(place)
    end
  end
  if not admits or silent then
    return
  end
  local free, from_line = free_slots(), 0
  for _ = 1, MAX_STEP do
    if free <= 0 or count.waiting == 0 or (definition and wait_for_allowance() > 0) then
      break
    end
    local place, score = unpack(redis.call('ZRANGE', WAITING, 0, 0, 'WITHSCORES'))
    if not place
      -- A lost place may stand in front of this one; in a draw, any place of the cohort may.
      or (is_graced() and (tonumber(place) > room.safe
        or (definition and definition.is_draw and room.safe < room.cohort_last)))
      or (definition and is_drawing() and not is_bypassed and tonumber(score) > room.drawn)
    then
      break
    end
    local user, seen = owner_of(place)
    if now - math.max(seen, room.resumed_at) > absent_after then
      end_place(place)
    else
      count.waiting = count.waiting - redis.call('ZREM', WAITING, place)
      count.unclaimed = count.unclaimed + redis.call('SADD', UNCLAIMED, place)
      admit(place, now + claim_window, 'A', user)
      free, from_line = free - 1, from_line + 1
    end
  end
  if from_line > 0 then
    if now - room.pace_at >= PACE_WINDOW then
      set('pace_before', now - room.pace_at < 2 * PACE_WINDOW and room.pace_now or 0)
      set('pace_now', 0)
      set('pace_at', now)
    end
    set('pace_now', room.pace_now + from_line)
  end
end

-- Where a place stands: its state, its order (0 unless it waits; before the opening how many wait)
-- and the end of its admission (0 unless it is admitted). Called when its owner asks: if the place was just admitted, its
-- claim window ends and its admission begins.
local function claim(place, user)
  local rank = redis.call('ZRANK', WAITING, place)
  if rank then
    local is_undrawn = definition and is_drawing() and tonumber(place) <= room.cohort_last
      and tonumber(redis.call('ZSCORE', WAITING, place)) > room.drawn
    if not is_ordered then
      return 'waiting', count.waiting, 0
    elseif is_undrawn then
      -- No order will be greater, and those who come later do not make it grow.
      return 'undrawn', redis.call('ZCOUNT', WAITING, '-inf', int(room.cohort_last)), 0
    end
    return 'waiting', rank + 1, 0
  end
  local until_ms = tonumber(redis.call('ZSCORE', ADMITTED, place) or 0)
  if until_ms <= now then
    return 'ended', 0, 0
  end
  if redis.call('SREM', UNCLAIMED, place) == 1 then
    count.unclaimed = count.unclaimed - 1
    until_ms = now + admission_ttl
    let_in(place, until_ms, 'C', user)
  end
  return 'admitted', 0, until_ms
end

-- Ends every script, and returns its reply: name, value, name, value and so on. `items` is such a list too, with
-- one list of values per name, so that each name is sent once however many items there are.
local function reply(items)
  save()
  return {
    'now', now,
    'epoch', room.epoch,
    'seq', room.seq,
    'last', room.last,
    'blind', room.blind,
    'capacity', room.capacity,
    'max_waiting', room.max_waiting,
    'paused', room.paused,
    'grace_until', room.grace_until,
    'settled_at', room.settled_at,
    'pace_at', room.pace_at,
    'pace_now', room.pace_now,
    'pace_before', room.pace_before,
    'unrecorded_at', room.unrecorded_at,
    'waiting', count.waiting,
    'admitted', count.admitted,
    'admissions', admissions,
    -- A step that reached its limit leaves work.
    'due_in', math.min(line_due_in(), due_in or PACE_WINDOW),
    'items', items or {},
    'unranked', unranked,
    definition and 'definition', definition and described_definition(),
  }
end

open_room()
hand_over()
begin_phase()
