-- Gives each user a place, or the one it has; `full`, `paused`, `not_open`, `limited`, `unsolved` or
-- `foreign` if it gets none. Arguments: the time that restores one place of a source's allowance (0: no limit) and the
-- time that restores all of it, in ms, and how many sources to remember; then for each user its id,
-- its source, the solution of its challenge, when that expires (ms), 1 if it gets no new place
-- because it solved none, and its proof: empty if it gets its live place without one, otherwise
-- "place:attempt", the place that it has proved and the name of this attempt to enter.
local interval, window = tonumber(ARGV[FIRST_ARGUMENT]), tonumber(ARGV[FIRST_ARGUMENT + 1])
local max_sources = tonumber(ARGV[FIRST_ARGUMENT + 2])
local FIRST_USER, WIDTH = FIRST_ARGUMENT + 3, 6
local REPEATABLE = 60000 -- how long an attempt can be repeated, ms

-- The generic cell rate algorithm: counts one new place, unless the allowance is used up.
local function spend_allowance(source)
  if interval == 0 or source == '' then
    return true
  end
  local restored = tonumber(redis.call('ZSCORE', SOURCES, source) or 0)
  if restored > now + window then
    restored = 0 -- the clock was set back
  end
  restored = math.max(restored, now) + interval
  if restored > now + window then
    return false
  end
  redis.call('ZADD', SOURCES, int(restored), source)
  if redis.call('ZCARD', SOURCES) > max_sources then
    redis.call('ZPOPMIN', SOURCES) -- the one with the most allowance left
  end
  return true
end

local function is_spent(solution)
  return solution ~= '' and redis.call('ZSCORE', SOLUTIONS, solution)
end

-- Whether a live place is handed out again.
local function is_proved(place, proof)
  if proof == '' then
    return true
  end
  local proven, attempt = string.match(proof, '^(%-?%d+):(.*)$')
  return proven == place
    or (attempt ~= '' and redis.call('ZSCORE', ATTEMPTS, place .. ':' .. attempt) ~= false)
end

-- A repeat of this attempt, whose reply was lost, gets the place that the attempt was given.
local function note_attempt(place, proof)
  local attempt = string.match(proof, '^%-?%d+:(.+)$')
  if attempt then
    redis.call('ZADD', ATTEMPTS, int(now + REPEATABLE), place .. ':' .. attempt)
  end
end

hear()
for i = FIRST_USER, #ARGV, WIDTH do -- first, so that a user who asks now does not count as absent
  local place = redis.call('HGET', USERS, ARGV[i])
  if place and is_proved(place, ARGV[i + 5]) then
    see(place, owner_of(place))
  end
end
step()
local states, orders, ends, places, epochs = {}, {}, {}, {}, {}
local free = admits and not is_graced() and free_slots() or 0
for i = FIRST_USER, #ARGV, WIDTH do
  local user, source, solution = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local place = redis.call('HGET', USERS, user)
  local state, order, until_ms, epoch = nil, 0, 0, 0
  if place and not is_proved(place, ARGV[i + 5]) then
    state, place = 'foreign', nil
  elseif place then
    local _, _, recorded = owner_of(place)
    epoch = epoch_of(place, recorded)
  else
    local at_once = free > 0 and (is_bypassed or (count.waiting == 0
      and not (definition and (is_drawing() or wait_for_allowance() > 0))))
    if phase == 'not_open' then
      state = 'not_open'
    elseif not gives_places then
      state = 'paused'
    elseif not at_once and count.waiting >= room.max_waiting then
      state = 'full'
    elseif ARGV[i + 4] == '1' or is_spent(solution) then
      state = 'unsolved'
    elseif not spend_allowance(source) then
      state = 'limited'
    else
      if solution ~= '' then
        redis.call('ZADD', SOLUTIONS, ARGV[i + 3], solution)
      end
      set('last', math.max(room.last + 1, number_at(now)))
      place, epoch = int(room.last), room.epoch
      note_attempt(place, ARGV[i + 5])
      redis.call('HSET', USERS, user, place)
      redis.call('HSET', PLACES, place, user .. ':' .. int(now))
      if at_once then
        admit(place, now + admission_ttl, 'C', user)
        free = free - 1
      else
        join_line(place)
      end
    end
  end
  if not state then
    state, order, until_ms = claim(place, user)
  end
  local n = #states + 1
  states[n], orders[n], ends[n] = state, order, until_ms
  places[n], epochs[n] = tonumber(place or 0), epoch
end
return reply({
  'state', states, 'order', orders, 'admitted_until', ends, 'place', places, 'epoch', epochs,
})
