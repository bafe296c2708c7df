"""Idempotency keys: the same tests on the fake store and on MariaDB."""

import asyncio
from typing import Any

import pytest

from reservation_service.domain import Reservation, Status
from reservation_service.errors import IdempotencyKeyReused, SeatHeld, SeatNotFound, SeatSold
from reservation_service.service import ReservationService
from tests.fakes.reservation import FakeSeatDirectory, FakeSeatLocks, UselessLocks
from tests.reservation_service.conftest import (
    Store,
    begin,
    confirm,
    ids,
    make_service,
    new_seats,
)


@pytest.mark.parametrize("locks", [FakeSeatLocks, UselessLocks])
async def test_a_repeat_with_the_same_key_returns_the_first_result(
    store: Store, seat_id: int, payment_id: int, locks: type
) -> None:
    service = make_service(store, locks=locks())
    user, other = next(ids), next(ids)
    first = await service.hold_seat(user, seat_id, "key")
    paying = await begin(service, first, payment_id)
    again = await service.hold_seat(user, seat_id, "key")
    assert (again.id, again.price, again.lapses_at) == (first.id, first.price, first.lapses_at)
    assert (again.status, again.payment_id) == (Status.HELD, 0)
    await confirm(service, paying)
    assert (await service.hold_seat(user, seat_id, "key")).id == first.id
    with pytest.raises(IdempotencyKeyReused):
        await service.hold_seat(user, seat_id + 1, "key")
    # Keys differ by user and by every character.
    for taker, key in ((user, "KEY"), (user, "key "), (other, "key")):
        with pytest.raises(SeatSold):
            await service.hold_seat(taker, seat_id, key)


async def test_a_key_does_not_keep_seat_held(service: ReservationService, seat_id: int) -> None:
    first, second = next(ids), next(ids)
    held = await service.hold_seat(first, seat_id, "")
    with pytest.raises(SeatHeld):
        await service.hold_seat(second, seat_id, "key")
    await service.cancel_reservation(held.id, first)
    assert (await service.hold_seat(second, seat_id, "key")).user_id == second


async def test_a_key_keeps_seat_not_found(store: Store) -> None:
    user = next(ids)
    nowhere, somewhere = new_seats(2)
    without = make_service(store, directory=FakeSeatDirectory(last=10))
    for _ in range(2):
        with pytest.raises(SeatNotFound):
            await without.hold_seat(user, nowhere, "key")
    # Also if the seat exists by now.
    service = make_service(store)
    with pytest.raises(SeatNotFound):
        await service.hold_seat(user, nowhere, "key")
    with pytest.raises(IdempotencyKeyReused):
        await service.hold_seat(user, somewhere, "key")
    # A hold is returned although its seat no longer exists.
    held = await service.hold_seat(user, somewhere, "second key")
    assert (await without.hold_seat(user, somewhere, "second key")).id == held.id
    with pytest.raises(IdempotencyKeyReused):
        await without.hold_seat(user, nowhere, "second key")


async def test_keys_are_deleted_after_a_day(
    service: ReservationService, store: Store, seat_id: int
) -> None:
    user = next(ids)
    held = await service.hold_seat(user, seat_id, "key")
    await store.age_keys(23)
    await service.remove_old_rows()
    assert (await service.hold_seat(user, seat_id, "key")).id == held.id
    await store.age_keys(2)
    await service.remove_old_rows()
    with pytest.raises(SeatHeld):
        await service.hold_seat(user, seat_id, "key")


async def test_a_repeat_waits_for_the_first_request(store: Store, seat_id: int) -> None:
    class SlowStore:
        """Holds a request at the store until `go` is set."""

        def __init__(self) -> None:
            self.there, self.go = asyncio.Event(), asyncio.Event()

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        async def hold_group(self, *values: Any, **named: Any) -> object:
            self.there.set()
            await self.go.wait()
            return await store.hold_group(*values, **named)

    slow = SlowStore()
    service = make_service(slow)  # type: ignore[arg-type]
    user = next(ids)
    first = asyncio.create_task(service.hold_seat(user, seat_id, "key"))
    await slow.there.wait()
    repeat = asyncio.create_task(service.hold_seat(user, seat_id, "key"))
    other = asyncio.create_task(service.hold_seat(user, seat_id, "another key"))
    await asyncio.sleep(0)
    slow.go.set()
    assert (await repeat).id == (await first).id
    with pytest.raises(SeatHeld):
        await other


async def test_a_set_is_repeated_in_any_order(service: ReservationService) -> None:
    user = next(ids)
    one, two, three, four = new_seats(4)
    held = await service.hold_seats(user, (three, one, two), "key")
    again = await service.hold_seats(user, (two, three, one), "key")
    assert (again.id, again.seats) == (held.id, held.seats)
    for other in ((one, two), (one,), (one, two, three, four), (one, two, four)):
        with pytest.raises(IdempotencyKeyReused):
            await service.hold_seats(user, other, "key")
    alone = await service.hold_seat(user, four, "key of one")
    with pytest.raises(IdempotencyKeyReused):
        await service.hold_seats(user, (one, four), "key of one")
    assert (await service.hold_seat(user, four, "key of one")).id == alone.id


async def test_a_key_keeps_seat_not_found_of_a_set(store: Store) -> None:
    user = next(ids)
    seats = new_seats(3)
    without = make_service(store, directory=FakeSeatDirectory(last=10))
    service = make_service(store)
    for one in (without, service):
        with pytest.raises(SeatNotFound) as refused:
            await one.hold_seats(user, seats, "key")
        assert refused.value.metadata["seat_id"] == str(seats[0])
    with pytest.raises(IdempotencyKeyReused):
        await service.hold_seat(user, seats[0], "key")


async def test_repeats_that_arrive_together(service: ReservationService) -> None:
    """One transaction makes the reservation and finds its repeats."""
    user, other = next(ids), next(ids)
    seats = new_seats(3)
    results = await asyncio.gather(
        service.hold_seat(other, seats[2], ""),
        *(service.hold_seats(user, seats[:2], "key") for _ in range(5)),
        service.hold_seat(user, seats[0], "key"),
        service.hold_seats(other, seats[:2], "key"),
        return_exceptions=True,
    )
    first, *repeats, reused, refused = results
    assert isinstance(first, Reservation)
    assert len({repeat.id for repeat in repeats if isinstance(repeat, Reservation)}) == 1
    assert all(isinstance(repeat, Reservation) for repeat in repeats)
    assert isinstance(reused, IdempotencyKeyReused)
    assert isinstance(refused, SeatHeld)
