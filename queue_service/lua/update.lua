-- Changes settings of the room. Arguments: name, value, again and again.
for i = FIRST_ARGUMENT, #ARGV, 2 do
  set(ARGV[i], tonumber(ARGV[i + 1]))
  redis.call('HSET', STATE, 'told_' .. ARGV[i], 1)
end
step()
return reply()
