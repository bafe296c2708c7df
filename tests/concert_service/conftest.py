"""The stores of the contract of concert_service."""

from collections.abc import AsyncIterator

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
            await t.execute("INSERT INTO concert VALUES (%s, %s)", concert.id, concert.title)
            for s, seats in schedules.items():
                await t.execute(
                    "INSERT INTO schedule VALUES (%s, %s, %s, %s)",
                    *(s.id, s.concert_id, s.date, s.seat_count),
                )
                # Last seat first, so that the order cannot come from the order of the rows.
                for position, seat in reversed(list(enumerate(seats))):
                    await t.execute(
                        "INSERT INTO seat (id, schedule_id, position, seat_num, price, row_name,"
                        " place, price_category, section, is_accessible)"
                        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                        *(seat.id, s.id, position, seat.seat_num, seat.price, seat.row_name),
                        *(seat.place, seat.price_category, seat.section, seat.accessible),
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
