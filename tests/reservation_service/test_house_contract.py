"""What operators decide, on the fake and the real store."""

import pytest

from reservation_service import house_service
from reservation_service.domain import PaymentOutcome, Status
from reservation_service.errors import (
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    SalesClosed,
    SeatHeld,
    SeatSold,
    SeatsTaken,
)
from reservation_service.house import reservation_of
from reservation_service.house_service import HouseService
from reservation_service.service import ReservationService
from servicekit.errors import InvalidRequest
from tests.reservation_service.conftest import (
    HOLDER,
    OTHER,
    Store,
    begin,
    confirm,
    ids,
    make_service,
    new_seats,
    pay,
    schedule_of,
)


@pytest.fixture
def house(store: Store) -> HouseService:
    return HouseService(store)


async def test_a_blocked_seat_is_sold_to_everybody_and_counts_apart(
    service: ReservationService, house: HouseService
) -> None:
    seats = new_seats(4)
    schedule = schedule_of(seats[0])
    held = await service.hold_seat(HOLDER, seats[3], "")
    assert await house.block_seats(schedule, [seats[1], seats[0], seats[1]]) == 2
    assert await service.taken_seats(schedule) == ([seats[3]], seats[:2])
    assert await service.count_seats([schedule]) == ({}, {schedule: 2}, [])
    for wanted in (seats[:1], seats[:3]):
        with pytest.raises(SeatSold) as refused:
            await service.hold_seats(OTHER, wanted, "")
        assert refused.value.seat_ids == tuple(seats[: min(2, len(wanted))])
    assert await service.touched_schedules([(schedule, schedule)]) == [schedule]
    # A repeat changes nothing.
    assert await house.block_seats(schedule, seats[:3]) == 1
    assert await house.block_seats(schedule, seats[:3]) == 0
    sold = await pay(service, held, next(ids))
    assert sold.status == Status.CONFIRMED
    assert await service.count_seats([schedule]) == ({schedule: 1}, {schedule: 3}, [])
    assert await service.taken_seats(schedule) == ([], seats)


async def test_released_seats_are_for_sale_again(
    service: ReservationService, house: HouseService
) -> None:
    seats = new_seats(3)
    schedule = schedule_of(seats[0])
    assert await house.release_seats(schedule, seats) == 0, "the house has none"
    await house.block_seats(schedule, seats)
    assert await house.release_seats(schedule, [seats[2], seats[0]]) == 2
    assert await house.release_seats(schedule, [seats[2], seats[0]]) == 0
    held = await service.hold_seat(HOLDER, seats[0], "")
    assert await service.taken_seats(schedule) == ([seats[0]], [seats[1]])
    # What a user has is not the house's to release.
    assert await house.release_seats(schedule, [seats[0]]) == 0
    assert (await service.get_reservation(held.id, HOLDER)).status == Status.HELD
    assert await service.count_seats([schedule]) == ({}, {schedule: 1}, [])


async def test_seats_that_are_taken_are_not_blocked(
    service: ReservationService, house: HouseService, store: Store
) -> None:
    held, paying, sold, lapsed, free = seats = new_seats(5)
    schedule = schedule_of(free)
    await service.hold_seat(next(ids), held, "")
    await begin(service, await service.hold_seat(next(ids), paying, ""), next(ids))
    await pay(service, await service.hold_seat(next(ids), sold, ""), next(ids))
    dead = await service.hold_seat(HOLDER, lapsed, "")
    await store.lapse(dead.id)
    with pytest.raises(SeatsTaken) as refused:
        await house.block_seats(schedule, seats)
    assert refused.value.metadata == {"seats": f"{held},{paying},{sold}"}
    assert await service.count_seats([schedule]) == ({schedule: 1}, {}, [])
    # A hold that has run out is dead, whether or not anybody has swept it.
    assert await house.block_seats(schedule, [lapsed, free]) == 2
    assert await store.stored(dead.id) == Status.EXPIRED
    assert await service.taken_seats(schedule) == ([held, paying], [sold, lapsed, free])


async def test_a_payment_that_succeeds_late_does_not_get_a_blocked_seat(
    service: ReservationService, house: HouseService, store: Store
) -> None:
    first, second = new_seats(2)
    held = await service.hold_seats(HOLDER, [first, second], "")
    paying = await begin(service, held, next(ids))
    await store.lapse(held.id)
    await house.block_seats(held.schedule_id, [second])
    for _ in range(2):
        assert await confirm(service, paying) == PaymentOutcome.SEAT_LOST
    assert await service.taken_seats(held.schedule_id) == ([], [second])


async def test_the_house_has_no_reservation_that_anybody_can_use(
    service: ReservationService, house: HouseService
) -> None:
    [seat] = new_seats(1)
    await house.block_seats(schedule_of(seat), [seat])
    with pytest.raises(ReservationNotFound):
        await service.get_reservation(reservation_of(schedule_of(seat)), 0)
    await service.expire_holds()
    await service.remove_old_rows()
    assert await service.taken_seats(schedule_of(seat)) == ([], [seat])
    assert (await house.list_buyers(schedule_of(seat), 0, 0)).reservations == []


