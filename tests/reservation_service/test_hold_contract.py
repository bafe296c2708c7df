"""Holding, expiring, reading and cancelling, on the fake store and on MariaDB."""

import asyncio
from decimal import Decimal

import pytest

from reservation_service.domain import Reservation, Status
from reservation_service.errors import (
    AlreadyPaid,
    NotYours,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    SeatHeld,
    SeatNotFound,
    SeatSold,
)
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.fakes.reservation import FakeSeatDirectory
from tests.reservation_service.conftest import (
    HOLD_SECONDS,
    HOLDER,
    OTHER,
    UNKNOWN,
    Store,
    begin,
    confirm,
    make_service,
    near,
    schedule_of,
)


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
