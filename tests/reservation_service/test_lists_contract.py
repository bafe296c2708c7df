"""Lists, counts and the sweep, on the fake store and on MariaDB."""

from datetime import timedelta

import pytest

from reservation_service.domain import Reservation, Status
from reservation_service.repository import LAPSED
from reservation_service.service import FIRST_LAPSED, ReservationService
from servicekit.errors import InvalidRequest
from servicekit.mysql import Database
from tests.reservation_service.conftest import (
    HOLDER,
    UNKNOWN,
    RealReservationStore,
    Store,
    begin,
    ids,
    make_service,
    new_seats,
    pay,
    schedule_of,
)


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
    everything = [(0, 2**62)]
    assert schedule_of(held) not in (await store.touched_schedules(everything, 10**6) or ())
    await service.hold_seat(HOLDER, held, "")
    await pay(service, await service.hold_seat(HOLDER, sold, ""), next(ids))
    touched = await store.touched_schedules(everything, 10**6)
    assert touched is not None
    assert len(set(touched)) == len(touched)
    assert {schedule_of(held), schedule_of(sold)} <= {*touched}
    assert schedule_of(untouched) not in touched
    assert await store.touched_schedules(everything, len(touched)) == touched
    assert await store.touched_schedules(everything, len(touched) - 1) is None


async def test_dates_beside_the_ranges_are_not_counted(
    service: ReservationService, store: Store
) -> None:
    """Such as those that have passed."""
    chosen = [new_seats(1)[0] for _ in range(5)]
    for seat in chosen:
        await service.hold_seat(next(ids), seat, "")
    first, second, _, fourth, fifth = schedules = [schedule_of(seat) for seat in chosen]
    assert schedules == sorted(schedules)
    ranges = [(first, second), (fourth, fourth), (fifth + 10**6, 2**62)]
    assert await store.touched_schedules(ranges, 3) == [first, second, fourth]
    assert await service.touched_schedules(ranges) == [first, second, fourth]
    assert await service.touched_schedules([]) == []
    with pytest.raises(InvalidRequest):
        await service.touched_schedules([(first, first)] * 65)


async def test_sold_seats_are_counted_by_schedule(service: ReservationService) -> None:
    one, two = new_seats(2), new_seats(1)
    for seat in [*one, *two]:
        await pay(service, await service.hold_seat(HOLDER, seat, ""), next(ids))
    wanted = [schedule_of(one[0]), schedule_of(two[0]), UNKNOWN]
    assert (await service.count_seats(wanted)).sold == {wanted[0]: 2, wanted[1]: 1}
    assert (await service.count_seats([])).sold == {}
    assert (await service.count_seats(list(range(UNKNOWN, UNKNOWN + 1000)))).sold == {}
    with pytest.raises(InvalidRequest):
        await service.count_seats(list(range(1, 1002)))


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


async def test_a_batch_of_the_sweep_locks_no_other_hold(
    real_store: RealReservationStore, database: Database
) -> None:
    """A sweep after an outage takes minutes, and its holds must be free for others meanwhile."""
    service = make_service(real_store)
    lapsed = [(await service.hold_seat(next(ids), seat, "")).id for seat in new_seats(6)]
    for id in lapsed:
        await real_store.lapse(id)
    first = FIRST_LAPSED
    async with database.transaction() as sweep, database.transaction() as other:
        batch = await sweep.fetch_all(LAPSED, "HELD", first.lapses_at, first.lapses_at, first.id, 2)
        assert len(batch) == 2
        free = await other.fetch_all(
            "SELECT id FROM reservation WHERE id IN %s FOR UPDATE SKIP LOCKED", lapsed
        )
        assert {row.id for row in free} == {*lapsed} - {row.id for row in batch}


async def test_times_are_utc(held: Reservation) -> None:
    assert held.lapses_at.utcoffset() == timedelta(0)
