
-- Precedes each script, after keys.lua: what an operator has defined of the room, its phase, its draw,
-- and how many are admitted in a minute.
--
-- The field `definition` of STATE is the text of queue_service/definition.py, or only a version if a
-- definition was removed, or absent. Each call brings what its replica knows, and the newest version
-- stays: so a room whose data was lost has its times again before anything else happens.

local DRAW_FIELDS = { 'cohort_last', 'drawn', 'cohort_size' }

local definition -- nil: there is none
local phase, admits, gives_places, is_bypassed, is_ordered
local unranked = 0 -- places that cannot return, because this replica does not know their ranks yet

-- Only if there is a definition, because to make a function takes time in every call.
local described_definition, phase_of, wait_for_allowance, spend_admission
local is_drawing, begin_draw, lacks_rank, score_of

-- Sets `definition` and the functions, unless the text has only a version.
local function read_definition(text)
  local MODE_PAUSED, MODE_DRAINING, MODE_BYPASSED = 2, 3, 4
  local LATE = 250 -- a tick makes up for at most this, ms

  local version, capacity, max_waiting, per_minute, mode, is_draw,
    gather_from, gather_until, opens_at, closes_at = string.match(
    text, '^(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+)$')
  if not version then
    return
  end
  definition = {
    version = tonumber(version),
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

  described_definition = function() -- as Defined.from_text reads it
    local described = text
    for _, field in ipairs(DRAW_FIELDS) do
      described = described .. ',' .. int(room[field] or 0)
    end
    return described
  end

  phase_of = function() -- as in room_view/phase.py
    if definition.closes_at > 0 and now >= definition.closes_at then
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

  -- The generic cell rate algorithm, in microseconds: admissions of a minute are spread evenly over
  -- it.

  local function interval() -- nil: no limit
    return definition.per_minute > 0 and not is_bypassed
      and math.ceil(60000000 / definition.per_minute) or nil
  end

  local function next_at()
    -- More than one interval ahead: the clock was set back, or the limit was raised.
    return math.min(room.next_at, now * 1000 + interval())
  end

  wait_for_allowance = function() -- how long no admission is allowed, ms
    return interval() and math.max(0, math.ceil(next_at() / 1000 - now)) or 0
  end

  spend_admission = function(place)
    if interval() then
      -- Since when it could have been admitted, ms; a number has the time when it was given.
      local given_at = math.floor(tonumber(place) / 4096) + 1767225600000
      local since = math.max(given_at, definition.opens_at, now - LATE)
      set('next_at', math.max(next_at(), since * 1000) + interval())
    end
  end

  -- Whether the draw has not reached every place of the cohort. Admits drawn places only, then. The
  -- draw of an empty cohort is over with the first rank, which nobody has.
  is_drawing = function()
    return definition.is_draw and room.drawn < math.max(1, room.cohort_size)
  end

  -- Closes the gathering of a draw. Every number that is given from that time on is greater than
  -- `cohort_last`, also after a loss.
  begin_draw = function()
    local closes_at = definition.gather_until > 0 and definition.gather_until or definition.opens_at
    set('cohort_last', now >= closes_at and number_at(closes_at) - 1 or 0)
    if room.cohort_last == 0 then
      -- A room that was removed and defined again before its places were ended.
      set('drawn', 0)
      set('cohort_size', 0)
    end
    local size = string.match(ARGV[DRAW_ARGUMENT], '^%d+')
    if size and count.waiting == 0 and room.cohort_last > 0 and is_drawing() then
      -- Nobody is there to be drawn: nobody has come, or all were lost and return at their ranks.
      set('cohort_size', tonumber(size))
      set('drawn', math.max(1, room.cohort_size))
    end
  end

  -- Whether a place that is to return may have a rank that this replica does not know.
  lacks_rank = function(place)
    local lacks = definition.is_draw and room.drawn > 0
      and tonumber(place) <= room.cohort_last and ARGV[DRAW_ARGUMENT] == ''
    if lacks then
      unranked = unranked + 1
    end
    return lacks
  end

  local ranks -- place -> rank, of the places of this call that are in the cohort

  -- The score that orders the line: ranks, from 1, are below all numbers.
  score_of = function(place)
    if not definition.is_draw or tonumber(place) > room.cohort_last then
      return place
    end
    if not ranks then
      ranks = {}
      for known, rank in string.gmatch(ARGV[DRAW_ARGUMENT], ',(%d+)=(%d+)') do
        ranks[known] = tonumber(rank)
      end
    end
    local rank = ranks[place]
    return rank and rank < room.drawn and rank + 1 or place
  end
end

-- Takes the definition of the caller if it is newer than the stored one (false: none).
local function take_definition(stored)
  local known = ARGV[DEFINITION_ARGUMENT]
  if known == '' and not stored then
    return
  end
  local version_known = tonumber(string.match(known, '^%d+') or 0)
  local version_stored = tonumber(string.match(stored or '', '^%d+') or 0)
  if version_known <= version_stored then
    read_definition(stored)
    return
  end
  read_definition(known)
  unsaved.definition = known
  redis.call('PERSIST', STATE) -- the room had been removed
  for _, limit in ipairs(LIMITS) do
    set(limit, definition[limit])
  end
end

local function begin_phase()
  if definition and definition.is_draw then
    begin_draw()
  end
  phase = definition and phase_of() or room.paused == 1 and 'paused' or 'open'
  is_bypassed = phase == 'bypassed'
  admits = is_bypassed or phase == 'open'
  gives_places = admits or phase == 'gathering'
  is_ordered = not definition or is_bypassed or now >= definition.opens_at
end
