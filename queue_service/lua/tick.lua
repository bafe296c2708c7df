-- Expires admissions and admits from the line without a request; runs several times per second,
-- so that each run has little to do.
step()
-- Places this old are not restored: delete what was kept to recognise them.
for _, key in ipairs({ ENDED, KNOWN }) do
  local old = redis.call(
    'ZRANGEBYSCORE', key, '-inf', int(number_at(now - heal_within)), 'LIMIT', 0, MAX_STEP)
  if #old > 0 then
    redis.call('ZREM', key, unpack(old))
  end
end
-- Restored allowances and expired solutions decide nothing any more.
for _, key in ipairs({ SOURCES, SOLUTIONS }) do
  local past = redis.call('ZRANGEBYSCORE', key, '-inf', int(now), 'LIMIT', 0, MAX_STEP)
  if #past > 0 then
    redis.call('ZREM', key, unpack(past))
  end
end
return reply()
