"""The use case of the best available seats, over the fake and the real store."""

import asyncio

import pytest

from reservation_service.best_seats import Wish
from reservation_service.domain import BestAvailable, Reservation, Status
from reservation_service.errors import (
    IdempotencyKeyReused,
    NotEnoughSeats,
    SeatCoolsDown,
    SeatHeld,
    SingleSeatLeft,
    TooManySeats,
)
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.reservation_service.conftest import Store, ids, make_service, new_seats, schedule_of


@pytest.fixture
def seats() -> list[int]:
    """All seats of a schedule that no other test has touched: rows A to J of 15 seats."""
    return new_seats(150)


def places(seats: list[int], reservation: Reservation) -> list[int]:
    """The positions of its seats in seat order, from 1."""
    return [seats.index(seat.id) + 1 for seat in reservation.seats]


def best(seats: list[int], count: int, **wish: object) -> BestAvailable:
    return BestAvailable(schedule_of(seats[0]), Wish(count, **wish))  # type: ignore[arg-type]


async def test_the_best_seats_are_held(service: ReservationService, seats: list[int]) -> None:
    reservation = await service.hold_best_available(next(ids), best(seats, 3), "")
    assert reservation.status == Status.HELD
    assert places(seats, reservation) == [7, 8, 9]
    assert [seat.seat_num for seat in reservation.seats] == ["A7", "A8", "A9"]
    assert reservation.price == sum(seat.price for seat in reservation.seats)
    again = await service.hold_best_available(next(ids), best(seats, 3), "")
    assert places(seats, again) == [4, 5, 6]
    standard = await service.hold_best_available(
        next(ids), best(seats, 1, price_category="STANDARD"), ""
    )
    assert places(seats, standard) == [53]


async def test_seats_are_free_again_after_a_cancellation_and_after_a_lapse(
    service: ReservationService, store: Store, seats: list[int]
) -> None:
    first = await service.hold_best_available(1, best(seats, 2), "")
    await service.cancel_reservation(first.id, 1)
    second = await service.hold_best_available(2, best(seats, 2), "")
    await store.lapse(second.id)
    third = await service.hold_best_available(3, best(seats, 2), "")
    assert places(seats, first) == places(seats, second) == places(seats, third) == [7, 8]


async def test_a_repeat_with_the_same_key_returns_the_first_result(
    service: ReservationService, seats: list[int]
) -> None:
    user = next(ids)
    first = await service.hold_best_available(user, best(seats, 2), "key")
    assert await service.hold_best_available(user, best(seats, 2), "key") == (
        first.as_first_returned()
    )
    for other in (
        best(seats, 3),
        best(seats, 2, price_category="VIP"),
        best(seats, 2, accessible=True),
        best(seats, 2, allow_split=True),
        BestAvailable(schedule_of(seats[0]) + 1, Wish(2)),
    ):
        with pytest.raises(IdempotencyKeyReused):
            await service.hold_best_available(user, other, "key")
    with pytest.raises(IdempotencyKeyReused):
        await service.hold_seats(user, [seat.id for seat in first.seats], "key")


async def test_concurrent_repeats_with_one_key_make_one_reservation(
    service: ReservationService, store: Store, seats: list[int]
) -> None:
    user = next(ids)
    results = await asyncio.gather(
        *(service.hold_best_available(user, best(seats, 2), "key") for _ in range(10))
    )
    assert len({result.id for result in results}) == 1
    [taken] = await store.taken_seats([schedule_of(seats[0])])
    assert list(taken.held) == [seat.id for seat in results[0].seats]


async def test_not_enough_seats(service: ReservationService, seats: list[int]) -> None:
    user = next(ids)
    with pytest.raises(NotEnoughSeats):
        await service.hold_best_available(user, best(seats, 16), "")
    with pytest.raises(NotEnoughSeats):
        await service.hold_best_available(user, best(seats, 2, accessible=True), "")
    with pytest.raises(NotEnoughSeats):
        await service.hold_best_available(user, best(seats, 1, price_category="none"), "")
    split = await service.hold_best_available(user, best(seats, 16, allow_split=True), "")
    assert places(seats, split) == [*range(1, 16), 23]


