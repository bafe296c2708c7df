-- Ends a place; no-op for another user's place. Arguments: place, user and epoch, 0 if unknown.
local place, user, epoch = ARGV[FIRST_ARGUMENT], ARGV[FIRST_ARGUMENT + 1], ARGV[FIRST_ARGUMENT + 2]
local owner = owner_of(place)
if not owner and is_unknown(place) then
  -- The end of an older place may have been lost with this one.
  local live = redis.call('HGET', USERS, user)
  if live and tonumber(live) < tonumber(place) and live_had_ended(live, tonumber(epoch)) then
    end_place(live)
  end
end
if owner == nil or owner == user then
  end_place(place)
end
step()
return reply()
