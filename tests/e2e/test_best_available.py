"""The shop chooses the seats: the best ones that are left, and never a single seat without need."""

import asyncio

import pytest

from harness.local.stack import Stack
from tests.e2e.conftest import NOBODY
from tests.e2e.shop import Fan, Schedule, Shop, assert_problem


def new_hall(shop: Shop, rows: int, places: int) -> Schedule:
    """Rows A, B, … of equal length; row A costs more (VIP), and its last seat is accessible."""
    date_ = shop.new_schedule(seats=rows * places)
    with shop.stack.mariadb.administrator("concert") as cursor:
        cursor.executemany(
            """UPDATE seat SET row_name = %s, place = %s, price_category = %s, is_accessible = %s
            WHERE id = %s""",
            [
                (
                    "ABCDEFGH"[n // places],
                    n % places + 1,
                    "STANDARD" if n // places else "VIP",
                    n == places - 1,
                    seat_id,
                )
                for n, seat_id in enumerate(date_.seats)
            ],
        )
    return date_


async def best(fan: Fan, schedule_id: int, count: int, **wish: object) -> list[int]:
    """Holds the best seats, which must be there; returns their ids."""
    body = {"userId": fan.user_id, "bestAvailable": {"scheduleId": schedule_id, "count": count}}
    body["bestAvailable"] |= wish  # type: ignore[operator]
    reply = await fan.request("POST", "/concerts/reservation", body)
    assert reply.status_code == 200, reply.text
    return [seat["id"] for seat in reply.json()["seats"]]


async def test_the_best_seats_are_held(shop: Shop) -> None:
    date_ = new_hall(shop, 2, 9)
    row_a, row_b = date_.seats[:9], date_.seats[9:]
    fans = await shop.crowd(5)
    hold = (await fans[0].reserve_best(date_.id, 3)).body
    assert [seat.id for seat in hold.seats] == row_a[3:6]
    # Two of the three seats on either side would leave a single one.
    assert await best(fans[1], date_.id, 2) == row_b[3:5]
    assert await best(fans[2], date_.id, 3) == row_a[:3]
    assert await best(fans[3], date_.id, 1, priceCategory="STANDARD") == row_b[5:6]
    assert await best(fans[4], date_.id, 1, accessible=True) == row_a[8:]
    # What is given back is the best again.
    assert (await fans[0].cancel(hold.reservation_id)).status_code == 204
    assert await best(fans[1], date_.id, 3) == row_a[3:6]


async def test_too_few_seats_and_a_split(shop: Shop) -> None:
    date_ = new_hall(shop, 2, 3)
    fan = await shop.admitted()
    refused = await fan.reserve_best(date_.id, 4)
    assert_problem(refused, 409, "NOT_ENOUGH_SEATS")
    split = (await fan.reserve_best(date_.id, 4, allow_split=True)).body
    assert [seat.id for seat in split.seats] == date_.seats[:4]
    nothing = await fan.reserve_best(date_.id, 3, allow_split=True)
    assert_problem(nothing, 409, "NOT_ENOUGH_SEATS")
    missing = await fan.reserve_best(9_000_000_000, 1)
    assert_problem(missing, 404, "SCHEDULE_NOT_FOUND")
    too_many = await fan.reserve_best(date_.id, 9)
    assert assert_problem(too_many, 409, "TOO_MANY_SEATS").limit == 8


async def test_a_repeat_with_the_same_key_returns_the_first_hold(shop: Shop) -> None:
    date_ = new_hall(shop, 1, 9)
    fan = await shop.admitted()
    first = await fan.reserve_best(date_.id, 2, key="best")
    again = await fan.reserve_best(date_.id, 2, key="best")
    assert (again.status_code, again.json()) == (200, first.json())
    other = await fan.reserve_best(date_.id, 3, key="best")
    assert_problem(other, 422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_crowd_gets_different_seats(shop: Shop) -> None:
    """Forty ask for a pair of thirty seats at once."""
    date_ = new_hall(shop, 3, 10)
    fans = await shop.crowd(40)
    replies = await asyncio.gather(*(fan.reserve_best(date_.id, 2) for fan in fans))
    held = [[seat.id for seat in reply.body.seats] for reply in replies if reply.status_code == 200]
    assert sorted(seat for pair in held for seat in pair) == date_.seats
    assert all(second == first + 1 for first, second in held)
    for reply in replies:
        if reply.status_code != 200:
            assert_problem(reply, 409, "NOT_ENOUGH_SEATS")


@pytest.fixture(scope="module")
def strict(stack: Stack) -> str:
    """The name of a gateway that refuses choices which leave a single seat."""
    reservations = stack.add_replica(
        "reservation_service",
        {
            "RESERVATION_REFUSE_SINGLE_SEATS": "true",
            # The first replica listens to the payments for both.
            "RESERVATION_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    reservations.start()
    gateway = stack.add_replica("gateway", {"GATEWAY_RESERVATION_ADDR": reservations.address})
    gateway.start()
    return gateway.name


async def test_a_choice_that_leaves_a_single_seat_is_refused_where_that_is_set(
    shop: Shop, strict: str
) -> None:
    date_ = new_hall(shop, 1, 9)
    fan = await shop.admitted(gateway=strict)
    refused = await fan.reserve_several([date_.seats[1], date_.seats[3]])
    problem = assert_problem(refused, 409, "SINGLE_SEAT_LEFT")
    assert problem.conflicts == [date_.seats[0], date_.seats[2]]
    one = await fan.reserve(date_.seats[7])
    assert assert_problem(one, 409, "SINGLE_SEAT_LEFT").conflicts == [date_.seats[8]]
    assert (await fan.reserve_several(date_.seats[2:5])).status_code == 200
    # By default, fans may choose as they like.
    assert (await (await shop.admitted()).reserve(date_.seats[7])).status_code == 200
