-- Expires admissions and admits from the line without a request; runs at least once per second, so
-- that each run has little to do. Arguments: how many ms of the log stay, and at most how many
-- bytes.
step()
-- Tokens issued this long ago restore no place: delete what was kept to refuse them. KNOWN stays, one
-- entry for each restart of Redis: a place in an old range may have ended just now.
local old = redis.call(
  'ZRANGEBYSCORE', ENDED, '-inf', int(number_at(now - heal_within)), 'LIMIT', 0, MAX_STEP)
if #old > 0 then
  redis.call('ZREM', ENDED, unpack(old))
end
-- end_place removes its entry of RESTORED, but the version before, beside this one, does not. A sample
-- is enough: such an entry decides nothing and costs only its bytes.
local sample = redis.call('ZRANDMEMBER', RESTORED, 16)
if #sample > 0 then
  local records = redis.call('HMGET', PLACES, unpack(sample))
  for i, place in ipairs(sample) do
    if not records[i] then
      redis.call('ZREM', RESTORED, place)
    end
  end
end
-- Restored allowances, expired solutions and attempts decide nothing any more.
for _, key in ipairs({ SOURCES, SOLUTIONS, ATTEMPTS }) do
  local past = redis.call('ZRANGEBYSCORE', key, '-inf', int(now), 'LIMIT', 0, MAX_STEP)
  if #past > 0 then
    redis.call('ZREM', key, unpack(past))
  end
end
trim(tonumber(ARGV[FIRST_ARGUMENT]), tonumber(ARGV[FIRST_ARGUMENT + 1]))

-- Until then only another script has something to do, and does it itself.
local first = redis.call('ZRANGE', ADMITTED, 0, 0, 'WITHSCORES')[2]
due_in = math.max(0, first and tonumber(first) - now or PACE_WINDOW)
if is_graced() then
  due_in = math.min(due_in, room.grace_until - now)
end
if not is_ordered and count.waiting > 0 then
  due_in = math.min(due_in, definition.opens_at - now)
end
return reply()
