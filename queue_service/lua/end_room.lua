-- Ends a room whose definition was removed: every place that was given has ended, and no copy of the
-- room and no token brings one back. No-op, and returns 0, if the room has a newer definition or none.
-- Without prelude.lua. Arguments: the newest version that was removed; for how long the ends stay
-- known, ms (0: the room goes on by the limits that follow); capacity and max_waiting from now on.
local removed, keep, capacity, max_waiting = unpack(ARGV, FIRST_ARGUMENT, FIRST_ARGUMENT + 3)
local stored, last = unpack(redis.call('HMGET', STATE, 'definition', 'last'))
read_definition(stored or '')
if not definition or definition.version > tonumber(removed) then
  return 0
end
definition = nil
for _, key in ipairs(KEYS) do
  redis.call('UNLINK', key) -- a million places are freed by another thread
end
for _, field in ipairs(FIELDS) do
  room[field] = 0
end
count.waiting, count.admitted, count.unclaimed = 0, 0, 0
begin_log()
set('epoch', math.max(number_at(now + 1), tonumber(last) + 1))
set('last', room.epoch)
set('certain', room.epoch)
set('healed', room.epoch)
set('resumed_at', now)
set('heard_at', now)
set('capacity', tonumber(capacity))
set('max_waiting', tonumber(max_waiting))
unsaved.replid = replication_id()
unsaved.definition = removed -- a replica that does not know yet does not define the room again
save()
if tonumber(keep) > 0 then
  redis.call('UNLINK', CHANGES)
  redis.call('PEXPIRE', STATE, keep)
end
return 1