async def test_what_is_no_change(house: HouseService) -> None:
    [seat], [elsewhere] = new_seats(1), new_seats(1)
    schedule = schedule_of(seat)
    for change in (house.block_seats, house.release_seats):
        for invalid in (
            (0, [seat]),
            (-1, [seat]),
            (schedule, [seat, 0]),
            (schedule, [1] * 100_001),
        ):
            with pytest.raises(InvalidRequest):
                await change(*invalid)
        assert await change(schedule, []) == 0
    for call in (house.close_schedules, house.reopen_schedules):
        for schedules in ([0], [schedule, -1], list(range(1, 1_002))):
            with pytest.raises(InvalidRequest):
                await call(schedules)
        await call([])
    with pytest.raises(InvalidRequest):
        await house.list_buyers(schedule, 0, -1)
    await house.block_seats(schedule_of(elsewhere), [elsewhere])
    with pytest.raises(InvalidRequest):
        await house.block_seats(schedule, [seat, elsewhere])


async def test_a_closed_schedule_sells_nothing_until_it_is_reopened(
    service: ReservationService, house: HouseService
) -> None:
    seats = new_seats(3)
    schedule = schedule_of(seats[0])
    held = await service.hold_seat(HOLDER, seats[0], "key")
    closing = await house.close_schedules([schedule, schedule])
    assert (closing.ended_holds, closing.paying, closing.paid) == (1, [], 0)
    assert (await service.get_reservation(held.id, HOLDER)).status == Status.CANCELLED
    for user, wanted in ((HOLDER, seats[:1]), (OTHER, seats[1:])):
        with pytest.raises(SalesClosed):
            await service.hold_seats(user, wanted, "")
    # Whoever repeats a request learns what became of it.
    assert (await service.hold_seat(HOLDER, seats[0], "key")).id == held.id
    with pytest.raises(ReservationExpired):
        await begin(service, held, next(ids))
    taken = await service.taken_seats(schedule)
    assert (list(taken.held), len(taken.sold)) == ([], 150), "all of them"
    assert await service.touched_schedules([(schedule, schedule)]) == [schedule]
    assert (await service.count_seats([schedule])).closed == [schedule]
    assert (await house.close_schedules([schedule])).ended_holds == 0
    for _ in range(2):
        await house.reopen_schedules([schedule])
    assert await service.taken_seats(schedule) == ([], [])
    assert await service.count_seats([schedule]) == ({}, {}, [])
    assert (await service.hold_seats(OTHER, seats[:2], "")).status == Status.HELD


async def test_payments_under_way_finish_on_a_closed_schedule(
    service: ReservationService, house: HouseService
) -> None:
    seats = new_seats(4)
    schedule = schedule_of(seats[0])
    sold = await pay(service, await service.hold_seat(next(ids), seats[0], ""), next(ids))
    winning, failing = [
        await begin(service, await service.hold_seat(next(ids), seat, ""), next(ids))
        for seat in seats[1:3]
    ]
    closing = await house.close_schedules([schedule])
    assert (closing.ended_holds, closing.paid) == (0, 1)
    assert list(closing.paying) == [winning.id, failing.id]
    assert await confirm(service, winning) == PaymentOutcome.CONFIRMED
    # Before its failure has arrived, and afterwards.
    with pytest.raises(PaymentInProgress):
        await begin(service, failing, next(ids), failed=failing.payment_id)
    await service.return_to_hold(failing.id, failing.payment_id)
    assert (await service.get_reservation(failing.id, failing.user_id)).status == Status.EXPIRED
    with pytest.raises(ReservationExpired):
        await begin(service, failing, next(ids), failed=failing.payment_id)
    # Its money is given back, although the seat is free.
    assert await confirm(service, failing) == PaymentOutcome.SEAT_LOST
    again = await house.close_schedules([schedule])
    assert (again.ended_holds, again.paying, again.paid) == (0, [], 2)
    buyers = await house.list_buyers(schedule, 0, 0)
    assert [each.id for each in buyers.reservations] == [sold.id, winning.id]
    assert not buyers.more


async def test_buyers_come_in_pages(
    service: ReservationService, house: HouseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = new_seats(8)
    schedule = schedule_of(seats[0])
    bought = [
        await pay(service, await service.hold_seats(next(ids), seats[n : n + 2], ""), next(ids))
        for n in (0, 2, 4)
    ]
    paying = await begin(service, await service.hold_seat(next(ids), seats[6], ""), next(ids))
    await service.hold_seat(next(ids), seats[7], "")
    listed: list[int] = []
    more = True
    while more:
        page = await house.list_buyers(schedule, listed[-1] if listed else 0, 3)
        assert 0 < len(page.reservations) <= 3
        listed += [each.id for each in page.reservations]
        more = page.more
    assert listed == [*(each.id for each in bought), paying.id]
    # No page is larger than a message may be.
    monkeypatch.setattr(house_service, "MAX_LISTED_SEATS", 5)
    page = await house.list_buyers(schedule, 0, 3)
    assert [len(each.seats) for each in page.reservations] == [2, 2]
    assert page.more


async def test_a_contended_seat_of_a_closed_schedule(
    service: ReservationService, house: HouseService, store: Store
) -> None:
    """Requests for seats that were refused lately are decided by reads."""
    [seat] = new_seats(1)
    held = await service.hold_seat(HOLDER, seat, "")
    with pytest.raises(SeatHeld):
        await service.hold_seat(OTHER, seat, "")
    await house.close_schedules([held.schedule_id])
    with pytest.raises(SalesClosed):
        await service.hold_seat(OTHER, seat, "")
    await house.reopen_schedules([held.schedule_id])
    assert (await make_service(store).hold_seat(OTHER, seat, "")).status == Status.HELD
