"""Payments that travel in groups, of reservations of several seats: on the fake store and on
MariaDB."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from reservation_service.domain import (
    Admission,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
    Reservation,
    Status,
)
from reservation_service.errors import (
    AdmissionEnded,
    NotYours,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    SeatHeld,
    UnknownPayment,
)
from reservation_service.phase import SESSION
from reservation_service.service import ReservationService
from servicekit import call_context
from servicekit.errors import InvalidRequest, Unavailable
from servicekit.mysql import Database, DatabaseError
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    Store,
    begin,
    ids,
    make_service,
    new_admission,
    new_seats,
)

UNKNOWN = 2**62


async def hold(
    service: ReservationService,
    seats: Sequence[int],
    *,
    user: int = 0,
    admission: Admission | None = None,
) -> Reservation:
    """A user, a new one by default, holds the seats."""
    return await service.hold_seats(user or next(ids), seats, "", admission)


async def hold_sets(service: ReservationService, count: int) -> list[Reservation]:
    """So many users hold 1 to 4 seats each."""
    return [await hold(service, new_seats(1 + n % 4)) for n in range(count)]


def start(held: Reservation, payment: int = 0, **changes: int | Admission | None) -> PaymentStart:
    values = {"user_id": held.user_id, "payment_id": payment or next(ids), **changes}
    return PaymentStart(held.id, **values)  # type: ignore[arg-type]


async def paying_sets(service: ReservationService, count: int) -> list[Reservation]:
    begun = await service.begin_payments([start(h) for h in await hold_sets(service, count)])
    return [one for one in begun if isinstance(one, Reservation)]


def pairs(paying: Sequence[Reservation]) -> list[tuple[int, int]]:
    return [(each.id, each.payment_id) for each in paying]


def seat_ids(reservation: Reservation) -> list[int]:
    return [seat.id for seat in reservation.seats]


# Beginning.


async def test_each_payment_of_a_group_has_its_own_result(
    service: ReservationService, store: Store
) -> None:
    mine, lapsed, cancelled, paid, renewed = await hold_sets(service, 5)
    await store.lapse(lapsed.id)
    await service.cancel_reservation(cancelled.id, cancelled.user_id)
    old = next(ids)
    await begin(service, paid, old)
    await service.confirm_payment(paid.id, old)
    await begin(service, renewed, old + 1)
    results = await service.begin_payments(
        [
            start(renewed, old + 1),
            start(mine, user_id=UNKNOWN),
            start(mine, 7),
            start(lapsed),
            PaymentStart(UNKNOWN, 1, 8),
            start(mine, admission=Admission("", 0)),
            start(cancelled),
            start(paid, old),
            start(mine, 9),
            start(mine, 7),
        ]
    )
    kinds = [
        Reservation,
        NotYours,
        Reservation,
        ReservationExpired,
        ReservationNotFound,
        InvalidRequest,
        ReservationExpired,
        Reservation,
        PaymentInProgress,
        Reservation,
    ]
    assert [type(result) for result in results] == kinds
    again, begun, done, repeated = [r for r in results if isinstance(r, Reservation)]
    assert (again.payment_id, again.seats) == (old + 1, renewed.seats)
    assert (begun.id, begun.status, begun.payment_id) == (mine.id, Status.PAYING, 7)
    assert (begun.seats, begun.price) == (mine.seats, mine.price)
    assert (done.status, done.payment_id) == (Status.CONFIRMED, old)
    assert repeated.payment_id == 7


async def test_of_the_payments_of_an_admission_in_a_group_one_begins(
    service: ReservationService,
) -> None:
    one, two = new_admission(), new_admission()
    user = next(ids)
    held = [await hold(service, new_seats(2), user=user, admission=one) for _ in range(3)]
    elsewhere = await hold(service, new_seats(2), user=user, admission=two)
    starts = [start(each, admission=one) for each in held]
    # The last names no admission: it has the one that the reservation was made with.
    starts += [start(elsewhere, admission=two), start(held[1])]
    first, second, third, other, last = await service.begin_payments(starts)
    assert isinstance(first, Reservation)
    assert isinstance(other, Reservation)
    for refused in (second, third, last):
        assert isinstance(refused, PaymentInProgress)
        assert refused.metadata["payment_id"] == str(first.payment_id)
    await service.confirm_payments(pairs([first, other]))
    results = await service.begin_payments([start(held[1]), start(held[2])])
    assert [type(result) for result in results] == [AdmissionEnded, AdmissionEnded]


async def test_payments_after_failed_ones_begin_in_a_group(service: ReservationService) -> None:
    """Their failure events have not arrived; one of the failed payments is of another reservation
    of its admission."""
    paying = await paying_sets(service, 3)
    admission = new_admission()
    failed, next_one = [
        await hold(service, new_seats(2), user=1000 + n, admission=admission) for n in range(2)
    ]
    stuck = await begin(service, failed, next(ids), admission=admission)
    starts = [start(each, failed_payment_id=each.payment_id) for each in paying]
    starts.append(start(next_one, failed_payment_id=stuck.payment_id))
    begun = await service.begin_payments(starts)
    assert [each.payment_id for each in begun if isinstance(each, Reservation)] == [
        each.payment_id for each in starts
    ]
    # Both payments of each are known.
    assert await service.return_payments_to_hold(pairs(paying)) == [None] * 3
    assert (await service.get_reservation(stuck.id, stuck.user_id)).status == Status.HELD
    assert await service.confirm_payments(pairs(paying[:1])) == [PaymentOutcome.CONFIRMED]


# Confirming and returning.


async def test_a_group_of_successes_confirms_and_counts_each_seat_once(
    service: ReservationService,
) -> None:
    paying = await paying_sets(service, 6)
    both = pairs(paying)
    outcomes = await service.confirm_payments([*both, *both[:2]])
    assert outcomes == [PaymentOutcome.CONFIRMED] * 8
    assert await service.confirm_payments(both) == [PaymentOutcome.CONFIRMED] * 6
    for each in paying:
        read = await service.get_reservation(each.id, each.user_id)
        assert (read.status, read.seats) == (Status.CONFIRMED, each.seats)
        assert await service.taken_seats(each.schedule_id) == ([], seat_ids(each))
        assert await service.sold_seats([each.schedule_id]) == {each.schedule_id: len(each.seats)}


async def test_several_sales_of_a_schedule_in_a_group_are_counted(
    service: ReservationService,
) -> None:
    seats = new_seats(9)
    held = [await hold(service, seats[n : n + 3]) for n in (0, 3, 6)]
    begun = await service.begin_payments([start(each) for each in held])
    paying = [each for each in begun if isinstance(each, Reservation)]
    assert await service.confirm_payments(pairs(paying)) == [PaymentOutcome.CONFIRMED] * 3
    assert await service.sold_seats([held[0].schedule_id]) == {held[0].schedule_id: 9}


async def test_each_success_of_a_group_has_its_own_outcome(
    service: ReservationService, store: Store
) -> None:
    simple, late, lost, other, unbegun = await paying_sets(service, 5)
    for each in (late, lost):
        await store.lapse(each.id)
    await service.expire_holds()
    # Somebody took one of the seats.
    await hold(service, seat_ids(lost)[-1:])
    outcomes = await service.confirm_payments(
        [
            (UNKNOWN, next(ids)),
            *pairs([lost, simple]),
            (unbegun.id, next(ids)),
            *pairs([late, other, lost]),
        ]
    )
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        ReservationNotFound.code,
        PaymentOutcome.SEAT_LOST,
        PaymentOutcome.CONFIRMED,
        UnknownPayment.code,
        PaymentOutcome.CONFIRMED,
        PaymentOutcome.CONFIRMED,
        PaymentOutcome.SEAT_LOST,
    ]
    assert (await service.get_reservation(late.id, late.user_id)).seats == late.seats
    # None of the seats of the lost one stays taken, but for the one that somebody took.
    taken = await service.taken_seats(lost.schedule_id)
    assert taken == (seat_ids(lost)[-1:], [])


async def test_two_payments_of_a_reservation_take_effect_in_their_order(
    service: ReservationService,
) -> None:
    [first] = await paying_sets(service, 1)
    second = start(first, failed_payment_id=first.payment_id)
    await service.begin_payments([second])
    outcomes = await service.confirm_payments(
        [(first.id, first.payment_id), (first.id, second.payment_id)]
    )
    assert outcomes == [PaymentOutcome.CONFIRMED, PaymentOutcome.SEAT_LOST]


async def test_a_group_of_failures_returns_each_to_its_hold(
    service: ReservationService, store: Store
) -> None:
    one, two, gone, sold = await paying_sets(service, 4)
    await store.lapse(gone.id)
    await service.expire_holds()
    await service.confirm_payments(pairs([sold]))
    events = [*pairs([one]), (two.id, next(ids)), *pairs([gone, two, sold]), (UNKNOWN, 1)]
    for _ in range(2):
        results = await service.return_payments_to_hold(events)
        assert [getattr(result, "code", result) for result in results] == [
            None,
            UnknownPayment.code,
            None,
            None,
            None,
            ReservationNotFound.code,
        ]
    for each, status in (
        (one, Status.HELD),
        (two, Status.HELD),
        (gone, Status.EXPIRED),
        (sold, Status.CONFIRMED),
    ):
        assert (await service.get_reservation(each.id, each.user_id)).status == status
    assert await service.taken_seats(one.schedule_id) == (seat_ids(one), [])


# Sets of seats.


async def test_a_late_success_gets_all_seats_again_from_lapsed_holds(
    service: ReservationService, store: Store
) -> None:
    seats = new_seats(6)
    late = await begin(service, await hold(service, seats[1:5]), next(ids))
    await store.lapse(late.id)
    # Each takes one of its seats, and another one.
    left, right = [await hold(service, seats[n : n + 2]) for n in (0, 4)]
    for each in (left, right):
        await store.lapse(each.id)
    assert await service.confirm_payments(pairs([late])) == [PaymentOutcome.CONFIRMED]
    assert await service.taken_seats(late.schedule_id) == ([], seats[1:5])
    assert await store.stored(left.id) == Status.EXPIRED
    # Their other seats are free.
    for seat in (seats[0], seats[5]):
        await hold(service, [seat])


async def test_a_late_success_gets_no_seat_if_one_is_taken(
    service: ReservationService, store: Store
) -> None:
    seats = new_seats(4)
    late = await begin(service, await hold(service, seats), next(ids))
    await store.lapse(late.id)
    lapsed, live = await hold(service, seats[:2]), await hold(service, seats[3:])
    await store.lapse(lapsed.id)
    for _ in range(2):
        assert await service.confirm_payments(pairs([late])) == [PaymentOutcome.SEAT_LOST]
    assert await service.taken_seats(late.schedule_id) == (seat_ids(live), [])
    await hold(service, seats[:3])


@pytest.mark.parametrize("end", ["cancel", "leave", "lapse", "sweep"])
async def test_all_seats_of_a_reservation_are_freed_at_once(
    service: ReservationService, store: Store, end: str
) -> None:
    seats, admission = new_seats(5), new_admission()
    held = await hold(service, seats[:4], admission=admission)
    with pytest.raises(SeatHeld) as refused:
        await hold(service, seats[2:])
    assert refused.value.metadata["conflicts"] == f"{seats[2]},{seats[3]}"
    match end:
        case "cancel":
            cancelled = await service.cancel_reservation(held.id, held.user_id)
            assert (cancelled.status, cancelled.seats) == (Status.CANCELLED, held.seats)
        case "leave":
            assert await service.cancel_holds(held.user_id, admission) == 1
        case _:
            await store.lapse(held.id)
            if end == "sweep":
                await service.expire_holds()
    assert await service.taken_seats(held.schedule_id) == ([], [])
    one, two = await hold(service, seats[3:]), await hold(service, seats[:3])
    assert await service.taken_seats(held.schedule_id) == (seats, [])
    # Ending it again does not free what others hold.
    await service.cancel_reservation(held.id, held.user_id)
    await service.expire_holds()
    assert await service.taken_seats(held.schedule_id) == (seats, [])
    for each in (one, two):
        assert (await service.get_reservation(each.id, each.user_id)).status == Status.HELD


async def test_taken_seats_of_several_schedules_in_one_call(service: ReservationService) -> None:
    one, two = await paying_sets(service, 2)
    await service.confirm_payments(pairs([two]))
    wanted = [two.schedule_id, UNKNOWN, one.schedule_id, two.schedule_id]
    assert await service.taken_seats_of(wanted) == [
        ([], seat_ids(two)),
        ([], []),
        (seat_ids(one), []),
        ([], seat_ids(two)),
    ]
    assert await service.taken_seats_of([]) == []


# On MariaDB alone.


@pytest.fixture
async def hasty(mysql_urls: dict[str, str]) -> AsyncIterator[RealReservationStore]:
    """A store that waits for a lock for one second."""
    async with Database(mysql_urls["reservation"], query_timeout=1.9, session=SESSION) as database:
        yield RealReservationStore(database)


async def test_a_group_is_one_transaction(
    real_store: RealReservationStore, database: Database
) -> None:
    service = make_service(real_store)
    held = await hold_sets(service, 20)

    async def commits() -> int:
        async with database.connection() as connection:
            row = await connection.fetch_one("SHOW GLOBAL STATUS LIKE 'Handler_commit'")
            assert row is not None
            return int(row[1])

    begins = await service.begin_payments([start(each) for each in held])
    paying = [each for each in begins if isinstance(each, Reservation)]
    before = await commits()
    assert set(await service.confirm_payments(pairs(paying))) == {PaymentOutcome.CONFIRMED}
    in_group = await commits() - before
    assert in_group < 10, "one transaction for 20 confirmations, and what reads the status"


@pytest.mark.parametrize("step", ["begin", "confirm", "return"])
async def test_a_poisoned_item_fails_alone(
    real_store: RealReservationStore, database: Database, step: str
) -> None:
    """MariaDB refuses every change of one reservation."""
    service = make_service(real_store)
    reservations = await hold_sets(service, 4)
    if step != "begin":
        begun = await service.begin_payments([start(each) for each in reservations])
        reservations = [each for each in begun if isinstance(each, Reservation)]
    odd = reservations[2].id
    async with database.connection() as connection:
        await connection.execute(
            f"CREATE TRIGGER odd_row BEFORE UPDATE ON reservation FOR EACH ROW IF NEW.id = {odd}"
            " THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'odd'; END IF"
        )
        results: Sequence[object]
        try:
            if step == "begin":
                results = await service.begin_payments([start(each) for each in reservations])
            elif step == "confirm":
                results = await real_store.confirm(_payments(reservations))
            else:
                results = await real_store.return_to_hold(_payments(reservations))
            if step != "begin":
                call = {
                    "confirm": service.confirm_payments,
                    "return": service.return_payments_to_hold,
                }[step]
                with pytest.raises(DatabaseError):  # the consumer learns of it
                    await call(pairs(reservations))
        finally:
            await connection.execute("DROP TRIGGER odd_row")
    assert [isinstance(result, DatabaseError) for result in results] == [False, False, True, False]
    expected = {"begin": Status.PAYING, "confirm": Status.CONFIRMED, "return": Status.HELD}[step]
    before = Status.HELD if step == "begin" else Status.PAYING
    stored = [await real_store.stored(each.id) for each in reservations]
    assert stored == [expected, expected, before, expected]


def _payments(reservations: Sequence[Reservation]) -> list[PaymentOf]:
    return [PaymentOf(each.id, each.payment_id) for each in reservations]


async def test_a_locked_reservation_holds_up_no_other_group(
    hasty: RealReservationStore, real_store: RealReservationStore, database: Database
) -> None:
    service = make_service(hasty, locks=UselessLocks())
    held = await hold_sets(service, 8)
    async with database.transaction() as stuck:
        await stuck.fetch_one("SELECT id FROM reservation WHERE id = %s FOR UPDATE", held[0].id)
        behind = asyncio.create_task(service.begin_payments([start(each) for each in held[:3]]))
        await asyncio.sleep(0.1)
        # Those of the next groups do not wait for it at all.
        async with asyncio.timeout(0.6):
            results = await service.begin_payments([start(each) for each in held[3:]])
        assert {type(result) for result in results} == {Reservation}
        locked, *others = await behind
        assert isinstance(locked, Unavailable)
        assert {type(result) for result in others} == {Reservation}
    assert await real_store.stored(held[0].id) == Status.HELD
    assert isinstance((await service.begin_payments([start(held[0])]))[0], Reservation)


async def test_a_caller_with_little_time_does_not_fail_its_group(
    real_store: RealReservationStore,
) -> None:
    service = make_service(real_store)
    hurried, *others = await hold_sets(service, 5)

    async def hurry() -> None:
        call_context.set_deadline(0.0)
        await service.begin_payments([start(hurried)])

    first = asyncio.create_task(hurry())
    results = await asyncio.gather(*(service.begin_payments([start(each)]) for each in others))
    assert {type(result) for [result] in results} == {Reservation}
    with contextlib.suppress(TimeoutError):
        await first
