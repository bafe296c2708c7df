"""Paying, and applying the outcome of a payment, on the fake store and on MariaDB."""

import pytest

from reservation_service.domain import PaymentOutcome, Reservation, Status
from reservation_service.errors import (
    AlreadyPaid,
    NotYours,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    SeatSold,
    UnknownPayment,
)
from reservation_service.service import ReservationService
from tests.reservation_service.conftest import (
    HOLDER,
    LEASE_SECONDS,
    OTHER,
    UNKNOWN,
    Store,
    begin,
    confirm,
    ids,
    make_service,
    near,
    new_seats,
    pay,
)


async def test_a_payment_begins_once_and_renews_its_lease(
    service: ReservationService, store: Store, held: Reservation, payment_id: int
) -> None:
    paying = await begin(service, held, payment_id)
    assert (paying.status, paying.payment_id, paying.price) == (
        Status.PAYING,
        payment_id,
        held.price,
    )
    assert near(paying.lapses_at, LEASE_SECONDS)
    again = await begin(service, held, payment_id)
    assert again.lapses_at >= paying.lapses_at
    await store.lapse_hold_only(held.id)
    assert (await begin(service, held, payment_id)).status == Status.PAYING
    with pytest.raises(PaymentInProgress):
        await begin(service, held, next(ids))
    with pytest.raises(NotYours):
        await service.begin_payment(held.id, OTHER, payment_id, 0)
    with pytest.raises(ReservationNotFound):
        await service.begin_payment(UNKNOWN, HOLDER, payment_id, 0)


async def test_a_lease_never_shortens_the_hold(store: Store, seat_id: int, payment_id: int) -> None:
    service = make_service(store, payment_lease_seconds=1.0)
    held = await service.hold_seat(HOLDER, seat_id, "")
    paying = await begin(service, held, payment_id)
    assert paying.lapses_at == held.lapses_at


async def test_begin_payment_returns_the_reservation_of_a_succeeded_payment(
    service: ReservationService, sold: Reservation
) -> None:
    assert (await begin(service, sold, sold.payment_id)).status == Status.CONFIRMED
    with pytest.raises(AlreadyPaid):
        await begin(service, sold, next(ids))


async def test_a_new_payment_begins_before_the_failure_event_of_the_previous_one(
    service: ReservationService, paying: Reservation
) -> None:
    first, second = paying.payment_id, next(ids)
    assert (await begin(service, paying, second, failed=first)).payment_id == second
    # The failure event of the first arrives late and has no effect.
    await service.return_to_hold(paying.id, first)
    assert (await service.get_reservation(paying.id, HOLDER)).payment_id == second


