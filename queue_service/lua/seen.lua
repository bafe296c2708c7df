-- Takes signs of life of places that were answered without a call, and tells how far the log is.
-- Always writes, so that it fails at a server that is no master any more. Arguments: 1 if somebody
-- polled, whoever it was; place, user, epoch and issue of its token (ms) of each.
set('beat', now)
if ARGV[FIRST_ARGUMENT] == '1' then
  hear()
end
for i = FIRST_ARGUMENT + 1, #ARGV, 4 do
  poll(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]))
end
step()
return reply()
