-- Where each place stands. Arguments: place, user, epoch, again and again. Items: state, value.
hear()
local theirs = {}
for i = FIRST_ARGUMENT, #ARGV, 3 do
  local place, user, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner, seen, recorded = owner_of(place)
  if owner == user then
    see(place, user, seen, recorded)
  elseif not owner and is_lost(place) then
    restore(place, user, epoch)
  end
  theirs[i] = owner == nil or owner == user
end
step()
local items = {}
for i = FIRST_ARGUMENT, #ARGV, 3 do
  local state, value = HAS_ENDED, 0
  if theirs[i] then
    state, value = show_up(ARGV[i])
  end
  items[#items + 1] = state
  items[#items + 1] = value
end
return reply(items)
