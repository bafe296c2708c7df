"""The contract of the concert store, on the fake and on MariaDB."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest

from concert_service.domain import (
    BEFORE_ALL_SCHEDULES,
    Concert,
    EventStatus,
    Schedule,
    Seat,
    SeatPage,
)
from concert_service.ports import ConcertStore
from concert_service.seat_map_repository import SeatMapRepository
from concert_service.seat_map_service import SeatMapService
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer
from protos.frontrow.concert.v1 import concert_pb2
from servicekit.call_interceptor import Context
from servicekit.mysql import Database, DatabaseError
from tests.concert_service.conftest import BASE, RealStore
from tests.fakes.concert import FakeConcertStore, today


def seats(schedule_id: int) -> list[Seat]:
    return [
        Seat(schedule_id * 10 + n, schedule_id, f"A{n}", Decimal("120000.50") + n)
        for n in (1, 2, 10, 3)
    ]


async def test_concerts_are_listed_by_id(store: FakeConcertStore | RealStore) -> None:
    for id in (BASE + 3, BASE + 1, BASE + 2):
        await store.add(Concert(id, f"Nº {id} ☂"), {})
    assert list(await store.concerts_after(BASE, 2)) == [
        Concert(BASE + 1, f"Nº {BASE + 1} ☂"),
        Concert(BASE + 2, f"Nº {BASE + 2} ☂"),
    ]
    assert [c.id for c in await store.concerts_after(BASE + 2, 9)] == [BASE + 3]
    assert await store.has_concert(BASE + 1)
    assert not await store.has_concert(BASE + 4)


async def test_only_published_concerts_exist(store: FakeConcertStore | RealStore) -> None:
    full = Concert(
        BASE + 1,
        "العربية 🎭",
        description="All of it",
        venue="Hall",
        time_zone="Asia/Seoul",
        image_url="https://example.org/1.png",
        room="side",
        currency="JPY",
    )
    await store.add(full, {})
    for number, status in enumerate(("DRAFT", "CANCELLED", "ARCHIVED"), 2):
        concert = Concert(BASE + number, "C", status=EventStatus(status))
        schedule = Schedule(BASE + number, concert.id, today(), 1)
        await store.add(concert, {schedule: [Seat(BASE + number, schedule.id, "A1", Decimal(1))]})
        assert not await store.has_concert(concert.id)
        assert await store.upcoming_schedules(concert.id, BEFORE_ALL_SCHEDULES, 9) == []
        assert await store.seats_of_upcoming(schedule.id, 0, 9) is None
        assert await store.upcoming_seats([schedule.id]) == []
    assert list(await store.concerts_after(BASE, 9)) == [full]


async def test_a_date_is_listed_until_it_ends_at_the_venue(
    store: FakeConcertStore | RealStore,
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    soon, before = now + timedelta(minutes=5), now - timedelta(seconds=1)

    def schedule(id: int, day: int, until: datetime | None) -> Schedule:
        return Schedule(
            *(BASE + id, BASE, today() + timedelta(days=day), 1),
            starts_at=now,
            listed_until=until,
        )

    # West of UTC, yesterday is not over yet; east of it, today is.
    west, east = schedule(1, -1, soon), schedule(2, 0, before)
    utc, utc_before = schedule(3, 0, None), schedule(4, -1, None)
    cancelled = replace(schedule(5, 1, soon), cancelled=True)
    all_of_them = (west, east, utc, utc_before, cancelled)
    await store.add(
        Concert(BASE, "C", currency="KWD"),
        {one: [Seat(one.id * 10, one.id, "A1", Decimal("1.125"))] for one in all_of_them},
    )
    assert list(await store.upcoming_schedules(BASE, BEFORE_ALL_SCHEDULES, 9)) == [west, utc]
    for one in all_of_them:
        page = await store.seats_of_upcoming(one.id, 0, 9)
        seats = await store.upcoming_seats([one.id * 10])
        if one in (west, utc):
            assert page is not None
            assert page.seats == seats
            assert [(seat.price, seat.currency) for seat in seats] == [(Decimal("1.125"), "KWD")]
        else:
            assert page is None
            assert seats == []


async def test_a_removed_seat_does_not_exist(store: FakeConcertStore | RealStore) -> None:
    seats = [Seat(BASE + n, BASE, f"A{n}", Decimal(1)) for n in (1, 2, 3)]
    await store.add(Concert(BASE, "C"), {Schedule(BASE, BASE, today(), 3): seats})
    await store.remove(seats[1])
    assert await store.seats_of_upcoming(BASE, 0, 9) == SeatPage([seats[0], seats[2]], 0)
    assert await store.upcoming_seats([BASE + 1, BASE + 2]) == [seats[0]]


async def test_only_upcoming_schedules_exist(store: FakeConcertStore | RealStore) -> None:
    yesterday = Schedule(BASE + 1, BASE, today() - timedelta(days=1), 4)
    this_evening = Schedule(BASE + 2, BASE, today(), 4)
    next_week = Schedule(BASE + 3, BASE, today() + timedelta(days=7), 4)
    tomorrow = Schedule(BASE + 4, BASE, today() + timedelta(days=1), 0)
    await store.add(
        Concert(BASE, "C"),
        {
            yesterday: seats(yesterday.id),
            this_evening: seats(this_evening.id),
            next_week: seats(next_week.id),
            tomorrow: [],
        },
    )
    assert list(await store.upcoming_schedules(BASE, BEFORE_ALL_SCHEDULES, 9)) == [
        this_evening,
        tomorrow,
        next_week,
    ]
    assert list(await store.upcoming_schedules(BASE, BEFORE_ALL_SCHEDULES, 2)) == [
        this_evening,
        tomorrow,
    ]
    assert list(await store.upcoming_schedules(BASE, tomorrow.order, 2)) == [next_week]
    assert await store.upcoming_schedules(BASE, next_week.order, 2) == []
    assert await store.upcoming_schedules(BASE + 1, BEFORE_ALL_SCHEDULES, 9) == []

    assert await store.seats_of_upcoming(this_evening.id, 0, 9) == SeatPage(
        seats(this_evening.id), 0
    )
    assert await store.seats_of_upcoming(this_evening.id, 0, 3) == SeatPage(
        seats(this_evening.id)[:3], 3
    )
    assert await store.seats_of_upcoming(this_evening.id, 3, 3) == SeatPage(
        seats(this_evening.id)[3:], 0
    )
    assert await store.seats_of_upcoming(tomorrow.id, 0, 9) == SeatPage([], 0)
    assert await store.seats_of_upcoming(yesterday.id, 0, 9) is None
    assert await store.seats_of_upcoming(BASE + 9, 0, 9) is None

    seat = seats(this_evening.id)[2]
    other = seats(next_week.id)[0]
    past = seats(yesterday.id)[0]
    assert await store.upcoming_seats([seat.id]) == [seat]
    found = await store.upcoming_seats([other.id, BASE, seat.id, past.id, seat.id])
    assert sorted(found, key=lambda seat: seat.id) == sorted(
        [seat, other], key=lambda seat: seat.id
    )
    assert await store.upcoming_seats([past.id]) == []


async def test_no_price_is_negative(mysql_urls: dict[str, str]) -> None:
    async with Database(mysql_urls["concert"]) as database:
        real = RealStore(database)
        free = Seat(BASE + 11, BASE + 1, "A1", Decimal("0.00"))
        below = Seat(BASE + 12, BASE + 1, "A2", Decimal("-0.01"))
        date_ = Schedule(BASE + 1, BASE, today(), 2)
        with pytest.raises(DatabaseError, match="no_negative_price"):
            await real.add(Concert(BASE, "C"), {date_: [free, below]})
        await real.add(Concert(BASE, "C"), {date_: [free]})
        await real.clear()


async def test_schedules_of_one_date_are_in_the_order_of_their_ids(
    store: FakeConcertStore | RealStore,
) -> None:
    evenings = [Schedule(BASE + n, BASE, today(), 0) for n in range(1, 6)]
    await store.add(Concert(BASE, "C"), {schedule: [] for schedule in reversed(evenings)})
    assert list(await store.upcoming_schedules(BASE, BEFORE_ALL_SCHEDULES, 2)) == evenings[:2]
    assert list(await store.upcoming_schedules(BASE, evenings[1].order, 2)) == evenings[2:4]
    # The same if the last one of a page is deleted before the next is read.
    deleted = (today(), BASE + 4)
    await store.delete(BASE + 4)
    assert list(await store.upcoming_schedules(BASE, deleted, 2)) == evenings[4:]


async def test_every_page_of_the_largest_schedule_is_far_below_grpcs_limit(
    mysql_urls: dict[str, str],
) -> None:
    """As many seats as `position` can count, with the longest names and prices."""
    async with Database(mysql_urls["concert"]) as database:
        store = RealStore(database)
        await store.clear()
        await store.add(Concert(BASE, "C"), {Schedule(BASE, BASE, today(), 65_536): []})
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO seat (id, schedule_id, position, seat_num, price)"
                " SELECT 9223372036854700000 + seq, %s, seq, %s, 9999999999.99"
                " FROM seq_0_to_65535",
                *(BASE, "🎟" * 16),
            )
        servicer = ConcertServicer(
            ConcertService(store), SeatMapService(SeatMapRepository(database))
        )
        token, ids = "", []
        while True:
            page = await servicer.ListSeats(
                concert_pb2.ListSeatsRequest(schedule_id=BASE, page_size=5000, page_token=token),
                cast(Context, None),
            )
            assert page.ByteSize() < 700_000  # of 4,194,304
            ids += [seat.id for seat in page.seats]
            if not (token := page.next_page_token):
                break
        await store.clear()
    assert ids == list(range(9223372036854700000, 9223372036854700000 + 65_536))


def check(_: ConcertStore) -> None:
    """Makes mypy compare both stores with the Protocol."""


check(FakeConcertStore())
