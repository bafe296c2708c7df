"""Leaving the room, and one payment for each admission, on the fake store and on MariaDB."""

import pytest

from reservation_service.domain import Admission, PaymentOutcome, Reservation, Status
from reservation_service.errors import AdmissionEnded, PaymentInProgress
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.reservation_service.conftest import (
    HOLDER,
    OTHER,
    Store,
    begin,
    confirm,
    ids,
    new_admission,
    new_seats,
    pay,
)


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
    assert (await service.count_seats([first.schedule_id, second.schedule_id])).sold == (
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
