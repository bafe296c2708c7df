"""The SQL of packed seats. CURRENT_DATE is in UTC, as the session's time zone."""

from collections.abc import Sequence
from itertools import groupby

from concert_service.repository import to_seat
from concert_service.seat_map import (
    MappedSchedule,
    MapsOfConcerts,
    PackedLayout,
    PackedSeatMap,
    SeatLayoutTooLarge,
    pack,
    runs_from_text,
    runs_to_text,
)
from servicekit import logs
from servicekit.mysql import Connection, Database, Row

log = logs.get(__name__)

_ASKED = """
SELECT id FROM schedule WHERE id IN %s UNION SELECT schedule_id FROM seat WHERE id IN %s
"""

ASKED_MAPS = f"""
SELECT s.id, s.seat_count, m.layout, m.runs
FROM ({_ASKED}) asked JOIN schedule s ON s.id = asked.id
LEFT JOIN seat_map m ON m.schedule_id = s.id
WHERE s.date >= CURRENT_DATE
"""

MAPS_OF_SAME_CONCERTS = f"""
SELECT s.id, s.seat_count, m.layout, m.runs
FROM (SELECT DISTINCT a.concert_id FROM ({_ASKED}) asked JOIN schedule a ON a.id = asked.id
      WHERE a.date >= CURRENT_DATE) concerts
JOIN schedule s ON s.concert_id = concerts.concert_id
LEFT JOIN seat_map m ON m.schedule_id = s.id
WHERE s.date >= CURRENT_DATE LIMIT %s
"""

LAYOUTS = "SELECT digest, packed FROM seat_layout WHERE digest IN %s"

# Whoever changes seats takes the same locks: see `concert_service.seat_map`.
LOCK_SCHEDULES = "SELECT id FROM schedule WHERE id IN %s ORDER BY id FOR UPDATE"

MAPS = "SELECT schedule_id AS id, layout, runs FROM seat_map WHERE schedule_id IN %s"

SEATS_OF_SCHEDULES = """
SELECT id, schedule_id, seat_num, price, row_name, place, price_category, section, is_accessible
FROM seat WHERE schedule_id IN %s ORDER BY schedule_id, position
"""

# A layout that exists has the same content.
ADD_LAYOUT = """
INSERT INTO seat_layout (digest, packed) VALUES (%s, %s) ON DUPLICATE KEY UPDATE digest = digest
"""

ADD_MAP = "INSERT INTO seat_map (schedule_id, layout, runs) VALUES (%s, %s, %s)"

# No id: `IN ()` is not SQL.
_NONE = (0,)


class SeatMapRepository:
    """Implements `ports.SeatMapStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def maps_of_concerts(
        self, schedule_ids: Sequence[int], seat_ids: Sequence[int], limit: int
    ) -> MapsOfConcerts:
        ids = (tuple(schedule_ids) or _NONE, tuple(seat_ids) or _NONE)
        async with self._database.connection() as connection:
            asked, siblings = await connection.execute_together(
                (ASKED_MAPS, *ids), (MAPS_OF_SAME_CONCERTS, *ids, limit)
            )
        known = {row.id for row in asked.rows}
        return MapsOfConcerts(
            [_mapped(row) for row in asked.rows],
            [_mapped(row) for row in siblings.rows if row.id not in known],
        )

    async def layouts(self, digests: Sequence[bytes]) -> Sequence[PackedLayout]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(LAYOUTS, tuple(digests))
        return [PackedLayout(row.digest, row.packed) for row in rows]

    async def make_maps(self, schedule_ids: Sequence[int]) -> Sequence[PackedSeatMap]:
        async def work(connection: Connection) -> Sequence[PackedSeatMap]:
            return await _make_maps(connection, tuple(schedule_ids))

        return await self._database.run(work)


async def _make_maps(
    connection: Connection, schedule_ids: tuple[int, ...]
) -> Sequence[PackedSeatMap]:
    locked = await connection.fetch_all(LOCK_SCHEDULES, schedule_ids)
    if not locked:
        return []
    # Another caller may have made them while this one waited for the locks.
    maps = [_map(row) for row in await connection.fetch_all(MAPS, schedule_ids)]
    made = {seat_map.schedule_id for seat_map in maps}
    missing = tuple(row.id for row in locked if row.id not in made)
    if not missing:
        return maps
    rows = await connection.fetch_all(SEATS_OF_SCHEDULES, missing)
    rows_by_schedule = {id: list(of) for id, of in groupby(rows, lambda row: int(row.schedule_id))}
    layouts: dict[bytes, PackedLayout] = {}
    new = []
    for id in missing:
        try:
            seat_map, layout = pack(id, [to_seat(row) for row in rows_by_schedule.get(id, ())])
        except SeatLayoutTooLarge as error:
            # The others must not fail for it; the seats of this one are found one by one only.
            log.error("seat_layout_too_large", schedule=id, error=str(error))
            continue
        layouts[layout.digest] = layout
        new.append(seat_map)
    if new:
        await connection.execute_together(
            *((ADD_LAYOUT, digest, layouts[digest].packed) for digest in sorted(layouts)),
            *((ADD_MAP, m.schedule_id, m.layout, runs_to_text(m.runs)) for m in new),
        )
    return maps + new


def _mapped(row: Row) -> MappedSchedule:
    return MappedSchedule(row.id, row.seat_count, None if row.layout is None else _map(row))


def _map(row: Row) -> PackedSeatMap:
    return PackedSeatMap(row.id, row.layout, runs_from_text(row.runs))