async def test_limits(store: Store, seats: list[int]) -> None:
    service = make_service(store, max_seats=4, max_seats_per_schedule=4)
    user = next(ids)
    with pytest.raises(TooManySeats) as caught:
        await service.hold_best_available(user, best(seats, 5), "")
    assert caught.value.metadata == {"limit": "4"}
    first = await service.hold_best_available(user, best(seats, 3), "")
    with pytest.raises(TooManySeats):
        await service.hold_best_available(user, best(seats, 2), "")
    # The seats that this user could not have are left for others.
    other = await service.hold_best_available(next(ids), best(seats, 3), "")
    assert places(seats, first) == [7, 8, 9]
    assert places(seats, other) == [4, 5, 6]


async def test_a_user_gets_other_seats_than_those_that_cool_down(
    store: Store, seats: list[int]
) -> None:
    service = make_service(store, cool_down_seconds=300.0)
    user = next(ids)
    lapsed = await service.hold_best_available(user, best(seats, 2), "")
    await store.lapse(lapsed.id)
    # Another one takes them at once, this user only after the cool-down.
    other = await service.hold_best_available(user, best(seats, 2), "")
    assert places(seats, lapsed) == [7, 8]
    assert not {seat.id for seat in other.seats} & {seat.id for seat in lapsed.seats}
    rest = sorted(set(seats) - {seat.id for seat in (*lapsed.seats, *other.seats)})
    for n in range(0, len(rest), 50):
        await service.hold_seats(next(ids), rest[n : n + 50], "")
    with pytest.raises(SeatCoolsDown) as caught:
        await service.hold_best_available(user, best(seats, 2), "")
    assert 0 < int(caught.value.metadata["retry_after"]) <= 300
    assert places(seats, await service.hold_best_available(next(ids), best(seats, 2), "")) == [7, 8]


@pytest.mark.parametrize(
    ("user_id", "schedule_id", "count", "key"),
    [(0, 1, 1, ""), (1, 0, 1, ""), (1, 1, 0, ""), (1, 1, -1, ""), (1, 1, 1, "k" * 256)],
)
async def test_invalid_requests(
    service: ReservationService, user_id: int, schedule_id: int, count: int, key: str
) -> None:
    with pytest.raises(InvalidRequest):
        await service.hold_best_available(user_id, BestAvailable(schedule_id, Wish(count)), key)


async def test_choices_that_leave_a_single_seat_are_refused_where_that_is_set(
    store: Store, service: ReservationService, seats: list[int]
) -> None:
    strict = make_service(store, refuse_single_seats=True)
    user = next(ids)
    with pytest.raises(SingleSeatLeft) as caught:
        await strict.hold_seats(user, [seats[1], seats[3]], "")
    assert caught.value.metadata == {"conflicts": f"{seats[0]},{seats[2]}"}
    with pytest.raises(SingleSeatLeft):
        await strict.hold_seat(user, seats[13], "")
    # By default they are not.
    await service.hold_seats(user, [seats[1], seats[3]], "")
    # A conflict is the reason that counts, and a repeat is no new choice.
    with pytest.raises(SeatHeld):
        await strict.hold_seats(user, [seats[3], seats[5]], "")
    first = await strict.hold_seats(user, [seats[4], seats[5]], "key")
    assert await strict.hold_seats(user, [seats[5], seats[4]], "key") == first.as_first_returned()


async def test_a_repeat_is_not_refused_for_what_has_changed_since(
    store: Store, service: ReservationService, seats: list[int]
) -> None:
    strict = make_service(store, refuse_single_seats=True)
    user = next(ids)
    other = await service.hold_seat(next(ids), seats[0], "")
    held = await strict.hold_seats(user, seats[1:3], "key")
    # Its seats, held anew, would leave a single seat.
    await strict.cancel_reservation(held.id, user)
    await service.cancel_reservation(other.id, other.user_id)
    with pytest.raises(SingleSeatLeft):
        await strict.hold_seats(user, seats[1:3], "another key")
    lower = make_service(store, max_seats=1)
    with pytest.raises(TooManySeats):
        await lower.hold_seats(user, seats[1:3], "another key")
    for repeated in (strict, lower):
        assert (await repeated.hold_seats(user, seats[1:3], "key")).id == held.id
    found = await service.hold_best_available(user, best(seats, 2), "best")
    assert (await lower.hold_best_available(user, best(seats, 2), "best")).id == found.id
