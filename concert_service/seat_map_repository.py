"""The SQL of packed seats. The session's time zone is UTC."""

import asyncio
from collections.abc import Sequence

from concert_service.repository import FOR_SALE, SEAT_COLUMNS, to_instant, to_seat
from concert_service.seat_map import (
    MappedSchedule,
    MapsOfConcerts,
    PackedLayout,
    PackedSeatMap,
    SaleFacts,
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

_SCHEDULES = """
schedule.id, schedule.concert_id, schedule.seat_count, schedule.sales_from, schedule.sales_until,
concert.room, concert.currency, seat_map.layout, seat_map.runs
"""

ASKED_MAPS = f"""
SELECT {_SCHEDULES}
FROM ({_ASKED}) asked JOIN schedule ON schedule.id = asked.id
    JOIN concert ON concert.id = schedule.concert_id
    LEFT JOIN seat_map ON seat_map.schedule_id = schedule.id
WHERE {FOR_SALE}
"""

MAPS_OF_SAME_CONCERTS = f"""
SELECT {_SCHEDULES}
FROM (SELECT DISTINCT concert_id AS id
      FROM ({_ASKED}) asked JOIN schedule ON schedule.id = asked.id
          JOIN concert ON concert.id = schedule.concert_id
      WHERE {FOR_SALE}) concerts
    JOIN concert ON concert.id = concerts.id
    JOIN schedule ON schedule.concert_id = concert.id
    LEFT JOIN seat_map ON seat_map.schedule_id = schedule.id
WHERE {FOR_SALE} LIMIT %s
"""

LAYOUTS = "SELECT digest, packed FROM seat_layout WHERE digest IN %s"

# Every transaction that changes seats takes the same locks: see `concert_service.seat_map`.
LOCK_SCHEDULES = "SELECT id FROM schedule WHERE id IN %s ORDER BY id FOR UPDATE"

MAPS = "SELECT schedule_id AS id, layout, runs FROM seat_map WHERE schedule_id IN %s"

# Seats that are the same are packed once: comparing the seats of schedules takes a twentieth of the
# time that reading them takes. _PACKING changes with what `pack_layout` makes of the same seats.
# GROUP_CONCAT cuts a result that is too long, without an error: such seats are always packed.
_PACKING = 2
_MAX_SOURCE_BYTES = 15_000_000
SET_MAX_LENGTH = f"SET SESSION group_concat_max_len = {_MAX_SOURCE_BYTES}"
SOURCES = f"""
SELECT schedule_id, ids,
       IF(LENGTH(seats) < {_MAX_SOURCE_BYTES}, UNHEX(SHA2(seats, 256)), NULL) AS source
FROM (SELECT schedule_id, GROUP_CONCAT(id ORDER BY position) AS ids,
             GROUP_CONCAT(JSON_ARRAY({_PACKING}, currency, seat_num, price, row_name, place,
                                     price_category, section, is_accessible, row_rank, is_companion,
                                     is_general_admission, x, y) ORDER BY position) AS seats
      FROM (SELECT seat.*, concert.currency
            FROM seat JOIN schedule ON schedule.id = seat.schedule_id
                JOIN concert ON concert.id = schedule.concert_id
            WHERE seat.schedule_id IN %s AND NOT seat.is_removed) seats
      GROUP BY schedule_id) schedules
"""

PACKED = "SELECT source, digest FROM seat_layout WHERE source IN %s"

SEATS_OF_SCHEDULE = f"""
SELECT {SEAT_COLUMNS}, concert.currency
FROM seat JOIN schedule ON schedule.id = seat.schedule_id
    JOIN concert ON concert.id = schedule.concert_id
WHERE seat.schedule_id = %s AND NOT seat.is_removed ORDER BY seat.position
"""

# A layout that exists has the same content. It was perhaps made of other columns, or by the version
# before: the newest rows are those that the next schedules have.
ADD_LAYOUT = """
INSERT INTO seat_layout (digest, source, packed) VALUES (%s, %s, %s)
ON DUPLICATE KEY UPDATE source = VALUES(source)
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
            return await make_maps(connection, schedule_ids)

        return await self._database.run(work)


async def make_maps(connection: Connection, schedule_ids: Sequence[int]) -> Sequence[PackedSeatMap]:
    """Implements `ports.SeatMapStore.make_maps` in the transaction of this connection. Locks the
    rows of the schedules."""
    schedule_ids = tuple(schedule_ids)
    locked = await connection.fetch_all(LOCK_SCHEDULES, schedule_ids)
    if not locked:
        return []
    # Another caller may have made them while this one waited for the locks.
    maps = [_map(row) for row in await connection.fetch_all(MAPS, schedule_ids)]
    made = {seat_map.schedule_id for seat_map in maps}
    missing = tuple(row.id for row in locked if row.id not in made)
    if not missing:
        return maps
    _, sources = await connection.execute_together((SET_MAX_LENGTH,), (SOURCES, missing))
    source_of: dict[int, bytes | None] = {row.schedule_id: row.source for row in sources.rows}
    ids_of: dict[int, str] = {row.schedule_id: row.ids for row in sources.rows}
    wanted = tuple({source for source in source_of.values() if source is not None})
    packed = await connection.fetch_all(PACKED, wanted) if wanted else []
    digests: dict[bytes | None, bytes] = {row.source: row.digest for row in packed}
    new = []
    for id in missing:
        source = source_of.get(id)  # none if it has no seats
        digest = None if source is None else digests.get(source)
        if digest is None:
            if (layout := await _pack_layout(connection, id)) is None:
                continue
            digest = digests[source] = layout.digest
            await connection.execute(ADD_LAYOUT, layout.digest, source, layout.packed)
        ids = ids_of.get(id, "")
        new.append(PackedSeatMap(id, digest, runs_of(map(int, ids.split(","))) if ids else ()))
    if new:
        await connection.execute_together(
            *((ADD_MAP, m.schedule_id, m.layout, runs_to_text(m.runs)) for m in new)
        )
    return maps + new


async def _pack_layout(connection: Connection, schedule_id: int) -> PackedLayout | None:
    rows = await connection.fetch_all(SEATS_OF_SCHEDULE, schedule_id)
    try:
        # In a thread: 20,000 seats take 0.2 s, in which other calls would wait.
        return await asyncio.to_thread(_packed, schedule_id, rows)
    except SeatLayoutTooLarge as error:
        # The schedules that are asked for together with this one must not fail.
        log.error("seat_layout_too_large", schedule=schedule_id, error=str(error))
        return None


def _packed(schedule_id: int, rows: Sequence[Row]) -> PackedLayout:
    """Raises SeatLayoutTooLarge."""
    return pack_layout(schedule_id, [to_seat(row, row.currency) for row in rows])


def _mapped(row: Row) -> MappedSchedule:
    facts = SaleFacts(
        row.concert_id,
        row.room,
        row.currency,
        to_instant(row.sales_from),
        to_instant(row.sales_until),
    )
    return MappedSchedule(row.id, row.seat_count, facts, None if row.layout is None else _map(row))


def _map(row: Row) -> PackedSeatMap:
    return PackedSeatMap(row.id, row.layout, runs_from_text(row.runs))
