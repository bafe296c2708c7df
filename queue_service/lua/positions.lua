-- Returns where each place stands. Arguments: place, user, epoch and issue of its token (ms) of
-- each.
hear()
local owned = {}
for i = FIRST_ARGUMENT, #ARGV, 4 do
  owned[i] = poll(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]))
end
step()
local states, orders, ends = {}, {}, {}
for i = FIRST_ARGUMENT, #ARGV, 4 do
  local state, order, until_ms = 'ended', 0, 0
  if owned[i] then
    state, order, until_ms = claim(ARGV[i], ARGV[i + 1])
  end
  local n = #states + 1
  states[n], orders[n], ends[n] = state, order, until_ms
end
return reply({ 'state', states, 'order', orders, 'admitted_until', ends })
