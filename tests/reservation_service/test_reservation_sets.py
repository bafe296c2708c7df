"""Sets of seats, and the limits of a user: the same tests on the fake store and on MariaDB."""

import asyncio
from decimal import Decimal

import pytest

from reservation_service.domain import Admission, Reservation, Status
from reservation_service.errors import (
    AdmissionEnded,
    PaymentInProgress,
    SeatCoolsDown,
    SeatHeld,
    SeatNotFound,
    SeatSold,
    TooManySeats,
)
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest, ServiceError
from tests.fakes.reservation import FakeSeatDirectory
from tests.reservation_service.conftest import (
    HOLD_SECONDS,
    Store,
    begin,
    confirm,
    ids,
    make_service,
    new_seats,
    pay,
)

USER, OTHER = 1, 2


def seat_ids(reservation: Reservation) -> list[int]:
    return [seat.id for seat in reservation.seats]


def conflicts(error: pytest.ExceptionInfo[ServiceError]) -> list[int]:
    return [int(id) for id in error.value.metadata["conflicts"].split(",")]


def seconds_left(held: Reservation) -> float:
    return (held.lapses_at - held.read_at).total_seconds()


# Sets.


async def test_a_set_is_one_reservation(service: ReservationService) -> None:
    first, second, third = new_seats(3)
    held = await service.hold_seats(USER, (third, first, second), "")
    read = await service.get_reservation(held.id, USER)
    for reservation in (held, read):
        assert seat_ids(reservation) == [first, second, third]
        assert [seat.seat_num for seat in reservation.seats] == ["A1", "A2", "A3"]
        assert {seat.price for seat in reservation.seats} == {Decimal(150_000)}
        assert (reservation.price, reservation.status) == (Decimal(450_000), Status.HELD)
    taken = await service.taken_seats(held.schedule_id)
    assert sorted(taken[0]) == [first, second, third]


async def test_a_set_is_held_as_a_whole_or_not_at_all(service: ReservationService) -> None:
    seats = new_seats(6)
    await service.hold_seats(OTHER, seats[2:4], "")
    bought = await service.hold_seat(OTHER, seats[5], "")
    await pay(service, bought, next(ids))
    with pytest.raises(SeatHeld) as held:
        await service.hold_seats(USER, seats[:4], "")
    assert conflicts(held) == seats[2:4]
    with pytest.raises(SeatSold) as sold:
        await service.hold_seats(USER, seats[3:], "")
    assert conflicts(sold) == [seats[3], seats[5]]
    # Nothing is left of the refused ones.
    rest = await service.hold_seats(USER, (seats[0], seats[1], seats[4]), "")
    assert seat_ids(rest) == [seats[0], seats[1], seats[4]]


@pytest.mark.parametrize("end", ["cancelled", "lapsed", "swept"])
async def test_a_set_ends_as_a_whole(service: ReservationService, store: Store, end: str) -> None:
    seats = new_seats(4)
    held = await service.hold_seats(OTHER, seats, "")
    if end == "cancelled":
        await service.cancel_reservation(held.id, OTHER)
    else:
        await store.lapse(held.id)
    if end == "swept":
        await service.expire_holds()
    # A part of it is enough to end all of it.
    again = await service.hold_seats(USER, seats[1:3], "")
    others = await service.hold_seats(3, (seats[0], seats[3]), "")
    assert (seat_ids(again), seat_ids(others)) == (seats[1:3], [seats[0], seats[3]])
    ended = Status.CANCELLED if end == "cancelled" else Status.EXPIRED
    assert await store.stored(held.id) == ended


async def test_a_set_takes_the_place_of_several_lapsed_ones(
    service: ReservationService, store: Store
) -> None:
    seats = new_seats(5)
    lapsed = [await service.hold_seats(OTHER, seats[n : n + 2], "") for n in (0, 2)]
    for reservation in lapsed:
        await store.lapse(reservation.id)
    assert seat_ids(await service.hold_seats(USER, seats[1:], "")) == seats[1:]
    assert {await store.stored(r.id) for r in lapsed} == {Status.EXPIRED}


