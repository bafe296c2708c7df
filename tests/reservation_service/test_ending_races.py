"""Reservations of several seats, ended and taken again by many at once on MariaDB: nobody ever
sees, holds or buys a part of one."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest

from reservation_service.domain import PaymentOutcome, PaymentStart, Reservation
from reservation_service.errors import ReservationExpired, ReservationNotFound, SeatHeld, SeatSold
from reservation_service.service import ReservationService
from servicekit.errors import Conflict, ServiceError
from servicekit.mysql import Database
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    ids,
    make_service,
    new_seats,
)

# In each of these a row is a violation. One statement sees one moment.
VIOLATIONS = {
    "a claim of no live reservation": """
        SELECT c.seat_id FROM seat_claim c
        LEFT JOIN reservation r ON r.id = c.reservation_id AND r.schedule_id = c.schedule_id
            AND r.status IN ('HELD', 'PAYING', 'CONFIRMED')
        LEFT JOIN reservation_seat s ON s.reservation_id = r.id AND s.seat_id = c.seat_id
        WHERE c.schedule_id = %s AND c.reservation_id <> 0 AND s.seat_id IS NULL""",
    "a part of a reservation": """
        SELECT r.id FROM reservation r
        LEFT JOIN reservation_seat s ON s.reservation_id = r.id
        LEFT JOIN seat_claim c ON c.seat_id = s.seat_id AND c.reservation_id = r.id
        WHERE r.schedule_id = %s AND r.status IN ('HELD', 'PAYING', 'CONFIRMED')
        GROUP BY r.id HAVING COUNT(c.seat_id) <> MAX(r.seats)""",
    "a wrong sold count": """
        SELECT COALESCE(MAX(s.sold), 0) counted,
            SUM(IF(r.status = 'CONFIRMED', r.seats, 0)) confirmed
        FROM reservation r LEFT JOIN schedule_sales s ON s.schedule_id = r.schedule_id
        WHERE r.schedule_id = %s HAVING counted <> confirmed""",
}


async def violations(database: Database, schedule: int) -> list[str]:
    async with database.connection() as connection:
        return [
            name for name, sql in VIOLATIONS.items() if await connection.fetch_all(sql, schedule)
        ]


@pytest.fixture
def service(real_store: RealReservationStore) -> ReservationService:
    return make_service(real_store, locks=UselessLocks())


async def outcomes(*calls: Awaitable[object]) -> list[object]:
    """Runs them at once; returns each result or refusal, and raises any other error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    return list(results)


@pytest.mark.parametrize("end", ["cancel", "lapse", "sweep", "late"])
async def test_a_set_ends_while_others_take_parts_of_it(
    service: ReservationService, real_store: RealReservationStore, database: Database, end: str
) -> None:
    """100 rounds for each kind of end, against two takers of overlapping parts."""
    tally: Counter[str] = Counter()
    for number in range(100):
        seats = new_seats(6)
        user, payment = next(ids), next(ids)
        held = await service.hold_seats(user, seats[1:5], "")
        if end == "late":
            await service.begin_payment(held.id, user, payment, 0)
        if end != "cancel":
            await real_store.lapse(held.id)
        if end == "late" and number % 2:
            await service.expire_holds()
        ending: Awaitable[object]
        match end:
            case "cancel":
                ending = service.cancel_reservation(held.id, user)
            case "lapse":
                ending = service.get_reservation(held.id, user)
            case "sweep":
                ending = service.expire_holds()
            case _:
                ending = service.confirm_payment(held.id, payment)
        calls: list[Awaitable[object]] = [
            ending,
            service.hold_seats(next(ids), seats[:3], ""),
            service.hold_seats(next(ids), seats[2:], ""),
        ]
        random.Random(number).shuffle(calls)
        results = await outcomes(*calls)
        taken = [
            result for result in results if isinstance(result, Reservation) and result.id != held.id
        ]
        lost = [result for result in results if isinstance(result, ServiceError)]
        assert all(isinstance(refusal, SeatHeld | SeatSold) for refusal in lost)
        # Seat 2 is in both: one of them at most.
        assert len(taken) <= 1
        assert await violations(database, held.schedule_id) == []
        now = await service.taken_seats(held.schedule_id)
        if PaymentOutcome.CONFIRMED in results:
            assert (taken, now) == ([], ([], seats[1:5]))
            tally["confirmed"] += 1
        else:
            assert now.sold == []
            assert now.held == [seat.id for each in taken for seat in each.seats]
            tally["taken" if taken else "free"] += 1
    if end in ("lapse", "sweep"):
        assert tally["taken"] == 100
    else:
        assert len(tally) > 1, f"one of the orders never occurred: {tally}"


ACTS = [
    "hold",
    "hold",
    "hold",
    "cancel",
    "lapse",
    "begin",
    "begin",
    "confirm",
    "fail",
    "late",
    "sweep",
]


