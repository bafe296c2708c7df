-- Gives the next ranks of the draw to the places of the cohort, as far as they wait: they stand in front
-- of all who have none. Arguments: the first rank, from 0; then score (rank, from 1) and place of each,
-- in the order of their ranks. A rank that was given before changes nothing. So any replica may run
-- any step, also twice.
local first = tonumber(ARGV[FIRST_ARGUMENT])
local size = tonumber(string.match(ARGV[DRAW_ARGUMENT], '^%d+'))

if definition and definition.is_draw and room.cohort_last > 0
  and first <= room.drawn and is_drawing()
then
  set('cohort_size', size)
  local FIRST_NEW = FIRST_ARGUMENT + 1 + 2 * (room.drawn - first)
  local places = (#ARGV - FIRST_NEW + 1) / 2
  if places > 0 then
    redis.call('ZADD', WAITING, 'XX', unpack(ARGV, FIRST_NEW))
    set('drawn', room.drawn + places)
  elseif size == 0 then
    set('drawn', 1)
  end
end
-- No step: to admit many takes as long as this, and a tick does it.
return reply()
