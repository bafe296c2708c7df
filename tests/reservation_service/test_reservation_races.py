"""Concurrent requests on MariaDB and Redis: the invariants hold in every order."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from reservation_service.domain import Admission, PaymentOf, PaymentOutcome, Reservation, Status
from reservation_service.errors import (
    AdmissionEnded,
    PaymentInProgress,
    RequestInProgress,
    ReservationExpired,
    SeatHeld,
)
from reservation_service.locks import RedisSeatLocks
from reservation_service.payment_repository import PaymentRepository
from reservation_service.ports import SeatLocks
from reservation_service.service import ReservationService
from servicekit import redis_client
from servicekit.errors import ServiceError
from servicekit.mysql import Database
from tests.abandoned import HeldUpDatabase, abandon
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    ids,
    make_service,
    new_admission,
    new_seats,
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    # Patient, so that a slow test machine does not turn locks off.
    async with redis_client.connect(redis_url, timeout=5.0) as client:
        yield client
        await client.connection_pool.disconnect()


@pytest.fixture(params=["redis locks", "useless locks"])
def locks(request: pytest.FixtureRequest) -> SeatLocks:
    if request.param == "useless locks":
        return UselessLocks()
    return RedisSeatLocks(request.getfixturevalue("redis"), lock_seconds=10)


@pytest.fixture
def service(real_store: RealReservationStore, locks: SeatLocks) -> ReservationService:
    return make_service(real_store, locks=locks)


@pytest.fixture
def bare_service(real_store: RealReservationStore) -> ReservationService:
    """Without locks: the database alone."""
    return make_service(real_store, locks=UselessLocks())


async def outcomes(calls: list[Awaitable[Any]]) -> list[Any]:
    """Returns each result or refusal; raises any other error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    return results


def kinds(results: list[Any]) -> Counter[str]:
    return Counter(r.code if isinstance(r, ServiceError) else type(r).__name__ for r in results)


@pytest.mark.parametrize("keyed", [False, True])
async def test_300_takers_of_one_seat(
    service: ReservationService, real_store: RealReservationStore, seat_id: int, keyed: bool
) -> None:
    first = next(ids) * 1000
    results = await outcomes(
        [service.hold_seat(first + n, seat_id, "key" if keyed else "") for n in range(300)]
    )
    assert kinds(results) == {"Reservation": 1, "SEAT_HELD": 299}
    assert await real_store.live_rows(seat_id) == 1


async def test_300_takers_of_one_lapsed_seat(
    service: ReservationService, real_store: RealReservationStore, seat_id: int
) -> None:
    held = await service.hold_seat(1, seat_id, "")
    await real_store.lapse(held.id)
    results = await outcomes([service.hold_seat(2 + n, seat_id, "") for n in range(300)])
    assert kinds(results) == {"Reservation": 1, "SEAT_HELD": 299}
    assert await real_store.live_rows(seat_id) == 1
    assert await real_store.stored(held.id) == Status.EXPIRED


async def test_a_crowd_on_many_seats(
    service: ReservationService, real_store: RealReservationStore
) -> None:
    seats = new_seats(50)
    results = await outcomes(
        [service.hold_seat(1 + n, seat, "") for n in range(10) for seat in seats]
    )
    assert kinds(results) == {"Reservation": 50, "SEAT_HELD": 450}
    assert {r.seats[0].id for r in results if isinstance(r, Reservation)} == set(seats)
    for seat in seats:
        assert await real_store.live_rows(seat) == 1


async def test_holds_and_cancels_never_lose_a_seat(
    bare_service: ReservationService, real_store: RealReservationStore, seat_id: int
) -> None:
    async def fan(user: int) -> int:
        held = 0
        for _ in range(10):
            with contextlib.suppress(SeatHeld):
                reservation = await bare_service.hold_seat(user, seat_id, "")
                held += 1
                assert await real_store.live_rows(seat_id) == 1
                await bare_service.cancel_reservation(reservation.id, user)
        return held

    assert sum(await asyncio.gather(*(fan(1 + n) for n in range(20)))) >= 1
    assert (await bare_service.hold_seat(99, seat_id, "")).user_id == 99


