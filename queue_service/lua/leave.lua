-- Ends places; no-op for another user's place. Arguments: place, user and epoch of each, 0 if the
-- epoch is unknown.
for i = FIRST_ARGUMENT, #ARGV, 3 do
  leave(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
step()
return reply()
