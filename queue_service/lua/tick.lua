-- What happens without anybody asking; run several times a second, so that little is left to do.
step()
-- Nobody may come back from so far ago: what is kept about them can go.
for _, key in ipairs({ ENDED, KNOWN }) do
  local old = redis.call(
    'ZRANGEBYSCORE', key, '-inf', int(number_at(now - heal_within)), 'LIMIT', 0, MAX_STEP)
  if #old > 0 then
    redis.call('ZREM', key, unpack(old))
  end
end
return reply()
