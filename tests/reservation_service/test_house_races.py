"""Operators against users at the same moment, in MariaDB."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest

from reservation_service import hold_statements as sql
from reservation_service.domain import (
    Hold,
    PaymentOutcome,
    Reservation,
    Seat,
    SeatRequest,
    Status,
)
from reservation_service.errors import (
    PaymentInProgress,
    ReservationExpired,
    SalesClosed,
    SeatHeld,
    SeatSold,
    SeatsTaken,
)
from reservation_service.hold_decisions import Granted
from reservation_service.house import reservation_of
from reservation_service.house_service import HouseService
from reservation_service.service import ReservationService
from servicekit.mysql import Database
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    begin,
    confirm,
    ids,
    make_service,
    new_seats,
    schedule_of,
)

REFUSED = (SeatHeld, SeatSold, SalesClosed)


class Shop:
    """Two replicas on one MariaDB, without locks in Redis."""

    def __init__(self, stores: Sequence[RealReservationStore]) -> None:
        self.stores = stores
        self.services = [make_service(store, locks=UselessLocks()) for store in stores]
        self.house = HouseService(stores[0])

    @property
    def service(self) -> ReservationService:
        return random.choice(self.services)

    async def hold(self, seats: Sequence[int]) -> Reservation | None:
        """A new user asks for seats. Returns None if that is refused."""
        try:
            return await self.service.hold_seats(next(ids), seats, "")
        except REFUSED:
            return None

    async def deadlocks(self) -> int:
        async with self.stores[0]._database.connection() as connection:
            row = await connection.fetch_one("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        assert row is not None
        return int(row[1])


@pytest.fixture
async def shop(mysql_urls: dict[str, str]) -> AsyncIterator[Shop]:
    url = mysql_urls["reservation"]
    async with (
        Database(url, max_size=8, acquire_timeout=10.0) as one,
        Database(url, max_size=8, acquire_timeout=10.0) as two,
    ):
        yield Shop([RealReservationStore(one), RealReservationStore(two)])


@pytest.mark.parametrize("lapsed", [0, 9])
async def test_200_blocks_against_holds_of_the_same_seats(shop: Shop, lapsed: int) -> None:
    """A seat has one owner, a user or the house, and a block has all of its seats or none."""
    seats = new_seats(60)
    schedule = schedule_of(seats[0])
    # Their holds have run out, and blocks and holds expire them.
    for seat in seats[3::6][:lapsed]:
        dead = await shop.hold([seat])
        assert dead is not None
        await shop.stores[0].lapse(dead.id)
    before = await shop.deadlocks()
    blocked: list[int] = []

    async def block() -> None:
        first = random.randrange(len(seats) - 3)
        wanted = seats[first : first + random.randint(1, 3)]
        await asyncio.sleep(random.uniform(0, 0.5))
        with contextlib.suppress(SeatsTaken):
            await shop.house.block_seats(schedule, wanted)
            blocked.extend(wanted)

    async def hold() -> Reservation | None:
        first = random.randrange(len(seats) - 2)
        wanted = seats[first : first + random.randint(1, 2)]
        await asyncio.sleep(random.uniform(0, 0.5))
        return await shop.hold(wanted)

    blocks = asyncio.gather(*(block() for _ in range(200)))
    held = await asyncio.gather(*(hold() for _ in range(200)))
    await blocks
    await shop.service.expire_holds()
    claims = await every_claim(shop, schedule)
    users = {seat.id: each.id for each in held if each is not None for seat in each.seats}
    house = reservation_of(schedule)
    assert users, "all were refused"
    assert blocked, "nothing was blocked"
    assert claims == users | dict.fromkeys(blocked, house)
    counts = await shop.service.count_seats([schedule])
    assert counts.blocked == {schedule: len(set(blocked))}
    if not lapsed:  # who expires others may meet a deadlock, which MariaDB ends
        assert await shop.deadlocks() == before

    # All of it is given back once, however often it is asked for.
    released = await asyncio.gather(*(shop.house.release_seats(schedule, seats) for _ in range(20)))
    assert sum(released) == len(set(blocked))
    assert await every_claim(shop, schedule) == users
    assert (await shop.service.count_seats([schedule])).blocked == {}


async def every_claim(shop: Shop, schedule: int) -> dict[int, int]:
    async with shop.stores[0]._database.connection() as connection:
        rows = await connection.fetch_all(
            "SELECT seat_id, reservation_id FROM seat_claim"
            " WHERE schedule_id = %s AND reservation_id <> 0",
            schedule,
        )
    return {row.seat_id: row.reservation_id for row in rows}


@pytest.mark.parametrize("together", [1, 12], ids=["alone", "in groups"])
async def test_a_closed_schedule_has_no_hold_whenever_it_was_closed(
    shop: Shop, together: int
) -> None:
    """Holds that begin before, while and after the schedule is closed: those that did not see it
    are ended by the call that closed it."""
    before = await shop.deadlocks()

    async def sell_and_close(hold_after: float | None, close_after: float | None) -> Sequence[bool]:
        """Returns which holds were made."""
        seats = new_seats(2 * together)
        schedule = schedule_of(seats[0])
        all_held, closed = asyncio.Event(), asyncio.Event()

        async def hold(seats: Sequence[int]) -> Reservation | None:
            await a_moment(hold_after, closed)
            return await shop.hold(seats)

        async def hold_all() -> list[Reservation | None]:
            held = await asyncio.gather(*(hold(seats[n : n + 2]) for n in range(0, len(seats), 2)))
            all_held.set()
            return held

        async def close() -> int:
            await a_moment(close_after, all_held)
            ended = (await shop.house.close_schedules([schedule])).ended_holds
            closed.set()
            return ended

        held, ended = await asyncio.gather(hold_all(), close())
        made = [each for each in held if each is not None]
        assert ended == len(made)
        assert await every_claim(shop, schedule) == {}
        assert {await shop.stores[0].stored(each.id) for each in made} <= {Status.CANCELLED}
        return [each is not None for each in held]

    for _ in range(25):
        await sell_and_close(0.006, 0.008)
    # However slow the machine is, both ends occur.
    assert all(await sell_and_close(0, None))
    assert not any(await sell_and_close(None, 0))
    assert await shop.deadlocks() == before


async def a_moment(at_most: float | None, event: asyncio.Event) -> None:
    """Waits for a random time, in seconds; without `at_most` until the event."""
    if at_most is None:
        await event.wait()
    else:
        await asyncio.sleep(random.uniform(0, at_most))


async def test_a_hold_that_is_not_committed_yet_is_ended(shop: Shop) -> None:
    """It did not see that the schedule is closed, because that was a moment later."""
    [seat] = new_seats(1)
    schedule = schedule_of(seat)
    facts = Seat(seat, schedule, "A1", Decimal(1))
    hold = Granted(0, Hold(next(ids), (facts,), SeatRequest(seat)), 300.0)
    async with shop.stores[1]._database.transaction() as connection:
        await connection.execute_together(
            sql.insert_reservations([hold]),
            sql.insert_seats([hold]),
            sql.claim_seats([hold]),
            sql.check_open([hold]),
        )
        closing = asyncio.create_task(shop.house.close_schedules([schedule]))
        await asyncio.sleep(0.1)
        assert not closing.done(), "it waits for the hold"
    assert (await closing).ended_holds == 1
    assert await every_claim(shop, schedule) == {}


async def test_closing_against_payments(shop: Shop) -> None:
    """A payment begins before the schedule is closed, and finishes, or not at all; no failed one
    leaves a hold."""

    async def pay_and_close() -> None:
        seats = new_seats(8)
        schedule = schedule_of(seats[0])
        held = [await shop.service.hold_seat(next(ids), seat, "") for seat in seats]
        first, last = held[0], held[-1]  # before and after the closing; the others race with it
        begun, closed = asyncio.Event(), asyncio.Event()

        async def pay(reservation: Reservation, succeeds: bool) -> Status:
            if reservation is last:
                await closed.wait()
            elif reservation is not first:
                await asyncio.sleep(random.uniform(0, 0.008))
            try:
                paying = await begin(shop.service, reservation, next(ids))
            except ReservationExpired:
                return Status.CANCELLED
            begun.set()
            await asyncio.sleep(random.uniform(0, 0.006))
            if succeeds:
                assert await confirm(shop.service, paying) == PaymentOutcome.CONFIRMED
                return Status.CONFIRMED
            await shop.service.return_to_hold(paying.id, paying.payment_id)
            return Status.EXPIRED

        async def close() -> None:
            await begun.wait()
            await asyncio.sleep(random.uniform(0, 0.004))
            await shop.house.close_schedules([schedule])
            closed.set()

        *ends, _ = await asyncio.gather(
            *(pay(each, n % 2 == 0) for n, each in enumerate(held)), close()
        )
        assert (ends[0], ends[-1]) == (Status.CONFIRMED, Status.CANCELLED)
        for reservation, end in zip(held, ends, strict=True):
            read = await shop.service.get_reservation(reservation.id, reservation.user_id)
            # A payment that failed before the schedule was closed left a hold, which was cancelled.
            allowed = {end, Status.CANCELLED} if end == Status.EXPIRED else {end}
            assert read.status in allowed
        closing = await shop.house.close_schedules([schedule])
        assert (closing.ended_holds, closing.paying) == (0, [])
        assert closing.paid == sum(end == Status.CONFIRMED for end in ends)

    for _ in range(20):
        await pay_and_close()


async def test_nobody_waits_for_a_seat_that_is_not_blocked(shop: Shop) -> None:
    """The house takes a hall of 20,000 places; others go on holding seats of other schedules, and
    those that are not blocked."""
    first, *others = new_seats(20)
    schedule = schedule_of(first)
    hall = [10**15 + schedule * 20_000 + n for n in range(20_000)]

    async def hold_others() -> int:
        held = 0
        while not blocking.done():
            try:
                await shop.service.hold_seat(next(ids), others[held], "")
            except IndexError:
                break
            held += 1
            await asyncio.sleep(0.02)
        return held

    blocking = asyncio.create_task(shop.house.block_seats(schedule, hall))
    await asyncio.sleep(0)
    held = await hold_others()
    assert await blocking == len(hall)
    assert held > 0
    assert await shop.house.release_seats(schedule, hall) == len(hall)


async def test_a_payment_that_begins_again_waits_for_no_closed_schedule(shop: Shop) -> None:
    [seat] = new_seats(1)
    held = await shop.service.hold_seat(next(ids), seat, "")
    paying = await begin(shop.service, held, next(ids))
    await shop.house.close_schedules([held.schedule_id])
    with pytest.raises(PaymentInProgress):
        await begin(shop.service, held, next(ids), failed=paying.payment_id)
    await shop.house.reopen_schedules([held.schedule_id])
    again = await begin(shop.service, held, next(ids), failed=paying.payment_id)
    assert again.status == Status.PAYING
