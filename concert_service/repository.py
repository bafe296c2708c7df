"""The SQL of concerts, schedules and seats. CURRENT_DATE is in UTC, as the session's time zone."""

from collections.abc import Sequence

from concert_service.domain import Concert, Schedule, ScheduleOrder, Seat, SeatPage
from servicekit.mysql import Database, Row

CONCERTS_AFTER = "SELECT id, title FROM concert WHERE id > %s ORDER BY id LIMIT %s"

HAS_CONCERT = "SELECT id FROM concert WHERE id = %s"

UPCOMING_SCHEDULES = """
SELECT id, concert_id, date, seat_count FROM schedule
WHERE concert_id = %s AND date >= CURRENT_DATE AND (date, id) > (%s, %s)
ORDER BY date, id LIMIT %s
"""

HAS_UPCOMING_SCHEDULE = "SELECT id FROM schedule WHERE id = %s AND date >= CURRENT_DATE"

SEATS = """
SELECT id, schedule_id, seat_num, price, row_name, place, price_category, section, is_accessible,
       position
FROM seat WHERE schedule_id = %s AND position >= %s ORDER BY position LIMIT %s
"""

UPCOMING_SEATS = """
SELECT seat.id, seat.schedule_id, seat.seat_num, seat.price, seat.row_name, seat.place,
       seat.price_category, seat.section, seat.is_accessible
FROM seat JOIN schedule ON schedule.id = seat.schedule_id
WHERE seat.id IN %s AND schedule.date >= CURRENT_DATE
"""


class ConcertRepository:
    """Implements `ports.ConcertStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(CONCERTS_AFTER, concert_id, limit)
        return [Concert(id=row.id, title=row.title) for row in rows]

    async def has_concert(self, concert_id: int) -> bool:
        async with self._database.connection() as connection:
            return await connection.fetch_one(HAS_CONCERT, concert_id) is not None

    async def upcoming_schedules(
        self, concert_id: int, after: ScheduleOrder, limit: int
    ) -> Sequence[Schedule]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(UPCOMING_SCHEDULES, concert_id, *after, limit)
        return [
            Schedule(id=row.id, concert_id=row.concert_id, date=row.date, seat_count=row.seat_count)
            for row in rows
        ]

    async def seats_of_upcoming(
        self, schedule_id: int, position: int, limit: int
    ) -> SeatPage | None:
        async with self._database.connection() as connection:
            if await connection.fetch_one(HAS_UPCOMING_SCHEDULE, schedule_id) is None:
                return None
            rows = await connection.fetch_all(SEATS, schedule_id, position, limit)
        return SeatPage(
            [to_seat(row) for row in rows], rows[-1].position + 1 if len(rows) == limit else 0
        )

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(UPCOMING_SEATS, seat_ids)
        return [to_seat(row) for row in rows]


def to_seat(row: Row) -> Seat:
    """Converts a row of `seat`."""
    return Seat(
        id=row.id,
        schedule_id=row.schedule_id,
        seat_num=row.seat_num,
        price=row.price,
        row_name=row.row_name,
        place=row.place,
        price_category=row.price_category,
        section=row.section,
        accessible=bool(row.is_accessible),
    )
