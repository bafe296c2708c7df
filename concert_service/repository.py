"""The SQL of concerts, schedules and seats. The session's time zone is UTC."""

from collections.abc import Sequence
from datetime import UTC, datetime

from concert_service.domain import Concert, EventStatus, Schedule, ScheduleOrder, Seat, SeatPage
from servicekit.mysql import Database, Row

# A schedule is for sale as long as it is upcoming. No zone is more than 12 hours behind UTC, so a
# date never ends later than the end of the next date in UTC: that condition can use an index.
FOR_SALE = """
schedule.date >= CURRENT_DATE - INTERVAL 1 DAY
AND COALESCE(schedule.listed_until, schedule.date + INTERVAL 1 DAY) > UTC_TIMESTAMP(3)
AND NOT schedule.is_cancelled AND concert.status = 'PUBLISHED'
"""

CONCERTS_AFTER = """
SELECT id, title, description, venue, time_zone, image_url, room, currency, status
FROM concert WHERE id > %s AND status = 'PUBLISHED' ORDER BY id LIMIT %s
"""

HAS_CONCERT = "SELECT id FROM concert WHERE id = %s AND status = 'PUBLISHED'"

UPCOMING_SCHEDULES = f"""
SELECT schedule.id, schedule.concert_id, schedule.date, schedule.seat_count, schedule.starts_at,
       schedule.listed_until, schedule.sales_from, schedule.sales_until
FROM schedule JOIN concert ON concert.id = schedule.concert_id
WHERE schedule.concert_id = %s AND (schedule.date, schedule.id) > (%s, %s) AND {FOR_SALE}
ORDER BY schedule.date, schedule.id LIMIT %s
"""

UPCOMING_SCHEDULE = f"""
SELECT concert.currency FROM schedule JOIN concert ON concert.id = schedule.concert_id
WHERE schedule.id = %s AND {FOR_SALE}
"""

SEAT_COLUMNS = """
seat.id, seat.schedule_id, seat.seat_num, seat.price, seat.row_name, seat.place,
seat.price_category, seat.section, seat.is_accessible, seat.row_rank, seat.is_companion,
seat.is_general_admission, seat.x, seat.y
"""

SEATS = f"""
SELECT {SEAT_COLUMNS}, seat.position FROM seat
WHERE schedule_id = %s AND position >= %s AND NOT is_removed ORDER BY position LIMIT %s
"""

UPCOMING_SEATS = f"""
SELECT {SEAT_COLUMNS}, concert.currency
FROM seat JOIN schedule ON schedule.id = seat.schedule_id
    JOIN concert ON concert.id = schedule.concert_id
WHERE seat.id IN %s AND NOT seat.is_removed AND {FOR_SALE}
"""


class ConcertRepository:
    """Implements `ports.ConcertStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(CONCERTS_AFTER, concert_id, limit)
        return [_concert(row) for row in rows]

    async def has_concert(self, concert_id: int) -> bool:
        async with self._database.connection() as connection:
            return await connection.fetch_one(HAS_CONCERT, concert_id) is not None

    async def upcoming_schedules(
        self, concert_id: int, after: ScheduleOrder, limit: int
    ) -> Sequence[Schedule]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(UPCOMING_SCHEDULES, concert_id, *after, limit)
        return [_schedule(row) for row in rows]

    async def seats_of_upcoming(
        self, schedule_id: int, position: int, limit: int
    ) -> SeatPage | None:
        async with self._database.connection() as connection:
            schedule = await connection.fetch_one(UPCOMING_SCHEDULE, schedule_id)
            if schedule is None:
                return None
            rows = await connection.fetch_all(SEATS, schedule_id, position, limit)
        return SeatPage(
            [to_seat(row, schedule.currency) for row in rows],
            rows[-1].position + 1 if len(rows) == limit else 0,
        )

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(UPCOMING_SEATS, seat_ids)
        return [to_seat(row, row.currency) for row in rows]


def to_seat(row: Row, currency: str) -> Seat:
    """Converts a row of `seat` with SEAT_COLUMNS."""
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
        currency=currency,
        row_rank=row.row_rank,
        companion=bool(row.is_companion),
        general_admission=bool(row.is_general_admission),
        x=row.x,
        y=row.y,
    )


def to_instant(value: datetime | None) -> datetime | None:
    """Converts a column with a time, which is in UTC."""
    return None if value is None else value.replace(tzinfo=UTC)


def _concert(row: Row) -> Concert:
    return Concert(
        id=row.id,
        title=row.title,
        description=row.description,
        venue=row.venue,
        time_zone=row.time_zone,
        image_url=row.image_url,
        room=row.room,
        currency=row.currency,
        status=EventStatus(row.status),
    )


def _schedule(row: Row) -> Schedule:
    return Schedule(
        id=row.id,
        concert_id=row.concert_id,
        date=row.date,
        seat_count=row.seat_count,
        starts_at=to_instant(row.starts_at),
        listed_until=to_instant(row.listed_until),
        sales_from=to_instant(row.sales_from),
        sales_until=to_instant(row.sales_until),
    )
