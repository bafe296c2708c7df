"""Holding, cancelling and paying: the same tests on the fake store and on MariaDB."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from reservation_service.domain import (
    Admission,
    AdmissionEnded,
    AlreadyPaid,
    NotYours,
    PaymentInProgress,
    PaymentOutcome,
    Reservation,
    ReservationExpired,
    ReservationNotFound,
    SeatCoolsDown,
    SeatHeld,
    SeatNotFound,
    SeatSold,
    Status,
    UnknownPayment,
)
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.fakes.reservation import FakeSeatDirectory
from tests.reservation_service.conftest import (
    HOLD_SECONDS,
    LEASE_SECONDS,
    Store,
    begin,
    confirm,
    ids,
    make_service,
    new_admission,
    new_seats,
    pay,
    schedule_of,
)

UNKNOWN = 2**62
HOLDER, OTHER = 1, 2


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


def near(moment: datetime, seconds_from_now: float) -> bool:
    return abs((moment - datetime.now(UTC)).total_seconds() - seconds_from_now) < 5


# Holding.


async def test_a_hold_returns_the_seat_and_its_end(
    service: ReservationService, seat_id: int
) -> None:
    held = await service.hold_seat(42, seat_id, "")
    assert (held.user_id, held.seats[0].id, held.schedule_id) == (42, seat_id, schedule_of(seat_id))
    assert (held.seats[0].seat_num, held.price, held.status) == (
        "A1",
        Decimal(150_000),
        Status.HELD,
    )
    assert held.payment_id == 0
    assert near(held.lapses_at, HOLD_SECONDS)
    again = await service.get_reservation(held.id, 42)
    assert (again.id, again.price, again.lapses_at) == (held.id, held.price, held.lapses_at)


@pytest.mark.parametrize("taker", [HOLDER, OTHER])
async def test_nobody_can_hold_a_held_seat(
    service: ReservationService, held: Reservation, taker: int
) -> None:
    with pytest.raises(SeatHeld):
        await service.hold_seat(taker, held.seats[0].id, "")


async def test_nobody_can_hold_a_sold_seat(service: ReservationService, sold: Reservation) -> None:
    with pytest.raises(SeatSold):
        await service.hold_seat(OTHER, sold.seats[0].id, "")
    with pytest.raises(SeatSold):
        await service.hold_seat(OTHER, sold.seats[0].id, f"sold-{sold.seats[0].id}")


async def test_nobody_can_hold_a_seat_that_is_being_paid(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse_hold_only(paying.id)
    with pytest.raises(SeatHeld):
        await service.hold_seat(OTHER, paying.seats[0].id, "")


async def test_an_unknown_seat_cannot_be_held(store: Store) -> None:
    service = make_service(store, directory=FakeSeatDirectory(last=10))
    with pytest.raises(SeatNotFound):
        await service.hold_seat(1, 11, "")


@pytest.mark.parametrize(
    ("user_id", "seat_id", "key"),
    [(0, 1, ""), (-1, 1, ""), (1, 0, ""), (1, -1, ""), (1, 1, "k" * 256)],
)
async def test_invalid_requests_are_refused(
    service: ReservationService, user_id: int, seat_id: int, key: str
) -> None:
    with pytest.raises(InvalidRequest):
        await service.hold_seat(user_id, seat_id, key)


# Expiry. No sweep runs in these tests.


async def test_an_expired_hold_is_void_at_once(
    service: ReservationService, store: Store, held: Reservation, payment_id: int
) -> None:
    await store.lapse(held.id)
    assert (await service.get_reservation(held.id, HOLDER)).status == Status.EXPIRED
    assert await store.stored(held.id) == Status.HELD
    with pytest.raises(ReservationExpired):
        await begin(service, held, payment_id)
    assert await service.taken_seats(held.schedule_id) == ([], [])
    taken = await service.hold_seat(OTHER, held.seats[0].id, "")
    assert taken.status == Status.HELD
    assert await store.stored(held.id) == Status.EXPIRED
    assert await service.taken_seats(held.schedule_id) == ([held.seats[0].id], [])


async def test_a_hold_expires_by_the_clock(store: Store, seat_id: int) -> None:
    service = make_service(store, hold_seconds=0.05)
    held = await service.hold_seat(HOLDER, seat_id, "")
    with pytest.raises(SeatHeld):
        await service.hold_seat(OTHER, seat_id, "")
    await asyncio.sleep(0.06)
    assert (await service.hold_seat(OTHER, seat_id, f"short-{seat_id}")).user_id == OTHER
    assert (await service.get_reservation(held.id, HOLDER)).status == Status.EXPIRED


async def test_a_payment_whose_lease_expired_is_void(
    service: ReservationService, store: Store, paying: Reservation
) -> None:
    await store.lapse(paying.id)
    with pytest.raises(ReservationExpired):
        await begin(service, paying, paying.payment_id)
    assert (await service.hold_seat(OTHER, paying.seats[0].id, "")).user_id == OTHER


# Reading and cancelling.


async def test_only_its_user_reads_a_reservation(
    service: ReservationService, held: Reservation
) -> None:
    with pytest.raises(NotYours):
        await service.get_reservation(held.id, OTHER)
    with pytest.raises(ReservationNotFound):
        await service.get_reservation(UNKNOWN, HOLDER)


async def test_cancelling_frees_the_seat_at_once(
    service: ReservationService, held: Reservation, payment_id: int
) -> None:
    assert (await service.cancel_reservation(held.id, HOLDER)).status == Status.CANCELLED
    assert (await service.cancel_reservation(held.id, HOLDER)).status == Status.CANCELLED
    with pytest.raises(ReservationExpired):
        await begin(service, held, payment_id)
    assert await service.taken_seats(held.schedule_id) == ([], [])
    assert (await service.hold_seat(OTHER, held.seats[0].id, "")).user_id == OTHER
    # Cancelling the first reservation again does not affect the second user's hold.
    await service.cancel_reservation(held.id, HOLDER)
    assert await service.taken_seats(held.schedule_id) == ([held.seats[0].id], [])


async def test_refused_cancellations(
    service: ReservationService, held: Reservation, payment_id: int
) -> None:
    with pytest.raises(NotYours):
        await service.cancel_reservation(held.id, OTHER)
    with pytest.raises(ReservationNotFound):
        await service.cancel_reservation(UNKNOWN, HOLDER)
    paying = await begin(service, held, payment_id)
    with pytest.raises(PaymentInProgress):
        await service.cancel_reservation(held.id, HOLDER)
    await confirm(service, paying)
    with pytest.raises(AlreadyPaid):
        await service.cancel_reservation(held.id, HOLDER)


async def test_cancelling_an_expired_hold_is_a_no_op(
    service: ReservationService, store: Store, held: Reservation
) -> None:
    await store.lapse(held.id)
    assert (await service.cancel_reservation(held.id, HOLDER)).status == Status.EXPIRED


# Paying.


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
    assert await service.sold_seats([paying.schedule_id]) == {paying.schedule_id: 1}
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
    assert await service.sold_seats([paying.schedule_id]) == {paying.schedule_id: 1}
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
    assert await service.sold_seats([paying.schedule_id]) == {}
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
    assert await service.sold_seats([held.schedule_id]) == (
        {held.schedule_id: 1} if state == "sold" else {}
    )


async def test_events_of_an_unknown_reservation_are_refused(
    service: ReservationService, payment_id: int
) -> None:
    with pytest.raises(ReservationNotFound):
        await service.confirm_payment(UNKNOWN, payment_id)
    with pytest.raises(ReservationNotFound):
        await service.return_to_hold(UNKNOWN, payment_id)


# The cool-down.


@pytest.fixture
def cooling(store: Store) -> ReservationService:
    """A service whose cool-down is as long as a hold."""
    return make_service(store, cool_down_seconds=HOLD_SECONDS)


@pytest.mark.parametrize("key", ["", "key"])
async def test_a_cancelled_hold_is_taken_again_for_what_was_left(
    cooling: ReservationService, store: Store, seat_id: int, key: str
) -> None:
    first = await cooling.hold_seat(HOLDER, seat_id, "")
    await store.elapse(seat_id, 100)
    await cooling.cancel_reservation(first.id, HOLDER)
    await store.elapse(seat_id, 50)
    again = await cooling.hold_seat(HOLDER, seat_id, key and f"{key}-{seat_id}")
    assert near(again.lapses_at, HOLD_SECONDS - 100)
    read = await cooling.get_reservation(again.id, HOLDER)
    assert (read.status, read.lapses_at) == (Status.HELD, again.lapses_at)


async def test_cancelling_and_taking_again_keeps_a_seat_for_one_hold_at_most(
    cooling: ReservationService, store: Store, seat_id: int
) -> None:
    held = 0
    for _ in range(40):
        try:
            hold = await cooling.hold_seat(HOLDER, seat_id, f"try {held} of {seat_id}")
        except SeatCoolsDown as refused:
            retry_after = int(refused.metadata["retry_after"])
            break
        await store.elapse(seat_id, 29)
        held += 29
        await cooling.cancel_reservation(hold.id, HOLDER)
        await store.elapse(seat_id, 1)
    else:
        pytest.fail("the seat was kept off sale without end")
    # The last hold lapsed after 10 s, so 19 s and a pause of 1 s of the cool-down are over.
    assert held == 11 * 29
    assert HOLD_SECONDS - 25 <= retry_after <= HOLD_SECONDS - 20
    await store.elapse(seat_id, retry_after - 1)
    with pytest.raises(SeatCoolsDown) as late:
        await cooling.hold_seat(HOLDER, seat_id, "")
    assert late.value.metadata["retry_after"] == "1"
    assert late.value.detail == "You held this seat before; you may hold it again in 1 second."
    await store.elapse(seat_id, 1)
    assert near((await cooling.hold_seat(HOLDER, seat_id, "")).lapses_at, HOLD_SECONDS)


async def test_a_lapsed_hold_is_used_up(
    cooling: ReservationService, store: Store, seat_id: int
) -> None:
    await cooling.hold_seat(HOLDER, seat_id, "")
    await store.elapse(seat_id, HOLD_SECONDS + 100)
    for swept in (False, True):
        if swept:
            await cooling.expire_holds()
        with pytest.raises(SeatCoolsDown) as refused:
            await cooling.hold_seat(HOLDER, seat_id, "")
        assert refused.value.code == "SEAT_HELD"
        assert 195 <= int(refused.value.metadata["retry_after"]) <= 200
    await store.elapse(seat_id, 200)
    assert near((await cooling.hold_seat(HOLDER, seat_id, "")).lapses_at, HOLD_SECONDS)


async def test_others_may_take_a_seat_that_cools_down_and_other_seats_are_not_concerned(
    cooling: ReservationService, store: Store
) -> None:
    seat, elsewhere = new_seats(2)
    first = await cooling.hold_seat(HOLDER, seat, "")
    await store.elapse(seat, 120)
    await cooling.cancel_reservation(first.id, HOLDER)
    taken = await cooling.hold_seat(OTHER, seat, "")
    assert near(taken.lapses_at, HOLD_SECONDS)
    assert near((await cooling.hold_seat(HOLDER, elsewhere, "")).lapses_at, HOLD_SECONDS)
    with pytest.raises(SeatHeld):
        await cooling.hold_seat(HOLDER, seat, "")
    # The hold of another user in between changes nothing.
    await cooling.cancel_reservation(taken.id, OTHER)
    assert near((await cooling.hold_seat(HOLDER, seat, "")).lapses_at, HOLD_SECONDS - 120)


async def test_a_cool_down_counts_from_the_end_of_a_payment_that_outlasted_its_hold(
    cooling: ReservationService, store: Store, seat_id: int, payment_id: int
) -> None:
    held = await cooling.hold_seat(HOLDER, seat_id, "")
    await begin(cooling, held, payment_id)
    await store.elapse(seat_id, HOLD_SECONDS + 100)
    await cooling.return_to_hold(held.id, payment_id)
    assert (await cooling.get_reservation(held.id, HOLDER)).status == Status.EXPIRED
    with pytest.raises(SeatCoolsDown) as refused:
        await cooling.hold_seat(HOLDER, seat_id, "")
    assert int(refused.value.metadata["retry_after"]) > HOLD_SECONDS - 5


async def test_a_refusal_by_the_cool_down_is_not_remembered(
    cooling: ReservationService, store: Store, seat_id: int
) -> None:
    await cooling.hold_seat(HOLDER, seat_id, "")
    await store.elapse(seat_id, HOLD_SECONDS)
    key = f"again-{seat_id}"
    with pytest.raises(SeatCoolsDown):
        await cooling.hold_seat(HOLDER, seat_id, key)
    await store.elapse(seat_id, HOLD_SECONDS)
    assert (await cooling.hold_seat(HOLDER, seat_id, key)).user_id == HOLDER


async def test_without_a_cool_down_a_hold_is_taken_again_in_full(
    service: ReservationService, store: Store, held: Reservation
) -> None:
    await store.elapse(held.seats[0].id, 100)
    await service.cancel_reservation(held.id, HOLDER)
    again = await service.hold_seat(HOLDER, held.seats[0].id, "")
    assert near(again.lapses_at, HOLD_SECONDS)


# Leaving.


async def test_leaving_cancels_the_holds_of_the_admission_and_of_earlier_ones(
    service: ReservationService, store: Store, payment_id: int
) -> None:
    user = next(ids)
    earlier, admission, later = [new_admission() for _ in range(3)]
    places = [earlier, admission, admission, admission, later, Admission("side", 1), None]
    seats = new_seats(len(places) + 1)
    made = [
        await service.hold_seat(user, seat, "", place)
        for seat, place in zip(seats, places, strict=False)
    ]
    of_another = await service.hold_seat(user + 1, seats[-1], "", admission)
    await begin(service, made[2], payment_id)
    await store.lapse(made[3].id)
    assert await service.cancel_holds(user, admission) == 2
    assert await service.cancel_holds(user, admission) == 0
    read = [(await service.get_reservation(held.id, user)).status for held in made]
    assert read == [
        Status.CANCELLED,
        Status.CANCELLED,
        Status.PAYING,
        Status.EXPIRED,
        Status.HELD,
        Status.HELD,
        Status.HELD,
    ]
    assert (await service.get_reservation(of_another.id, user + 1)).status == Status.HELD
    assert (await service.hold_seat(OTHER, made[0].seats[0].id, "")).user_id == OTHER
    with pytest.raises(InvalidRequest):
        await service.cancel_holds(user, Admission("", 0))


async def test_leaving_cancels_any_number_of_holds(
    service: ReservationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reservation_service.service.CANCEL_BATCH", 3)
    user, admission = next(ids), new_admission()
    for seat in new_seats(9):
        await service.hold_seat(user, seat, "", admission)
    assert await service.cancel_holds(user, admission) == 9


# One payment for each admission.


async def hold_with(service: ReservationService, admission: Admission) -> Reservation:
    return await service.hold_seat(HOLDER, new_seats(1)[0], "", admission)


@pytest.mark.parametrize("key", ["", "key"])
async def test_a_payment_that_begins_refuses_holds_and_payments_of_its_admission(
    service: ReservationService, admission: Admission, key: str
) -> None:
    first, second = [await hold_with(service, admission) for _ in range(2)]
    payment = next(ids)
    paying = await begin(service, first, payment, admission=admission)
    seat = new_seats(1)[0]
    for _ in range(2):
        with pytest.raises(PaymentInProgress) as refused:
            await service.hold_seat(HOLDER, seat, key and f"{key}-{seat}", admission)
        assert refused.value.metadata["payment_id"] == str(payment)
        with pytest.raises(PaymentInProgress) as refused:
            await begin(service, second, next(ids), admission=admission)
        assert refused.value.metadata["payment_id"] == str(payment)
    await confirm(service, paying)
    for _ in range(2):
        with pytest.raises(AdmissionEnded):
            await service.hold_seat(HOLDER, seat, key and f"{key}-{seat}", admission)
        with pytest.raises(AdmissionEnded):
            await begin(service, second, next(ids), admission=admission)
    # The refused holds left nothing, and the hold is not touched.
    assert (await service.hold_seat(OTHER, seat, "")).user_id == OTHER
    assert (await service.get_reservation(second.id, HOLDER)).status == Status.HELD
    # The payment that was made is still idempotent.
    assert (await begin(service, first, payment, admission=admission)).status == Status.CONFIRMED


@pytest.mark.parametrize("other", [None, "other place", "other room"])
async def test_other_admissions_are_not_concerned(
    service: ReservationService, admission: Admission, other: str | None
) -> None:
    await pay(service, await hold_with(service, admission), next(ids))
    elsewhere = {
        None: None,
        "other place": new_admission(),
        "other room": Admission("Main", admission.place_number),
    }[other]
    held = await service.hold_seat(HOLDER, new_seats(1)[0], "", elsewhere)
    assert (await pay(service, held, next(ids))).status == Status.CONFIRMED


@pytest.mark.parametrize("failure_arrived", [True, False])
async def test_after_a_failed_payment_the_admission_holds_and_pays_again(
    service: ReservationService, admission: Admission, failure_arrived: bool
) -> None:
    first, second = [await hold_with(service, admission) for _ in range(2)]
    failed, payment = next(ids), next(ids)
    await begin(service, first, failed, admission=admission)
    if failure_arrived:
        await service.return_to_hold(first.id, failed)
        await hold_with(service, admission)
    paying = await begin(service, second, payment, failed=failed, admission=admission)
    assert (paying.status, paying.payment_id) == (Status.PAYING, payment)
    back = await service.get_reservation(first.id, HOLDER)
    assert (back.status, back.payment_id) == (Status.HELD, 0)
    assert back.lapses_at == first.lapses_at
    # Its failure event is a no-op then.
    await service.return_to_hold(first.id, failed)
    assert await confirm(service, paying) == PaymentOutcome.CONFIRMED


@pytest.mark.parametrize("taker", ["hold", "payment"])
async def test_a_payment_whose_lease_expired_does_not_block_its_admission(
    service: ReservationService, store: Store, admission: Admission, taker: str
) -> None:
    first, second = [await hold_with(service, admission) for _ in range(2)]
    await begin(service, first, next(ids), admission=admission)
    await store.lapse(first.id)
    if taker == "hold":
        await hold_with(service, admission)
    else:
        await begin(service, second, next(ids), admission=admission)
    assert await store.stored(first.id) == Status.EXPIRED, "no sweep ran"


@pytest.mark.parametrize("second_ends", ["paying", "confirmed", "lapsed"])
async def test_a_late_success_beside_another_payment_of_its_admission(
    service: ReservationService, store: Store, admission: Admission, second_ends: str
) -> None:
    """Money never stays without a seat, and an admission never pays for two."""
    first, second = [await hold_with(service, admission) for _ in range(2)]
    late = await begin(service, first, next(ids), admission=admission)
    await store.lapse(first.id)
    paying = await begin(service, second, next(ids), admission=admission)
    if second_ends == "confirmed":
        await confirm(service, paying)
    elif second_ends == "lapsed":
        await store.lapse(second.id)
    outcome = await confirm(service, late)
    if second_ends == "lapsed":
        assert outcome == PaymentOutcome.CONFIRMED
        assert await confirm(service, paying) == PaymentOutcome.SEAT_LOST
    else:
        assert outcome == PaymentOutcome.SEAT_LOST
        assert await confirm(service, paying) == PaymentOutcome.CONFIRMED
    assert await service.sold_seats([first.schedule_id, second.schedule_id]) == (
        {first.schedule_id: 1} if second_ends == "lapsed" else {second.schedule_id: 1}
    )


async def test_a_reservation_belongs_to_the_admission_that_pays(
    service: ReservationService, admission: Admission
) -> None:
    """A hold outlives its admission; its user may enter again and pay with the next one."""
    earlier = await hold_with(service, new_admission())
    now = await hold_with(service, admission)
    await begin(service, earlier, next(ids), admission=admission)
    with pytest.raises(PaymentInProgress):
        await begin(service, now, next(ids), admission=admission)
    with pytest.raises(PaymentInProgress):
        await hold_with(service, admission)


@pytest.mark.parametrize(
    "admission", [Admission("main", 0), Admission("", 1), Admission("r" * 65, 1)]
)
async def test_invalid_admissions_are_refused(
    service: ReservationService, held: Reservation, admission: Admission
) -> None:
    with pytest.raises(InvalidRequest):
        await hold_with(service, admission)
    with pytest.raises(InvalidRequest):
        await begin(service, held, next(ids), admission=admission)


# Lists, counts, the sweep.


async def test_taken_seats_of_a_schedule(service: ReservationService, store: Store) -> None:
    held, paying, sold, cancelled, lapsed, lapsed_paying = seats = new_seats(6)
    made = [await service.hold_seat(HOLDER, seat, "") for seat in seats]
    other_schedule = await service.hold_seat(HOLDER, new_seats(1)[0], "")
    await begin(service, made[1], next(ids))
    await pay(service, made[2], next(ids))
    await service.cancel_reservation(made[3].id, HOLDER)
    await store.lapse(made[4].id)
    await begin(service, made[5], next(ids))
    await store.lapse(made[5].id)
    taken_held, taken_sold = await service.taken_seats(schedule_of(held))
    assert (sorted(taken_held), sorted(taken_sold)) == ([held, paying], [sold])
    assert await service.taken_seats(UNKNOWN) == ([], [])
    assert await service.taken_seats(other_schedule.schedule_id) == (
        [other_schedule.seats[0].id],
        [],
    )
    assert {cancelled, lapsed, lapsed_paying}.isdisjoint([*taken_held, *taken_sold])


async def test_schedules_without_taken_seats_are_not_touched(
    service: ReservationService, store: Store
) -> None:
    held, sold, untouched = (new_seats(1)[0] for _ in range(3))
    assert schedule_of(held) not in (await store.touched_schedules(10**6) or ())
    await service.hold_seat(HOLDER, held, "")
    await pay(service, await service.hold_seat(HOLDER, sold, ""), next(ids))
    touched = await store.touched_schedules(10**6)
    assert touched is not None
    assert len(set(touched)) == len(touched)
    assert {schedule_of(held), schedule_of(sold)} <= {*touched}
    assert schedule_of(untouched) not in touched
    assert await store.touched_schedules(len(touched)) == touched
    assert await store.touched_schedules(len(touched) - 1) is None
    assert await service.touched_schedules() in (touched, None)


async def test_sold_seats_are_counted_by_schedule(service: ReservationService) -> None:
    one, two = new_seats(2), new_seats(1)
    for seat in [*one, *two]:
        await pay(service, await service.hold_seat(HOLDER, seat, ""), next(ids))
    wanted = [schedule_of(one[0]), schedule_of(two[0]), UNKNOWN]
    assert await service.sold_seats(wanted) == {wanted[0]: 2, wanted[1]: 1}
    assert await service.sold_seats([]) == {}
    assert await service.sold_seats(list(range(UNKNOWN, UNKNOWN + 1000))) == {}
    with pytest.raises(InvalidRequest):
        await service.sold_seats(list(range(1, 1002)))


async def test_the_sweep_marks_expired_holds_and_nothing_else(
    service: ReservationService, store: Store
) -> None:
    # More than two batches.
    made = [
        await service.hold_seat(HOLDER, seat, "")
        for seats in (new_seats(150), new_seats(150), new_seats(150))
        for seat in seats
    ]
    keep, paying, sold = made[0], made[1], made[2]
    await begin(service, paying, next(ids))
    await store.lapse_hold_only(paying.id)
    await pay(service, sold, next(ids))
    await store.lapse(sold.id)
    for held in made[3:]:
        await store.lapse(held.id)
    assert await service.expire_holds() >= len(made) - 3
    assert await service.expire_holds() == 0
    assert await store.stored(keep.id) == Status.HELD
    assert await store.stored(paying.id) == Status.PAYING
    assert await store.stored(sold.id) == Status.CONFIRMED
    assert {await store.stored(held.id) for held in made[3:]} == {Status.EXPIRED}


async def test_times_are_utc(held: Reservation) -> None:
    assert held.lapses_at.utcoffset() == timedelta(0)
