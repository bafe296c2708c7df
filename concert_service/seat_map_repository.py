"""The SQL of packed seats. CURRENT_DATE is in UTC, as the session's time zone."""

from collections.abc import Sequence

from concert_service.repository import to_seat
from concert_service.seat_map import (
    MappedSchedule,
    MapsOfConcerts,
    PackedLayout,
    PackedSeatMap,
    SeatLayoutTooLarge,
    pack_layout,
    runs_from_text,
    runs_of,
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

# To read the seats of each schedule took 20 times as long as to find which ones are the same.
# GROUP_CONCAT cuts a result that is too long, without an error.
_MAX_CONTENT_BYTES = 15_000_000
SET_MAX_LENGTH = f"SET SESSION group_concat_max_len = {_MAX_CONTENT_BYTES}"
CONTENTS = f"""
SELECT schedule_id, ids,
       IF(LENGTH(content) < {_MAX_CONTENT_BYTES}, SHA2(content, 256), schedule_id) AS content
FROM (SELECT schedule_id, GROUP_CONCAT(id ORDER BY position) AS ids,
             GROUP_CONCAT(JSON_ARRAY(seat_num, price, row_name, place, price_category, section,
                                     is_accessible) ORDER BY position) AS content
      FROM seat WHERE schedule_id IN %s GROUP BY schedule_id) contents
"""

SEATS_OF_SCHEDULE = """
SELECT id, schedule_id, seat_num, price, row_name, place, price_category, section, is_accessible
FROM seat WHERE schedule_id = %s ORDER BY position
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
    _, contents = await connection.execute_together((SET_MAX_LENGTH,), (CONTENTS, missing))
    content_of = {row.schedule_id: (row.content, row.ids) for row in contents.rows}
    layouts: dict[str, PackedLayout | None] = {}
    new = []
    for id in missing:
        content, ids = content_of.get(id, ("", ""))  # a schedule without seats
        if content not in layouts:
            layouts[content] = await _pack_layout(connection, id)
        if (layout := layouts[content]) is not None:
            runs = runs_of(map(int, ids.split(","))) if ids else ()
            new.append(PackedSeatMap(id, layout.digest, runs))
    if new:
        packed = {layout.digest: layout.packed for layout in layouts.values() if layout is not None}
        await connection.execute_together(
            *((ADD_LAYOUT, digest, packed[digest]) for digest in sorted(packed)),
            *((ADD_MAP, m.schedule_id, m.layout, runs_to_text(m.runs)) for m in new),
        )
    return maps + new


async def _pack_layout(connection: Connection, schedule_id: int) -> PackedLayout | None:
    rows = await connection.fetch_all(SEATS_OF_SCHEDULE, schedule_id)
    try:
        return pack_layout(schedule_id, [to_seat(row) for row in rows])
    except SeatLayoutTooLarge as error:
        # The schedules that are asked for together with this one must not fail.
        log.error("seat_layout_too_large", schedule=schedule_id, error=str(error))
        return None


def _mapped(row: Row) -> MappedSchedule:
    return MappedSchedule(row.id, row.seat_count, None if row.layout is None else _map(row))


def _map(row: Row) -> PackedSeatMap:
    return PackedSeatMap(row.id, row.layout, runs_from_text(row.runs))
