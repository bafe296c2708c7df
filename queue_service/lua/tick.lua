-- Expires admissions and admits from the line without a request; runs several times per second,
-- so that each run has little to do.
step()
-- Tokens issued this long ago restore no place: delete what was kept to refuse them. KNOWN stays, one
-- entry for each restart of Redis: a place in an old range may have ended just now.
local old = redis.call(
  'ZRANGEBYSCORE', ENDED, '-inf', int(number_at(now - heal_within)), 'LIMIT', 0, MAX_STEP)
if #old > 0 then
  redis.call('ZREM', ENDED, unpack(old))
end
-- Restored allowances, expired solutions and attempts decide nothing any more.
for _, key in ipairs({ SOURCES, SOLUTIONS, ATTEMPTS }) do
  local past = redis.call('ZRANGEBYSCORE', key, '-inf', int(now), 'LIMIT', 0, MAX_STEP)
  if #past > 0 then
    redis.call('ZREM', key, unpack(past))
  end
end
return reply()
