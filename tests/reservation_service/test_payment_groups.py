"""Payments that begin and end in groups: on the fake store and on MariaDB."""

from reservation_service.domain import Admission, PaymentOutcome, PaymentStart, Reservation, Status
from reservation_service.errors import (
    AdmissionEnded,
    NotYours,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    UnknownPayment,
)
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.reservation_service.conftest import UNKNOWN, Store, begin, ids, new_admission, new_seats
from tests.reservation_service.payment_steps import (
    hold,
    hold_sets,
    pairs,
    paying_sets,
    seat_ids,
    start,
)

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
        assert (await service.count_seats([each.schedule_id])).sold == {
            each.schedule_id: len(each.seats)
        }


async def test_several_sales_of_a_schedule_in_a_group_are_counted(
    service: ReservationService,
) -> None:
    seats = new_seats(9)
    held = [await hold(service, seats[n : n + 3]) for n in (0, 3, 6)]
    begun = await service.begin_payments([start(each) for each in held])
    paying = [each for each in begun if isinstance(each, Reservation)]
    assert await service.confirm_payments(pairs(paying)) == [PaymentOutcome.CONFIRMED] * 3
    assert (await service.count_seats([held[0].schedule_id])).sold == {held[0].schedule_id: 9}


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
