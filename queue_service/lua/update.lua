-- Changes limits of the room, unless it has a definition. Arguments: name and value of each.
if not definition then
  for i = FIRST_ARGUMENT, #ARGV, 2 do
    set(ARGV[i], tonumber(ARGV[i + 1]))
    redis.call('HSET', STATE, 'told_' .. ARGV[i], 1)
  end
  begin_phase()
end
step()
return reply({ 'is_defined', definition and 1 or 0 })