async def test_sets_that_are_no_sets(service: ReservationService, store: Store) -> None:
    (seat,), (elsewhere,) = new_seats(1), new_seats(1)
    for seats in ((), (seat, seat), (seat, elsewhere), (seat, 0), (seat, -1)):
        with pytest.raises(InvalidRequest):
            await service.hold_seats(USER, seats, "")
    known = make_service(store, directory=FakeSeatDirectory(last=seat))
    with pytest.raises(SeatNotFound) as refused:
        await known.hold_seats(USER, (seat, seat + 1), "")
    assert conflicts(refused) == [seat + 1]
    assert seat_ids(await service.hold_seats(USER, (seat, seat + 1), "")) == [seat, seat + 1]


async def test_a_paid_admission_holds_no_set(
    service: ReservationService, admission: Admission
) -> None:
    seats = new_seats(4)
    held = await service.hold_seats(USER, seats[:2], "", admission)
    paying = await begin(service, held, next(ids), admission=admission)
    with pytest.raises(PaymentInProgress):
        await service.hold_seats(USER, seats[2:], "", admission)
    await confirm(service, paying)
    with pytest.raises(AdmissionEnded):
        await service.hold_seats(USER, seats[2:], "", admission)
    assert seat_ids(await service.hold_seats(OTHER, seats[2:], "")) == seats[2:]


# The cool-down.


@pytest.fixture
def cooling(store: Store) -> ReservationService:
    """A service whose cool-down is as long as a hold."""
    return make_service(store, cool_down_seconds=HOLD_SECONDS)


async def test_a_set_lasts_for_the_least_that_is_left_of_its_seats(
    cooling: ReservationService, store: Store
) -> None:
    one, two, three, four = new_seats(4)
    for seat, seconds in ((one, 100), (two, 200)):
        held = await cooling.hold_seat(USER, seat, "")
        await store.elapse(seat, seconds)
        await cooling.cancel_reservation(held.id, USER)
    held = await cooling.hold_seats(USER, (one, two, three), "")
    assert HOLD_SECONDS - 205 < seconds_left(held) <= HOLD_SECONDS - 200
    assert seconds_left(await cooling.hold_seat(USER, four, "")) == HOLD_SECONDS
    # The second seat, which was the last of a set, cools down as well.
    await cooling.cancel_reservation(held.id, USER)
    again = await cooling.hold_seat(USER, two, "")
    assert seconds_left(again) <= HOLD_SECONDS - 200


async def test_a_set_is_refused_while_a_seat_of_it_is_used_up(
    cooling: ReservationService, store: Store
) -> None:
    seats = new_seats(3)
    held = await cooling.hold_seat(USER, seats[1], "")
    await store.elapse(seats[1], HOLD_SECONDS + 100)
    with pytest.raises(SeatCoolsDown) as refused:
        await cooling.hold_seats(USER, seats, "")
    assert refused.value.metadata["conflicts"] == str(seats[1])
    assert 190 <= int(refused.value.metadata["retry_after"]) <= 200
    assert await store.stored(held.id) == Status.HELD, "a refused hold changes nothing"
    assert seconds_left(await cooling.hold_seats(OTHER, seats, "")) == HOLD_SECONDS


# Limits.


@pytest.fixture
def limited(store: Store) -> ReservationService:
    """At most four seats unpaid, and six of a schedule."""
    return make_service(store, max_seats=4, max_seats_per_schedule=6)


async def test_a_user_holds_so_many_seats_at_most(
    limited: ReservationService, store: Store
) -> None:
    user, (here, there) = next(ids), (new_seats(9), new_seats(9))
    with pytest.raises(TooManySeats) as refused:
        await limited.hold_seats(user, here[:5], "")
    assert refused.value.metadata["limit"] == "4"
    first = await limited.hold_seats(user, here[:2], "")
    second = await limited.hold_seats(user, there[:2], "")
    with pytest.raises(TooManySeats) as refused:
        await limited.hold_seat(user, there[2], "")
    assert (refused.value.code, refused.value.metadata["limit"]) == ("TOO_MANY_SEATS", "4")
    # The payment does not make room before it has succeeded.
    paying = await begin(limited, first, next(ids))
    with pytest.raises(TooManySeats):
        await limited.hold_seat(user, there[2], "")
    await confirm(limited, paying)
    await limited.hold_seats(user, there[2:4], "")
    # Nor does a hold that has run out take any.
    await store.lapse(second.id)
    await limited.hold_seat(user, there[4], "")
    assert (await limited.hold_seats(user + 1, there[5:9], "")).user_id == user + 1


