-- Ends a place (arguments: place, user); no-op for another user's place.
local place, user = ARGV[FIRST_ARGUMENT], ARGV[FIRST_ARGUMENT + 1]
local owner = owner_of(place)
if owner == nil or owner == user then
  end_place(place)
end
step()
return reply()