@dataclass
class Fan:
    """Does at random what a user, the payment events and the sweep do with sets of a small hall."""

    service: ReservationService
    store: RealReservationStore
    seats: list[int]
    random: random.Random
    held: list[Reservation] = field(default_factory=list)
    paying: list[Reservation] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    async def act(self) -> None:
        name = self.random.choice(ACTS)
        try:
            await getattr(self, name)()
        except (Conflict, ReservationExpired, ReservationNotFound) as refused:
            name = f"{name}: {refused.code}"
        self.done[name] += 1

    def one_of(self, reservations: list[Reservation]) -> Reservation | None:
        return reservations.pop(self.random.randrange(len(reservations))) if reservations else None

    async def hold(self) -> None:
        count = self.random.randint(1, 4)
        first = self.random.randrange(len(self.seats) - count)
        wanted = self.seats[first : first + count]
        self.held.append(await self.service.hold_seats(next(ids), wanted, ""))

    async def cancel(self) -> None:
        if (held := self.one_of(self.held)) is not None:
            await self.service.cancel_reservation(held.id, held.user_id)

    async def lapse(self) -> None:
        if (held := self.one_of(self.held)) is not None:
            await self.store.lapse(held.id)

    async def begin(self) -> None:
        starts = [
            PaymentStart(held.id, held.user_id, next(ids))
            for held in (self.one_of(self.held), self.one_of(self.held))
            if held is not None
        ]
        for begun in await self.service.begin_payments(starts):
            if isinstance(begun, Reservation):
                self.paying.append(begun)

    async def confirm(self) -> None:
        paying = [one for _ in range(3) if (one := self.one_of(self.paying)) is not None]
        payments = [(each.id, each.payment_id) for each in paying]
        for outcome in await self.service.confirm_payments(payments):
            self.done[str(outcome)] += 1

    async def fail(self) -> None:
        if (paying := self.one_of(self.paying)) is not None:
            await self.service.return_to_hold(paying.id, paying.payment_id)
            self.held.append(paying)

    async def late(self) -> None:
        """The lease runs out; the success comes later."""
        if (paying := self.one_of(self.paying)) is not None:
            await self.store.lapse(paying.id)
            await asyncio.sleep(self.random.uniform(0, 0.01))
            self.done[
                f"late {await self.service.confirm_payment(paying.id, paying.payment_id)}"
            ] += 1

    async def sweep(self) -> None:
        await self.service.expire_holds()


async def test_no_part_of_a_set_is_ever_held_or_sold(
    real_store: RealReservationStore, database: Database
) -> None:
    """Eight fans on two replicas, about 1,500 steps; the invariants hold at every moment."""
    replicas = [make_service(real_store, locks=UselessLocks()) for _ in range(2)]
    # Sold seats stay sold: so many schedules, one after another.
    done: Counter[str] = Counter()
    for round in range(5):
        seats = new_seats(24)
        fans = [
            Fan(replicas[n % 2], real_store, seats, random.Random(10 * round + n)) for n in range(8)
        ]
        over = asyncio.Event()

        async def check(schedule: int, over: asyncio.Event) -> int:
            for checks in itertools.count(1):
                assert await violations(database, schedule) == []
                if over.is_set():
                    return checks
                await asyncio.sleep(0.005)
            raise AssertionError

        async def live(fan: Fan) -> None:
            for _ in range(40):
                await fan.act()

        schedule = (seats[0] - 1) // 150 + 1
        checking = asyncio.create_task(check(schedule, over))
        await asyncio.gather(*(live(fan) for fan in fans))
        over.set()
        assert await checking > 3
        for fan in fans:
            done += fan.done
    # Each of the ways to end a reservation was taken, and each of the refusals occurred.
    for way in ("hold", "hold: SEAT_HELD", "hold: SEAT_SOLD", "cancel", "lapse", "CONFIRMED"):
        assert done[way] > 5, done
    assert done["late CONFIRMED"], done


async def test_buyers_go_with_their_last_reservation_and_never_under_a_hold(
    real_store: RealReservationStore, database: Database
) -> None:
    """Removals race with the holds of the same users, 40 times: a user who holds something is
    stored, or the limit would not hold."""
    service = make_service(
        real_store, locks=UselessLocks(), retention_days=7, max_seats_per_schedule=2
    )
    for _ in range(40):
        user, seats = next(ids), new_seats(8)
        old = await service.hold_seats(user, seats[:1], "")
        await service.cancel_reservation(old.id, user)
        await real_store.age(old.id, 8)
        await outcomes(
            service.remove_old_rows(),
            *(service.hold_seats(user, [seat], "") for seat in seats[1:5]),
            service.remove_old_rows(),
        )
        async with database.connection() as connection:
            buyers = await connection.fetch_all("SELECT 1 FROM buyer WHERE user_id = %s", user)
            left = await connection.fetch_all(
                "SELECT seat_id FROM reservation WHERE user_id = %s AND status = 'HELD'", user
            )
        assert len(left) == 2
        assert len(buyers) == 1
    # Without a hold at the same time, the user goes.
    lonely = next(ids)
    old = await service.hold_seats(lonely, new_seats(3)[:2], "")
    await service.cancel_reservation(old.id, lonely)
    await real_store.age(old.id, 8)
    await service.remove_old_rows()
    async with database.connection() as connection:
        for sql in (
            "SELECT 1 FROM buyer WHERE user_id = %s",
            "SELECT 1 FROM reservation WHERE user_id = %s",
        ):
            assert await connection.fetch_all(sql, lonely) == []
        seats_of = "SELECT 1 FROM reservation_seat WHERE reservation_id = %s"
        assert await connection.fetch_all(seats_of, old.id) == []
