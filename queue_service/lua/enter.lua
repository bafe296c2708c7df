-- Gives each user (the arguments) a place, or the one it has; `full` or `paused` if it gets none.
hear()
for i = FIRST_ARGUMENT, #ARGV do -- first, so that a user who asks now does not count as absent
  local place = redis.call('HGET', USERS, ARGV[i])
  if place then
    see(place, owner_of(place))
  end
end
step()
local states, orders, ends, places, epochs = {}, {}, {}, {}, {}
local free = (room.paused == 0 and now >= room.grace_until) and free_slots() or 0
for i = FIRST_ARGUMENT, #ARGV do
  local user = ARGV[i]
  local place = redis.call('HGET', USERS, user)
  local state, order, until_ms, epoch = nil, 0, 0, 0
  if place then
    local _, _, recorded = owner_of(place)
    epoch = epoch_of(place, recorded)
  else
    local waiting = redis.call('ZCARD', WAITING)
    local at_once = free > 0 and waiting == 0
    if room.paused == 1 then
      state = 'paused'
    elseif not at_once and waiting >= room.max_waiting then
      state = 'full'
    else
      set('last', math.max(room.last + 1, number_at(now)))
      place, epoch = int(room.last), room.epoch
      redis.call('HSET', USERS, user, place)
      redis.call('HSET', PLACES, place, user .. ':' .. int(now))
      if at_once then
        admit(place, now + admission_ttl)
        free = free - 1
      else
        redis.call('ZADD', WAITING, place, place)
      end
    end
  end
  if not state then
    state, order, until_ms = claim(place)
  end
  local n = #states + 1
  states[n], orders[n], ends[n] = state, order, until_ms
  places[n], epochs[n] = tonumber(place or 0), epoch
end
return reply({
  'state', states, 'order', orders, 'admitted_until', ends, 'place', places, 'epoch', epochs,
})
