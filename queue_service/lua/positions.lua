-- Returns where each place stands. Arguments: place, user, epoch and issue of its token (ms) of
-- each.
hear()
local owned = {}
for i = FIRST_ARGUMENT, #ARGV, 4 do
  local place, user, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner, seen, recorded = owner_of(place)
  if owner == user then
    see(place, user, seen, recorded)
  elseif owner == UNKNOWN_OWNER then
    adopt(place, user, epoch)
  elseif not owner and is_lost(place, tonumber(ARGV[i + 3])) then
    restore(place, user, epoch)
  end
  owned[i] = may_be_of(owner, user)
end
step()
local states, orders, ends = {}, {}, {}
for i = FIRST_ARGUMENT, #ARGV, 4 do
  local state, order, until_ms = 'ended', 0, 0
  if owned[i] then
    state, order, until_ms = claim(ARGV[i])
  end
  local n = #states + 1
  states[n], orders[n], ends[n] = state, order, until_ms
end
return reply({ 'state', states, 'order', orders, 'admitted_until', ends })