async def test_paying_against_expiry_and_a_taker_at_the_same_moment(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    """The hold expires while its payment begins and another user takes the seat: exactly one of
    the two succeeds, 300 times."""
    tally: Counter[str] = Counter()
    # When the hold expires, in microseconds from now; adapts, so that both outcomes occur.
    ahead = 3000
    for number, seat_id in enumerate(seat for _ in range(3) for seat in new_seats(100)):
        held = await bare_service.hold_seat(1, seat_id, "")
        await real_store.lapse_in(held.id, ahead)
        calls: list[Awaitable[Any]] = [
            bare_service.begin_payment(held.id, 1, next(ids), 0),
            bare_service.hold_seat(2, seat_id, ""),
        ]
        if number % 2:
            began, taken = await outcomes(calls)
        else:
            taken, began = await outcomes(calls[::-1])
        if isinstance(began, ServiceError) and isinstance(taken, ServiceError):
            # The taker came a moment too early; now it must get the seat.
            assert isinstance(began, ReservationExpired)
            assert isinstance(taken, SeatHeld)
            taken = await bare_service.hold_seat(2, seat_id, "")
            tally["early"] += 1
        paid = isinstance(began, Reservation)
        assert paid != isinstance(taken, Reservation)
        assert await real_store.live_rows(seat_id) == 1
        tally["paid" if paid else "taken"] += 1
        ahead = max(100, ahead - 100) if paid else ahead + 100
    assert tally["paid"] + tally["taken"] == 300
    assert min(tally["paid"], tally["taken"]) > 50, "one of the outcomes hardly occurred"


async def test_renewing_a_lease_against_a_taker(real_store: RealReservationStore) -> None:
    """The same for a payment that renews its lease."""
    for seat_id in new_seats(100):
        service = make_service(real_store, locks=UselessLocks())
        payment = next(ids)
        held = await service.hold_seat(1, seat_id, "")
        await service.begin_payment(held.id, 1, payment, 0)
        await real_store.lapse(held.id)
        # Expired before either began: the taker must win.
        began, taken = await outcomes(
            [service.begin_payment(held.id, 1, payment, 0), service.hold_seat(2, seat_id, "")]
        )
        assert isinstance(began, ReservationExpired)
        assert isinstance(taken, Reservation)


async def test_cancel_against_begin(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    tally: Counter[str] = Counter()
    for number, seat_id in enumerate(new_seats(150)):
        held = await bare_service.hold_seat(1, seat_id, "")
        calls: list[Awaitable[Any]] = [
            bare_service.cancel_reservation(held.id, 1),
            bare_service.begin_payment(held.id, 1, next(ids), 0),
        ]
        if number % 2:
            cancelled, began = await outcomes(calls)
        else:
            began, cancelled = await outcomes(calls[::-1])
        if isinstance(began, Reservation):
            assert isinstance(cancelled, PaymentInProgress)
            assert await real_store.stored(held.id) == Status.PAYING
            tally["paying"] += 1
        else:
            assert isinstance(began, ReservationExpired)
            assert cancelled.status == Status.CANCELLED
            assert await real_store.stored(held.id) == Status.CANCELLED
            tally["cancelled"] += 1
    assert sum(tally.values()) == 150


async def test_two_payments_begin_at_once(bare_service: ReservationService) -> None:
    for seat_id in new_seats(100):
        held = await bare_service.hold_seat(1, seat_id, "")
        results = await outcomes(
            [bare_service.begin_payment(held.id, 1, next(ids), 0) for _ in range(3)]
        )
        assert kinds(results) == {"Reservation": 1, "PAYMENT_IN_PROGRESS": 2}


async def test_payments_and_holds_of_one_admission_at_once(
    bare_service: ReservationService,
) -> None:
    """14 payments and 6 holds race, 40 times: one payment begins, and no hold is made after it."""
    before = 0
    user = next(ids)

    def hold(admission: Admission) -> Awaitable[Reservation]:
        return bare_service.hold_seat(user, new_seats(1)[0], "", admission)

    async def begin(
        reservation: Reservation, admission: Admission, head_start: float = 0.0
    ) -> tuple[Reservation, datetime]:
        await asyncio.sleep(head_start)
        paying = await bare_service.begin_payment(reservation.id, user, next(ids), 0, admission)
        return paying, datetime.now(UTC)

    for number in range(40):
        admission = new_admission()
        # A payment begins in fewer round trips than a hold is made, so holds get a head start.
        head_start = number % 4 * 0.003
        held = [await hold(admission) for _ in range(14)]
        results = await outcomes(
            [
                *(hold(admission) for _ in range(3)),
                *(begin(reservation, admission, head_start) for reservation in held),
                *(hold(admission) for _ in range(3)),
            ]
        )
        payments, holds = results[3:17], results[:3] + results[17:]
        assert kinds(payments) == {"tuple": 1, "PAYMENT_IN_PROGRESS": 13}
        assert kinds(holds).keys() <= {"Reservation", "PAYMENT_IN_PROGRESS"}
        [(paying, begun_at)] = [payment for payment in payments if isinstance(payment, tuple)]
        made = [hold.read_at for hold in holds if isinstance(hold, Reservation)]
        assert all(made_at <= begun_at for made_at in made)
        before += len(made)
        await bare_service.confirm_payment(paying.id, paying.payment_id)
        rest = await outcomes(
            [
                *(hold(admission) for _ in range(3)),
                *(
                    begin(reservation, admission)
                    for reservation in held
                    if reservation.id != paying.id
                ),
            ]
        )
        assert kinds(rest) == {"TOKEN_EXPIRED": 16}
    assert 0 < before < 240, "one of the orders never occurred"


async def test_payments_after_a_failed_or_lapsed_one_of_their_admission_at_once(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    user = next(ids)
    for number in range(60):
        admission = new_admission()
        held = [await bare_service.hold_seat(user, s, "", admission) for s in new_seats(9)]
        failed = next(ids)
        await bare_service.begin_payment(held[0].id, user, failed, 0, admission)
        calls: list[Awaitable[Any]] = [
            bare_service.begin_payment(r.id, user, next(ids), failed, admission) for r in held[1:]
        ]
        if number % 3 == 1:
            calls.append(bare_service.return_to_hold(held[0].id, failed))
        elif number % 3 == 2:
            await real_store.lapse(held[0].id)
        results = await outcomes(calls)
        assert kinds(results[:8]) == {"Reservation": 1, "PAYMENT_IN_PROGRESS": 7}


async def test_late_success_against_another_payment_of_its_admission(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    user = next(ids)
    for _ in range(60):
        admission = new_admission()
        late, next_one = [
            await bare_service.hold_seat(user, s, "", admission) for s in new_seats(2)
        ]
        first, second = next(ids), next(ids)
        await bare_service.begin_payment(late.id, user, first, 0, admission)
        await real_store.lapse(late.id)
        confirmed, begun = await outcomes(
            [
                bare_service.confirm_payment(late.id, first),
                bare_service.begin_payment(next_one.id, user, second, 0, admission),
            ]
        )
        if confirmed == PaymentOutcome.CONFIRMED:
            assert isinstance(begun, AdmissionEnded)
        else:
            assert isinstance(begun, Reservation)


async def test_a_hold_is_cancelled_and_taken_again_by_many_requests_at_once(
    real_store: RealReservationStore,
) -> None:
    service = make_service(real_store, locks=UselessLocks(), cool_down_seconds=300.0)
    user = next(ids)
    for seat in new_seats(40):
        first = await service.hold_seat(user, seat, "")
        await real_store.elapse(seat, 100)
        results = await outcomes(
            [
                *(service.hold_seat(user, seat, "") for _ in range(4)),
                service.cancel_reservation(first.id, user),
                *(service.hold_seat(user, seat, "") for _ in range(4)),
            ]
        )
        again = [r for r in results if isinstance(r, Reservation) and r.id != first.id]
        assert len(again) <= 1
        for hold in again:
            assert (hold.lapses_at - hold.read_at).total_seconds() <= 200
        assert await real_store.live_rows(seat) == len(again)


async def test_one_key_many_times_at_once(
    service: ReservationService, real_store: RealReservationStore
) -> None:
    for seat_id in new_seats(20):
        user = next(ids)
        results = await outcomes([service.hold_seat(user, seat_id, "key") for _ in range(15)])
        held = {r.id for r in results if isinstance(r, Reservation)}
        assert len(held) == 1
        assert all(isinstance(r, Reservation | RequestInProgress) for r in results), kinds(results)
        assert await real_store.live_rows(seat_id) == 1


async def test_many_keys_do_not_disturb_each_other(service: ReservationService) -> None:
    user = next(ids)
    seats = new_seats(100)
    results = await outcomes([service.hold_seat(user, s, f"key {s}") for s in seats])
    assert kinds(results) == {"Reservation": 100}
    again = await outcomes([service.hold_seat(user, s, f"key {s}") for s in seats * 2])
    assert [r.id for r in again] == [r.id for r in results] * 2


async def test_a_crash_leaves_no_key_stuck(
    bare_service: ReservationService, database: Database, seat_id: int
) -> None:
    user = next(ids)
    # A process dies during its transaction: its connection closes and nothing else happens.
    with contextlib.suppress(asyncio.CancelledError):
        async with database.transaction() as transaction:
            await transaction.execute(
                "INSERT INTO idempotency_key (user_id, idem_key, seat_id, created_at)"
                " VALUES (%s, 'key', %s, NOW(6))",
                *(user, seat_id),
            )
            with pytest.raises(RequestInProgress):
                await bare_service.hold_seat(user, seat_id, "key")
            raise asyncio.CancelledError
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(RequestInProgress):
                assert (await bare_service.hold_seat(user, seat_id, "key")).user_id == user
                return
            await asyncio.sleep(0.005)


async def test_late_success_against_taker(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    """The seat of a payment whose lease has expired goes to exactly one of two users."""
    for number, seat_id in enumerate(new_seats(100)):
        payment = next(ids)
        held = await bare_service.hold_seat(1, seat_id, "")
        await bare_service.begin_payment(held.id, 1, payment, 0)
        await real_store.lapse(held.id)
        if number % 2:
            await bare_service.expire_holds()
        confirmed, again, taken = await outcomes(
            [
                bare_service.confirm_payment(held.id, payment),
                bare_service.confirm_payment(held.id, payment),
                bare_service.hold_seat(2, seat_id, ""),
            ]
        )
        assert confirmed == again
        assert (confirmed == PaymentOutcome.CONFIRMED) != isinstance(taken, Reservation)
        assert await real_store.live_rows(seat_id) == 1
        sold = 1 if confirmed == PaymentOutcome.CONFIRMED else 0
        held_seats, sold_seats = await bare_service.taken_seats(held.schedule_id)
        assert (seat_id in sold_seats, seat_id in held_seats) == (sold == 1, sold == 0)


async def test_a_schedule_that_sells_out_at_once_is_counted_correctly(
    bare_service: ReservationService,
) -> None:
    seats = new_seats(60)
    held = [await bare_service.hold_seat(1, seat, "") for seat in seats]
    payments = [next(ids) for _ in held]
    for reservation, payment in zip(held, payments, strict=True):
        await bare_service.begin_payment(reservation.id, 1, payment, 0)
    both = list(zip(held, payments, strict=True)) * 2
    confirmed = await outcomes([bare_service.confirm_payment(r.id, p) for r, p in both])
    assert set(confirmed) == {PaymentOutcome.CONFIRMED}
    assert (await bare_service.count_seats([held[0].schedule_id])).sold == {held[0].schedule_id: 60}


async def test_sweeps_of_several_replicas_and_takers(
    bare_service: ReservationService, real_store: RealReservationStore
) -> None:
    await bare_service.expire_holds()
    seats = new_seats(100)
    held = [await bare_service.hold_seat(1, seat, "") for seat in seats]
    for reservation in held:
        await real_store.lapse(reservation.id)
    results = await outcomes(
        [
            *(bare_service.expire_holds() for _ in range(3)),
            *(bare_service.hold_seat(2, seat, "") for seat in seats[::2]),
        ]
    )
    assert kinds(results[3:]) == {"Reservation": 50}
    await bare_service.expire_holds()
    assert {await real_store.stored(r.id) for r in held} == {Status.EXPIRED}


async def test_a_row_that_cannot_be_updated_does_not_stop_the_sweep(
    bare_service: ReservationService, real_store: RealReservationStore, database: Database
) -> None:
    held = [await bare_service.hold_seat(1, seat, "") for seat in new_seats(5)]
    for reservation in held:
        await real_store.lapse(reservation.id)
    odd = held[2].id
    async with database.connection() as connection:
        await connection.execute(
            f"CREATE TRIGGER odd_row BEFORE UPDATE ON reservation FOR EACH ROW IF NEW.id = {odd}"
            " THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'odd'; END IF"
        )
        try:
            await bare_service.expire_holds()
        finally:
            await connection.execute("DROP TRIGGER odd_row")
    assert [await real_store.stored(r.id) for r in held].count(Status.EXPIRED) == 4
    assert await real_store.stored(odd) == Status.HELD
    await bare_service.expire_holds()
    assert await real_store.stored(odd) == Status.EXPIRED


async def test_a_sale_and_its_count_are_atomic_when_the_caller_disconnects(
    mysql_urls: dict[str, str], database: Database, bare_service: ReservationService
) -> None:
    async with HeldUpDatabase(mysql_urls["reservation"]) as slow:
        hasty = PaymentRepository(slow)
        for count, seat_id in enumerate(new_seats(10), 1):
            held = await bare_service.hold_seat(42, seat_id, "")
            payment_id = next(ids)
            await bare_service.begin_payment(held.id, 42, payment_id, 0)
            await abandon(hasty.confirm([PaymentOf(held.id, payment_id)]), database)
            sold = await bare_service.get_reservation(held.id, 42)
            assert sold.status == Status.CONFIRMED
            schedule = held.schedule_id
            assert (await bare_service.count_seats([schedule])).sold == {schedule: count}
