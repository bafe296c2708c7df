-- Ends places; no-op for another user's place. Arguments: place, user and epoch of each, 0 if the
-- epoch is unknown.
for i = FIRST_ARGUMENT, #ARGV, 3 do
  local place, user, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2]
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
end
step()
return reply()
