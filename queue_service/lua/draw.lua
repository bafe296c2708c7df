-- Gives the next ranks of the draw to the places of the cohort, as far as they wait: they stand in front
-- of all who have none. Arguments: the first rank, from 0; then the places in the order of their ranks.
-- A rank that was given before changes nothing. So any replica may run any step, also twice.
local first = tonumber(ARGV[FIRST_ARGUMENT])
local FIRST_PLACE = FIRST_ARGUMENT + 1
local size = tonumber(string.match(ARGV[DRAW_ARGUMENT], '^%d+'))

if definition and definition.is_draw and room.cohort_last > 0
  and first <= room.drawn and is_drawing()
then
  set('cohort_size', size)
  local scores = {}
  for i = FIRST_PLACE + room.drawn - first, #ARGV do
    scores[#scores + 1] = first + i - FIRST_PLACE + 1
    scores[#scores + 1] = ARGV[i]
  end
  if #scores > 0 then
    redis.call('ZADD', WAITING, 'XX', unpack(scores))
    set('drawn', room.drawn + #scores / 2)
  elseif size == 0 then
    set('drawn', 1)
  end
end
step()
return reply()
