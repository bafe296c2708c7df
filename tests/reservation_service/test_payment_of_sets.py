"""What the end of a reservation does to all of its seats: on the fake store and on MariaDB."""

import pytest

from reservation_service.domain import PaymentOutcome, Status
from reservation_service.errors import SeatHeld
from reservation_service.service import ReservationService
from tests.reservation_service.conftest import UNKNOWN, Store, begin, ids, new_admission, new_seats
from tests.reservation_service.payment_steps import hold, pairs, paying_sets, seat_ids


async def test_a_late_success_gets_all_seats_again_from_lapsed_holds(
    service: ReservationService, store: Store
) -> None:
    seats = new_seats(6)
    late = await begin(service, await hold(service, seats[1:5]), next(ids))
    await store.lapse(late.id)
    # Each takes one of its seats, and another one.
    left, right = [await hold(service, seats[n : n + 2]) for n in (0, 4)]
    for each in (left, right):
        await store.lapse(each.id)
    assert await service.confirm_payments(pairs([late])) == [PaymentOutcome.CONFIRMED]
    assert await service.taken_seats(late.schedule_id) == ([], seats[1:5])
    assert await store.stored(left.id) == Status.EXPIRED
    # Their other seats are free.
    for seat in (seats[0], seats[5]):
        await hold(service, [seat])


async def test_a_late_success_gets_no_seat_if_one_is_taken(
    service: ReservationService, store: Store
) -> None:
    seats = new_seats(4)
    late = await begin(service, await hold(service, seats), next(ids))
    await store.lapse(late.id)
    lapsed, live = await hold(service, seats[:2]), await hold(service, seats[3:])
    await store.lapse(lapsed.id)
    for _ in range(2):
        assert await service.confirm_payments(pairs([late])) == [PaymentOutcome.SEAT_LOST]
    assert await service.taken_seats(late.schedule_id) == (seat_ids(live), [])
    await hold(service, seats[:3])


@pytest.mark.parametrize("end", ["cancel", "leave", "lapse", "sweep"])
async def test_all_seats_of_a_reservation_are_freed_at_once(
    service: ReservationService, store: Store, end: str
) -> None:
    seats, admission = new_seats(5), new_admission()
    held = await hold(service, seats[:4], admission=admission)
    with pytest.raises(SeatHeld) as refused:
        await hold(service, seats[2:])
    assert refused.value.metadata["conflicts"] == f"{seats[2]},{seats[3]}"
    match end:
        case "cancel":
            cancelled = await service.cancel_reservation(held.id, held.user_id)
            assert (cancelled.status, cancelled.seats) == (Status.CANCELLED, held.seats)
        case "leave":
            assert await service.cancel_holds(held.user_id, admission) == 1
        case _:
            await store.lapse(held.id)
            if end == "sweep":
                await service.expire_holds()
    assert await service.taken_seats(held.schedule_id) == ([], [])
    one, two = await hold(service, seats[3:]), await hold(service, seats[:3])
    assert await service.taken_seats(held.schedule_id) == (seats, [])
    # Ending it again does not free what others hold.
    await service.cancel_reservation(held.id, held.user_id)
    await service.expire_holds()
    assert await service.taken_seats(held.schedule_id) == (seats, [])
    for each in (one, two):
        assert (await service.get_reservation(each.id, each.user_id)).status == Status.HELD


async def test_taken_seats_of_several_schedules_in_one_call(service: ReservationService) -> None:
    one, two = await paying_sets(service, 2)
    await service.confirm_payments(pairs([two]))
    wanted = [two.schedule_id, UNKNOWN, one.schedule_id, two.schedule_id]
    assert await service.taken_seats_of(wanted) == [
        ([], seat_ids(two)),
        ([], []),
        (seat_ids(one), []),
        ([], seat_ids(two)),
    ]
    assert await service.taken_seats_of([]) == []
