"""The cool-down of a seat, on the fake store and on MariaDB."""

import pytest

from reservation_service.domain import Reservation, Status
from reservation_service.errors import SeatCoolsDown, SeatHeld
from reservation_service.service import ReservationService
from tests.reservation_service.conftest import (
    HOLD_SECONDS,
    HOLDER,
    OTHER,
    Store,
    begin,
    make_service,
    near,
    new_seats,
)


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