async def test_a_user_has_so_many_seats_of_a_schedule_at_most(
    limited: ReservationService,
) -> None:
    user, (here, there) = next(ids), (new_seats(9), new_seats(9))
    await pay(limited, await limited.hold_seats(user, here[:4], ""), next(ids))
    held = await limited.hold_seat(user, here[4], "")
    with pytest.raises(TooManySeats) as refused:
        await limited.hold_seats(user, here[5:7], "")
    assert refused.value.metadata["limit"] == "6"
    await limited.hold_seats(user, there[:3], "")
    await limited.cancel_reservation(held.id, user)
    await limited.hold_seat(user, here[5], "")
    with pytest.raises(TooManySeats):
        await limited.hold_seats(user, here[6:8], "")


@pytest.mark.parametrize("crowd", [0, 1, 8])
@pytest.mark.parametrize("cool_down", [0.0, HOLD_SECONDS])
@pytest.mark.parametrize(
    ("max_seats", "of_schedule", "most"), [(10, 6, 6), (6, 10, 6), (0, 6, 6), (6, 0, 6)]
)
async def test_the_first_hold_of_a_user_exceeds_no_limit(
    store: Store, max_seats: int, of_schedule: int, most: int, cool_down: float, crowd: int
) -> None:
    """Alone, in a group whose users are not read first, and in one that is read."""
    limited = make_service(
        store,
        max_seats=max_seats,
        max_seats_per_schedule=of_schedule,
        cool_down_seconds=cool_down,
    )

    async def hold_first(count: int) -> Reservation | BaseException:
        others = [limited.hold_seats(next(ids), new_seats(1), "") for _ in range(crowd)]
        mine = limited.hold_seats(next(ids), new_seats(count), "")
        *held, result = await asyncio.gather(*others, mine, return_exceptions=True)
        assert all(isinstance(other, Reservation) for other in held)
        return result

    held = await hold_first(most)
    assert isinstance(held, Reservation)
    assert len(held.seats) == most
    refused = await hold_first(most + 1)
    assert isinstance(refused, TooManySeats)
    assert refused.metadata["limit"] == str(most)


async def test_a_refusal_by_a_limit_is_not_remembered(limited: ReservationService) -> None:
    user, seats = next(ids), new_seats(5)
    held = await limited.hold_seats(user, seats[:4], "")
    with pytest.raises(TooManySeats):
        await limited.hold_seat(user, seats[4], "key")
    await limited.cancel_reservation(held.id, user)
    assert seat_ids(await limited.hold_seat(user, seats[4], "key")) == [seats[4]]


async def test_limits_that_are_off(store: Store) -> None:
    service = make_service(store)
    user, seats = next(ids), new_seats(101)
    for first in (0, 50):
        assert len((await service.hold_seats(user, seats[first : first + 50], "")).seats) == 50
    with pytest.raises(TooManySeats) as refused:
        await service.hold_seats(user, new_seats(51), "")
    assert refused.value.metadata["limit"] == "50"


# Groups: several items that arrive together have the results that they would have in order.


async def test_items_of_a_group_see_those_before_them(limited: ReservationService) -> None:
    user, seats, there = next(ids), new_seats(9), new_seats(1)
    calls = [
        limited.hold_seat(user + 9, there[0], ""),
        limited.hold_seats(user, seats[:2], ""),
        limited.hold_seats(user + 1, seats[1:3], "second"),
        limited.hold_seats(user, seats[3:5], ""),
        limited.hold_seat(user, seats[5], ""),
        limited.hold_seats(user + 2, (seats[2], seats[5]), ""),
        limited.hold_seats(user + 2, (seats[2], seats[5]), ""),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    codes = [r.code if isinstance(r, ServiceError) else type(r).__name__ for r in results]
    assert codes == [
        "Reservation",
        "Reservation",
        "SEAT_HELD",
        "Reservation",
        "TOO_MANY_SEATS",
        "Reservation",
        "SEAT_HELD",
    ]
    assert results[2].metadata["conflicts"] == str(seats[1])  # type: ignore[union-attr]
    # The refused ones left nothing, not even their keys.
    assert seat_ids(await limited.hold_seat(user + 1, seats[6], "second")) == [seats[6]]
