"""A change of the catalogue shows on every process within a second of its commit.

The caches of facts live for 30 s here, so that no change shows by their age.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import pytest

from concert_service.changes import note_change
from servicekit.mysql import Connection, Database, Statement
from tests.e2e.conftest import in_thread
from tests.e2e.shop import PRICE, Fan, Schedule, Shop, assert_problem, eventually

SECOND = 1.0


@dataclass
class Everywhere:
    """A date, and a fan at each of two gateways, which have a reservation_service each. All of them
    know the date."""

    shop: Shop
    date: Schedule
    fans: Sequence[Fan]

    async def change(self, *statements: Statement) -> float:
        """Changes the catalogue in a transaction, as an import does; returns when it was committed,
        by time.monotonic()."""
        concert_id, schedule_id = self.date.concert_id, self.date.id

        async def work(connection: Connection) -> int:
            await connection.execute("SELECT 1 FROM schedule WHERE id = %s FOR UPDATE", schedule_id)
            for sql, *values in statements:
                await connection.execute(sql, *values)
            await connection.execute("DELETE FROM seat_map WHERE schedule_id = %s", schedule_id)
            return await note_change(connection, [concert_id])

        async with Database(self.shop.stack.mysql_url("concert")) as database:
            await database.run(work)
        return time.monotonic()

    async def titles(self, fan: Fan) -> set[str]:
        """Returns the titles of all concerts."""
        page = (await fan.concerts()).body
        titles = {concert.title for concert in page.concerts}
        while page.next_page_token:
            page = (await fan.concerts(pageToken=page.next_page_token)).body
            titles |= {concert.title for concert in page.concerts}
        return titles


async def until(committed: float, seconds: float = SECOND) -> None:
    """Waits until so many seconds after the commit."""
    await asyncio.sleep(max(0.0, committed + seconds - time.monotonic()))


@pytest.fixture
async def everywhere(shop: Shop, short_holds: str) -> Everywhere:
    date_ = shop.new_schedule(seats=4)
    fans = [await shop.admitted(gateway) for gateway in ("gateway", short_holds)]
    everywhere = Everywhere(shop, date_, fans)
    # The date was inserted without a word.
    await until(await everywhere.change())
    for fan, seat_id in zip(fans, date_.seats, strict=False):
        hold = (await fan.reserve(seat_id)).body
        assert Decimal(hold.price) == 150_000
        assert (await fan.cancel(hold.reservation_id)).status_code == 204
        assert len((await fan.seats(date_.id)).body.seats) == 4
        assert len((await fan.schedules(date_.concert_id)).body.schedules) == 1
        assert f"Test {date_.id}" in await everywhere.titles(fan)
    return everywhere


async def test_titles_prices_labels_and_seats(everywhere: Everywhere) -> None:
    date_ = everywhere.date
    removed, dearer, *_ = date_.seats
    committed = await everywhere.change(
        ("UPDATE concert SET title = %s WHERE id = %s", f"New {date_.id}", date_.concert_id),
        ("UPDATE seat SET price = 99000.5, seat_num = 'Ω1' WHERE id = %s", dearer),
        ("UPDATE seat SET is_removed = TRUE WHERE id = %s", removed),
    )

    async def shows(fan: Fan) -> None:
        seats = (await fan.seats(date_.id)).body.seats
        assert [seat.id for seat in seats] == date_.seats[1:]
        assert (seats[0].seat_num, seats[0].price) == ("Ω1", "99000.50")
        titles = await everywhere.titles(fan)
        assert f"New {date_.id}" in titles
        assert f"Test {date_.id}" not in titles

    for fan in everywhere.fans:
        left = committed + SECOND - time.monotonic()
        await eventually(lambda fan=fan: shows(fan), within=left, every=0.02)  # type: ignore[misc]
    await until(committed)
    for fan in everywhere.fans:
        hold = (await fan.reserve(dearer)).body
        assert hold.price == "99000.50"
        await fan.cancel(hold.reservation_id)
        assert_problem(await fan.reserve(removed), 404, "SEAT_NOT_FOUND")


async def test_a_cancelled_date_and_a_cancelled_concert(everywhere: Everywhere) -> None:
    date_ = everywhere.date
    committed = await everywhere.change(
        ("UPDATE schedule SET is_cancelled = TRUE WHERE id = %s", date_.id)
    )
    await until(committed)
    for fan in everywhere.fans:
        assert (await fan.schedules(date_.concert_id)).body.schedules == []
        assert_problem(await fan.seats(date_.id), 404, "SCHEDULE_NOT_FOUND")
        assert_problem(await fan.reserve(date_.seats[2]), 404, "SEAT_NOT_FOUND")
    committed = await everywhere.change(
        ("UPDATE concert SET status = 'CANCELLED' WHERE id = %s", date_.concert_id)
    )
    await until(committed)
    for fan in everywhere.fans:
        assert_problem(await fan.schedules(date_.concert_id), 404, "CONCERT_NOT_FOUND")
        assert f"Test {date_.id}" not in await everywhere.titles(fan)


async def test_a_date_that_ends_at_its_venue(everywhere: Everywhere) -> None:
    """Midnight there, at any time of the day here."""
    date_ = everywhere.date
    committed = await everywhere.change(
        (
            "UPDATE schedule SET listed_until = UTC_TIMESTAMP(3) + INTERVAL 2 SECOND WHERE id = %s",
            date_.id,
        )
    )
    await until(committed)
    for fan in everywhere.fans:
        assert len((await fan.seats(date_.id)).body.seats) == 4
        assert len((await fan.schedules(date_.concert_id)).body.schedules) == 1
    await until(committed, 2 + SECOND)
    for fan in everywhere.fans:
        assert (await fan.schedules(date_.concert_id)).body.schedules == []
        assert_problem(await fan.seats(date_.id), 404, "SCHEDULE_NOT_FOUND")
        assert_problem(await fan.reserve(date_.seats[0]), 404, "SEAT_NOT_FOUND")


async def test_what_was_missed_comes_with_the_next_stream(everywhere: Everywhere) -> None:
    date_, concerts = everywhere.date, everywhere.shop.stack.process("concert_service")
    started = time.monotonic()
    await in_thread(concerts.stop)
    # Streams that are open do not hold up the drain.
    assert time.monotonic() - started < 3
    await everywhere.change(("UPDATE seat SET price = 1 WHERE id = %s", date_.seats[1]))
    for fan in everywhere.fans:
        assert (await fan.seats(date_.id)).body.seats[1].price == PRICE
    await in_thread(concerts.start)
    await everywhere.shop.ready()

    async def knows(fan: Fan) -> None:
        assert (await fan.seats(date_.id)).body.seats[1].price == "1.00"
        hold = (await fan.reserve(date_.seats[1])).body
        await fan.cancel(hold.reservation_id)
        assert hold.price == "1.00"

    # Their channels, and then their streams, connect again within a second each.
    for fan in everywhere.fans:
        await eventually(lambda fan=fan: knows(fan), within=5)  # type: ignore[misc]
