-- Changes limits of the room. Arguments: name and value of each.
for i = FIRST_ARGUMENT, #ARGV, 2 do
  set(ARGV[i], tonumber(ARGV[i + 1]))
  redis.call('HSET', STATE, 'told_' .. ARGV[i], 1)
end
step()
return reply()
