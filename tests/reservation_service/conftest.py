"""Services over the fake and the real store, unused seats, and the steps of a payment."""

import itertools
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from reservation_service.domain import Admission, PaymentOutcome, Reservation, Status
from reservation_service.hold_repository import HoldRepository
from reservation_service.house_repository import HouseRepository
from reservation_service.payment_repository import PaymentRepository
from reservation_service.repository import ReservationRepository
from reservation_service.service import ReservationService
from servicekit.mysql import Database
from tests.fakes.reservation import (
    SEATS_PER_SCHEDULE,
    FakeReservationStore,
    FakeSeatDirectory,
    FakeSeatLocks,
)

HOLD_SECONDS = 300.0
LEASE_SECONDS = 600.0
# No reservation has this id, and these users hold seats in many tests.
UNKNOWN = 2**62
HOLDER, OTHER = 1, 2

# The schema may be shared with other tests: schedules begin where nobody else's are.
_schedules = itertools.count(10**9 + int(time.time()) * 1000)
ids = itertools.count(int(time.time() * 1000))


class RealReservationStore(
    HoldRepository, PaymentRepository, ReservationRepository, HouseRepository
):
    """The repositories, and what tests do to the store."""

    async def lapse(self, reservation_id: int) -> None:
        await self._execute(
            "UPDATE reservation SET lapses_at = NOW(6) - INTERVAL 1000 MICROSECOND,"
            " held_until = LEAST(held_until, lapses_at) WHERE id = %s",
            reservation_id,
        )

    async def elapse(self, seat_id: int, seconds: float) -> None:
        await self._execute(
            "UPDATE reservation SET held_until = held_until - INTERVAL %s SECOND,"
            " lapses_at = lapses_at - INTERVAL %s SECOND,"
            " updated_at = updated_at - INTERVAL %s SECOND WHERE seat_id = %s",
            *(seconds, seconds, seconds, seat_id),
        )

    async def lapse_hold_only(self, reservation_id: int) -> None:
        await self._execute(
            "UPDATE reservation SET held_until = NOW(6) - INTERVAL 1000 MICROSECOND WHERE id = %s",
            reservation_id,
        )

    async def lapse_in(self, reservation_id: int, microseconds: int) -> None:
        await self._execute(
            "UPDATE reservation SET lapses_at = NOW(6) + INTERVAL %s MICROSECOND,"
            " held_until = lapses_at WHERE id = %s",
            microseconds,
            reservation_id,
        )

    async def age(self, reservation_id: int, days: float) -> None:
        await self._execute(
            "UPDATE reservation SET held_until = held_until - INTERVAL %s SECOND,"
            " lapses_at = lapses_at - INTERVAL %s SECOND WHERE id = %s",
            days * 86_400,
            days * 86_400,
            reservation_id,
        )

    async def age_keys(self, hours: int) -> None:
        await self._execute(
            "UPDATE idempotency_key SET created_at = created_at - INTERVAL %s HOUR", hours
        )

    async def stored(self, reservation_id: int) -> Status:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(
                "SELECT status FROM reservation WHERE id = %s", reservation_id
            )
        assert row is not None
        return Status(row[0])

    async def live_rows(self, seat_id: int) -> int:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(
                "SELECT COUNT(*) FROM reservation WHERE seat_id = %s"
                " AND status IN ('HELD', 'PAYING', 'CONFIRMED')",
                seat_id,
            )
        assert row is not None
        return int(row[0])

    async def claims(self, schedule_id: int) -> dict[int, int]:
        """The reservation of each seat of the schedule that is claimed."""
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(
                "SELECT seat_id, reservation_id FROM seat_claim"
                " WHERE schedule_id = %s AND reservation_id > 0",
                schedule_id,
            )
        return {row.seat_id: row.reservation_id for row in rows}

    async def _execute(self, sql: str, *values: object) -> None:
        async with self._database.connection() as connection:
            await connection.execute(sql, *values)


Store = FakeReservationStore | RealReservationStore


def new_seats(count: int) -> list[int]:
    """Seats of one schedule that no other test has touched."""
    first = (next(_schedules) - 1) * SEATS_PER_SCHEDULE + 1
    return list(range(first, first + count))


def schedule_of(seat_id: int) -> int:
    return (seat_id - 1) // SEATS_PER_SCHEDULE + 1


@pytest.fixture
def seat_id() -> int:
    return new_seats(1)[0]


@pytest.fixture
def payment_id() -> int:
    return next(ids)


@pytest.fixture
def admission() -> Admission:
    """An admission that no other test uses."""
    return new_admission()


def new_admission() -> Admission:
    return Admission("main", next(ids))


@pytest.fixture
async def database(mysql_urls: dict[str, str]) -> AsyncIterator[Database]:
    async with Database(mysql_urls["reservation"], max_size=16, acquire_timeout=10.0) as database:
        yield database


@pytest.fixture
def real_store(database: Database) -> RealReservationStore:
    return RealReservationStore(database)


@pytest.fixture(params=["fake", "real"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The contract's stores."""
    if request.param == "fake":
        yield FakeReservationStore()
    else:
        yield request.getfixturevalue("real_store")


def make_service(store: Store, **changes: object) -> ReservationService:
    arguments: dict[str, object] = {
        "directory": FakeSeatDirectory(),
        "locks": FakeSeatLocks(),
        "hold_seconds": HOLD_SECONDS,
        # Most tests have few users, who hold a seat again and again.
        "cool_down_seconds": 0.0,
        "payment_lease_seconds": LEASE_SECONDS,
    }
    return ReservationService(store, store, store, **(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture
def service(store: Store) -> ReservationService:
    return make_service(store)


@pytest.fixture
async def held(service: ReservationService, seat_id: int) -> Reservation:
    """HOLDER holds the seat."""
    return await service.hold_seat(HOLDER, seat_id, "")


@pytest.fixture
async def paying(service: ReservationService, held: Reservation, payment_id: int) -> Reservation:
    """The reservation `held`, whose first payment has begun."""
    return await begin(service, held, payment_id)


@pytest.fixture
async def sold(service: ReservationService, held: Reservation, payment_id: int) -> Reservation:
    """The reservation `held`, paid for."""
    return await pay(service, held, payment_id)


async def begin(
    service: ReservationService,
    held: Reservation,
    payment_id: int,
    *,
    failed: int = 0,
    admission: Admission | None = None,
) -> Reservation:
    """Its user begins a payment; `failed` is the previous payment, 0 if none."""
    return await service.begin_payment(held.id, held.user_id, payment_id, failed, admission)


async def pay(service: ReservationService, held: Reservation, payment_id: int) -> Reservation:
    """Its user pays. Returns the reservation afterwards."""
    paying = await begin(service, held, payment_id)
    assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    return await service.get_reservation(held.id, held.user_id)


async def confirm(service: ReservationService, paying: Reservation) -> PaymentOutcome:
    """Applies the success of the payment that has begun."""
    return await service.confirm_payment(paying.id, paying.payment_id)


def near(moment: datetime, seconds_from_now: float) -> bool:
    """Whether a moment is so far away, within 5 s."""
    return abs((moment - datetime.now(UTC)).total_seconds() - seconds_from_now) < 5
