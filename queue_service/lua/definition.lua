
-- Precedes each script, after keys.lua: what an operator has defined of the room, its phase, and how
-- many are admitted in a minute.
--
-- The field `definition` of STATE is the text of queue_service/definition.py, or only a version if a
-- definition was removed, or absent. Each call brings what its replica knows, and the newest version
-- stays: so a room whose data was lost has its times again before anything else happens.

local MODE_PAUSED, MODE_DRAINING, MODE_BYPASSED = 2, 3, 4
local DRAW_FIELDS = { 'cohort_last', 'drawn', 'cohort_size' }
-- A tick that comes later than an admission was allowed makes up for at most this, ms.
local LATE = 250

local definition_text = ''
local definition -- nil: there is none
local phase, admits, gives_places, is_bypassed, is_ordered

local function version_of(text)
  return tonumber(string.match(text, '^%d+') or 0)
end

local function read_definition(text)
  definition_text = text
  local version, capacity, max_waiting, per_minute, mode, is_draw,
    gather_from, gather_until, opens_at, closes_at = string.match(
    text, '^(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+)$')
  if not version then
    return
  end
  definition = {
    capacity = tonumber(capacity),
    max_waiting = tonumber(max_waiting),
    paused = tonumber(mode) == MODE_PAUSED and 1 or 0,
    per_minute = tonumber(per_minute),
    mode = tonumber(mode),
    is_draw = is_draw == '1',
    gather_from = tonumber(gather_from),
    gather_until = tonumber(gather_until),
    opens_at = tonumber(opens_at),
    closes_at = tonumber(closes_at),
  }
  if definition.is_draw then
    for i, value in ipairs(redis.call('HMGET', STATE, unpack(DRAW_FIELDS))) do
      room[DRAW_FIELDS[i]] = tonumber(value or 0)
    end
  end
  if definition.per_minute > 0 then
    room.next_at = tonumber(redis.call('HGET', STATE, 'next_at') or 0)
  end
end

-- Takes the definition of the caller if it is newer than the stored one (false: none).
local function take_definition(stored)
  local known = ARGV[DEFINITION_ARGUMENT]
  if known == '' and not stored then
    return
  elseif known == stored then
    read_definition(stored)
  elseif version_of(known) <= version_of(stored or '') then
    read_definition(stored)
  else
    read_definition(known)
    unsaved.definition = known
    redis.call('PERSIST', STATE) -- the room had been removed
    for _, limit in ipairs(LIMITS) do
      set(limit, definition[limit])
    end
  end
end

-- As in room_view/phase.py.
local function phase_of()
  if not definition then
    return room.paused == 1 and 'paused' or 'open'
  elseif definition.closes_at > 0 and now >= definition.closes_at then
    return 'closed'
  elseif definition.mode == MODE_BYPASSED then
    return 'bypassed'
  elseif definition.mode == MODE_DRAINING then
    return 'draining'
  elseif now < definition.gather_from then
    return 'not_open'
  elseif definition.mode == MODE_PAUSED then
    return 'paused'
  elseif now < definition.opens_at then
    return 'gathering'
  end
  return 'open'
end

-- Whether the draw has not reached every place of the cohort. Admits drawn places only, then. The
-- draw of an empty cohort is over with the first rank, which nobody has.
local function is_drawing()
  return definition and definition.is_draw and room.drawn < math.max(1, room.cohort_size)
end

-- Closes the gathering of a draw. Every number that is given from that time on is greater than
-- `cohort_last`, also after a loss.
local function begin_draw()
  local closes_at = definition.gather_until > 0 and definition.gather_until or definition.opens_at
  set('cohort_last', now >= closes_at and number_at(closes_at) - 1 or 0)
  local size = string.match(ARGV[DRAW_ARGUMENT], '^%d+')
  if size and count.waiting == 0 and room.cohort_last > 0 and is_drawing() then
    -- Nobody is there to be drawn: nobody has come, or all were lost and return at their ranks.
    set('cohort_size', tonumber(size))
    set('drawn', math.max(1, room.cohort_size))
  end
end

local function begin_phase()
  if definition and definition.is_draw then
    begin_draw()
  end
  phase = phase_of()
  is_bypassed = phase == 'bypassed'
  admits = is_bypassed or phase == 'open'
  gives_places = admits or phase == 'gathering'
  is_ordered = not definition or is_bypassed or now >= definition.opens_at
end

-- The generic cell rate algorithm, in microseconds: admissions of a minute are spread evenly over it.

local function is_capped()
  return definition and definition.per_minute > 0 and not is_bypassed
end

local function interval()
  return math.ceil(60000000 / definition.per_minute)
end

-- How long no admission is allowed, ms.
local function wait_for_allowance()
  if not is_capped() then
    return 0
  end
  -- More than one interval ahead: the clock was set back, or the limit was raised.
  local next_at = math.min(room.next_at, now * 1000 + interval())
  return math.max(0, math.ceil(next_at / 1000 - now))
end

-- Counts the admission of a place that has waited for one since `since`, ms.
local function spend_admission(since)
  if is_capped() then
    local begins = math.max(since, definition.opens_at, now - LATE) * 1000
    local next_at = math.min(room.next_at, now * 1000 + interval())
    set('next_at', math.max(next_at, begins) + interval())
  end
end