async def test_the_lease_of_a_failed_payment_does_not_extend_the_hold(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse_hold_only(paying.id)
    with pytest.raises(ReservationExpired):
        await begin(service, paying, next(ids), failed=paying.payment_id)


async def test_after_a_failed_payment_the_hold_continues_unchanged(
    service: ReservationService, held: Reservation, paying: Reservation
) -> None:
    for _ in range(2):
        await service.return_to_hold(held.id, paying.payment_id)
        back = await service.get_reservation(held.id, HOLDER)
        assert (back.status, back.lapses_at, back.payment_id) == (Status.HELD, held.lapses_at, 0)
    await pay(service, held, next(ids))
    await service.return_to_hold(held.id, paying.payment_id)
    assert (await service.get_reservation(held.id, HOLDER)).status == Status.CONFIRMED


async def test_confirming_twice_counts_once(
    service: ReservationService, paying: Reservation
) -> None:
    for _ in range(3):
        assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    assert (await service.count_seats([paying.schedule_id])).sold == {paying.schedule_id: 1}
    assert await service.taken_seats(paying.schedule_id) == ([], [paying.seats[0].id])


async def test_a_late_success_confirms_an_expired_payment(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse(paying.id)
    assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    assert (await service.get_reservation(paying.id, HOLDER)).status == Status.CONFIRMED


async def test_a_late_success_confirms_after_the_sweep(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse(paying.id)
    await service.expire_holds()
    assert await store.stored(paying.id) == Status.EXPIRED
    for _ in range(2):
        assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    assert (await service.count_seats([paying.schedule_id])).sold == {paying.schedule_id: 1}
    with pytest.raises(SeatSold):
        await service.hold_seat(OTHER, paying.seats[0].id, "")


async def test_a_late_success_takes_the_seat_of_an_expired_hold(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse(paying.id)
    taken = await service.hold_seat(OTHER, paying.seats[0].id, "")
    await store.lapse(taken.id)
    assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    assert await store.stored(taken.id) == Status.EXPIRED


async def test_a_late_success_loses_a_taken_seat_for_good(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse(paying.id)
    taken = await service.hold_seat(OTHER, paying.seats[0].id, "")
    assert await confirm(service, paying) == PaymentOutcome.SEAT_LOST
    # The seat is free now and the event is delivered again: the payment is refunded nevertheless.
    await service.cancel_reservation(taken.id, OTHER)
    assert await confirm(service, paying) == PaymentOutcome.SEAT_LOST
    assert (await service.count_seats([paying.schedule_id])).sold == {}
    assert (await service.hold_seat(3, paying.seats[0].id, "")).user_id == 3


@pytest.mark.parametrize("failure_arrived", [True, False])
async def test_a_second_payment_of_a_sold_seat_loses_it(
    service: ReservationService, paying: Reservation, failure_arrived: bool
) -> None:
    first, second = paying.payment_id, next(ids)
    if failure_arrived:
        await service.return_to_hold(paying.id, first)
    await begin(service, paying, second, failed=first)
    assert await service.confirm_payment(paying.id, second) == PaymentOutcome.CONFIRMED
    for _ in range(2):
        assert await service.confirm_payment(paying.id, first) == PaymentOutcome.SEAT_LOST
        assert await service.confirm_payment(paying.id, second) == PaymentOutcome.CONFIRMED


@pytest.mark.parametrize("failure_arrived", [True, False])
async def test_an_earlier_payment_that_succeeds_after_all_confirms(
    service: ReservationService, paying: Reservation, failure_arrived: bool
) -> None:
    first, second = paying.payment_id, next(ids)
    if failure_arrived:
        await service.return_to_hold(paying.id, first)
    await begin(service, paying, second, failed=first)
    for _ in range(2):
        assert await service.confirm_payment(paying.id, first) == PaymentOutcome.CONFIRMED
    # The second one is known, too: its payer gets the money back.
    assert await service.confirm_payment(paying.id, second) == PaymentOutcome.SEAT_LOST


@pytest.mark.parametrize("state", ["held", "paying", "lapsed", "cancelled", "sold"])
async def test_a_payment_that_never_began_changes_nothing(
    service: ReservationService, store: Store, held: Reservation, payment_id: int, state: str
) -> None:
    match state:
        case "paying":
            await begin(service, held, payment_id)
        case "lapsed":
            await begin(service, held, payment_id)
            await store.lapse(held.id)
            await service.expire_holds()
        case "cancelled":
            await service.cancel_reservation(held.id, HOLDER)
        case "sold":
            await pay(service, held, payment_id)
    # Began, but for another reservation.
    elsewhere = await service.hold_seat(HOLDER, new_seats(1)[0], "")
    of_another = next(ids)
    await begin(service, elsewhere, of_another)
    before = await service.get_reservation(held.id, HOLDER)
    for forged in (next(ids), of_another):
        with pytest.raises(UnknownPayment):
            await service.confirm_payment(held.id, forged)
        with pytest.raises(UnknownPayment):
            await service.return_to_hold(held.id, forged)
    after = await service.get_reservation(held.id, HOLDER)
    assert (after.status, after.payment_id) == (before.status, before.payment_id)
    assert (await service.count_seats([held.schedule_id])).sold == (
        {held.schedule_id: 1} if state == "sold" else {}
    )


async def test_events_of_an_unknown_reservation_are_refused(
    service: ReservationService, payment_id: int
) -> None:
    with pytest.raises(ReservationNotFound):
        await service.confirm_payment(UNKNOWN, payment_id)
    with pytest.raises(ReservationNotFound):
        await service.return_to_hold(UNKNOWN, payment_id)
