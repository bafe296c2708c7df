"""The stores of the contract of concert_service."""

from collections.abc import AsyncIterator
from datetime import UTC

import pytest

from concert_service.domain import Concert, Schedule, Seat
from concert_service.repository import ConcertRepository
from concert_service.seat_map_repository import SeatMapRepository
from servicekit.mysql import Database
from tests.fakes.concert import FakeConcertStore

# Far above the ids that the seeder or another test uses in the same schema.
BASE = 900_000_000


class RealStore(ConcertRepository, SeatMapRepository):
    """The repositories, with methods to add, change and remove rows."""

    async def add(self, concert: Concert, schedules: dict[Schedule, list[Seat]]) -> None:
        async with self._database.transaction() as t:
            await t.execute(
                "INSERT INTO concert (id, title, description, venue, time_zone, image_url, room,"
                " currency, status) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                *(concert.id, concert.title, concert.description, concert.venue),
                *(concert.time_zone, concert.image_url, concert.room, concert.currency),
                concert.status,
            )
            for s, seats in schedules.items():
                times = (s.starts_at, s.listed_until, s.sales_from, s.sales_until)
                await t.execute(
                    "INSERT INTO schedule (id, concert_id, date, seat_count, starts_at,"
                    " listed_until, sales_from, sales_until, is_cancelled)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    *(s.id, s.concert_id, s.date, s.seat_count),
                    *(time and time.astimezone(UTC).replace(tzinfo=None) for time in times),
                    s.cancelled,
                )
                # Last seat first, so that the order cannot come from the order of the rows.
                for position, seat in reversed(list(enumerate(seats))):
                    await t.execute(
                        "INSERT INTO seat (id, schedule_id, position, seat_num, price, row_name,"
                        " place, price_category, section, is_accessible, row_rank, is_companion,"
                        " is_general_admission, x, y) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s,"
                        " %s, %s, %s, %s, %s, %s)",
                        *(seat.id, s.id, position, seat.seat_num, seat.price, seat.row_name),
                        *(seat.place, seat.price_category, seat.section, seat.accessible),
                        *(seat.row_rank, seat.companion, seat.general_admission, seat.x, seat.y),
                    )

    async def change(self, seat: Seat) -> None:
        """Changes a seat, as the owner of the seats has to."""
        async with self._database.transaction() as t:
            await t.execute("SELECT id FROM schedule WHERE id = %s FOR UPDATE", seat.schedule_id)
            await t.execute(
                "UPDATE seat SET seat_num = %s, price = %s WHERE id = %s",
                *(seat.seat_num, seat.price, seat.id),
            )
            await t.execute("DELETE FROM seat_map WHERE schedule_id = %s", seat.schedule_id)

    async def remove(self, seat: Seat) -> None:
        """Removes a seat, as an import does."""
        async with self._database.transaction() as t:
            await t.execute("SELECT id FROM schedule WHERE id = %s FOR UPDATE", seat.schedule_id)
            await t.execute("UPDATE seat SET is_removed = TRUE WHERE id = %s", seat.id)
            await t.execute("DELETE FROM seat_map WHERE schedule_id = %s", seat.schedule_id)

    async def delete(self, schedule_id: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute("DELETE FROM schedule WHERE id = %s", schedule_id)

    async def clear(self) -> None:
        async with self._database.transaction() as t:
            await t.execute("DELETE FROM seat_map WHERE schedule_id >= %s", BASE)
            for table in ("seat", "schedule", "concert"):
                await t.execute(f"DELETE FROM {table} WHERE id >= %s", BASE)
            await t.execute(
                "DELETE FROM seat_layout WHERE digest NOT IN (SELECT layout FROM seat_map)"
            )


@pytest.fixture(params=["fake", "real"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FakeConcertStore | RealStore]:
    if request.param == "fake":
        yield FakeConcertStore()
        return
    async with Database(request.getfixturevalue("mysql_urls")["concert"]) as database:
        real = RealStore(database)
        await real.clear()
        yield real
        await real.clear()
