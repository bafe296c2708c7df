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
return reply()
