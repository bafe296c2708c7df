"""A reservation of several seats is one thing: held, shown, paid and given back as a whole."""

import asyncio
from collections import Counter
from decimal import Decimal

from tests.e2e.shop import PRICE, Fan, Shop, assert_problem, eventually

LIMIT = 8


async def statuses(fan: Fan, schedule_id: int) -> list[str]:
    """Returns the status of each seat of a date, in seat order."""
    return [seat.status for seat in (await fan.seats(schedule_id)).body.seats]


async def shows(fan: Fan, schedule_id: int, expected: list[str]) -> None:
    async def now() -> None:
        assert await statuses(fan, schedule_id) == expected

    await eventually(now)


async def test_three_seats_are_held_shown_and_paid_as_one(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=5)
    fan, looker = await shop.crowd(2)
    chosen = date_.seats[1:4]
    hold = (await fan.reserve_several([chosen[2], chosen[0], chosen[1]])).body
    assert [seat.id for seat in hold.seats] == chosen
    assert [seat.seat_num for seat in hold.seats] == ["T2", "T3", "T4"]
    assert {seat.price for seat in hold.seats} == {PRICE}
    assert Decimal(hold.price) == 3 * Decimal(PRICE)
    await shows(looker, date_.id, ["AVAILABLE", "HELD", "HELD", "HELD", "AVAILABLE"])

    shown = (await fan.reservation(hold.reservation_id)).body
    assert (shown.seats, shown.price, shown.status) == (hold.seats, hold.price, "HELD")
    assert (shown.concert_seat_id, shown.seat_num) == (chosen[0], "T2")

    paid = await fan.pay(hold.reservation_id)
    assert (paid.status_code, paid.body.reservation_id) == (200, hold.reservation_id)
    assert shop.rows(
        "payment",
        "SELECT amount_due FROM payment WHERE reservation_id = %s",
        hold.reservation_id,
    ) == [(3 * Decimal(PRICE),)]
    await shows(looker, date_.id, ["AVAILABLE", "SOLD", "SOLD", "SOLD", "AVAILABLE"])
    assert (await fan.reservation(hold.reservation_id)).body.status == "CONFIRMED"


async def test_seats_in_the_way_are_named_and_none_of_the_others_is_held(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=5)
    owner, buyer, other = await shop.crowd(3)
    first, second, third, fourth, _ = date_.seats
    assert (await owner.reserve_several([first, third])).status_code == 200
    sold = await buyer.hold(fourth)

    refused = assert_problem(await other.reserve_several([third, second, first]), 409, "SEAT_HELD")
    assert refused.conflicts == [first, third]
    assert (await buyer.pay(sold)).status_code == 200

    async def all_in_the_way() -> None:
        refused = await other.reserve_several(date_.seats)
        problem = assert_problem(refused, 409, "SEAT_SOLD")
        assert problem.conflicts == [first, third, fourth]

    await eventually(all_in_the_way)
    # The refused requests have taken nothing.
    assert (await other.reserve_several([second, date_.seats[4]])).status_code == 200


async def test_a_crowd_for_overlapping_sets_never_shares_a_seat(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=12)
    fans = await shop.crowd(30)
    sets = [[date_.seats[(n + i) % 12] for i in range(1 + n % 4)] for n in range(30)]
    replies = await asyncio.gather(
        *(fan.reserve_several(seats) for fan, seats in zip(fans, sets, strict=True))
    )
    assert set(Counter(reply.status_code for reply in replies)) == {200, 409}
    held: list[int] = []
    for reply, seats in zip(replies, sets, strict=True):
        if reply.status_code == 200:
            assert [seat.id for seat in reply.body.seats] == sorted(seats)
            held += seats
        else:
            assert set(assert_problem(reply, 409, "SEAT_HELD").conflicts or ()) <= set(seats)
    assert len(set(held)) == len(held)
    claimed = shop.rows(
        "reservation",
        "SELECT seat_id FROM seat_claim WHERE schedule_id = %s AND reservation_id > 0",
        date_.id,
    )
    assert sorted(seat for (seat,) in claimed) == sorted(held)


async def test_all_seats_are_given_back_at_once(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=3)
    fan, other = await shop.crowd(2)
    hold = (await fan.reserve_several(date_.seats)).body
    assert (await fan.cancel(hold.reservation_id)).status_code == 204
    shown = (await fan.reservation(hold.reservation_id)).body
    assert (shown.status, [seat.id for seat in shown.seats]) == ("CANCELLED", date_.seats)
    assert (await other.reserve_several(date_.seats)).status_code == 200


async def test_nobody_holds_more_than_the_limit(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=2 * LIMIT)
    fan = await shop.admitted()
    at_once = await fan.reserve_several(date_.seats[: LIMIT + 1])
    assert assert_problem(at_once, 409, "TOO_MANY_SEATS").limit == LIMIT
    first = (await fan.reserve_several(date_.seats[:5])).body.reservation_id
    beyond = await fan.reserve_several(date_.seats[5:9])
    assert assert_problem(beyond, 409, "TOO_MANY_SEATS").limit == LIMIT
    assert (await fan.reserve_several(date_.seats[5:8])).status_code == 200
    one_more = await fan.reserve(date_.seats[8])
    assert assert_problem(one_more, 409, "TOO_MANY_SEATS").limit == LIMIT
    # What is given back does not count.
    assert (await fan.cancel(first)).status_code == 204
    assert (await fan.reserve(date_.seats[8])).status_code == 200


async def test_a_key_returns_the_first_hold_whatever_the_order_of_the_ids(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    a, b, c, d, _ = date_.seats
    first = await fan.reserve_several([a, b, c], key="set")
    for seats in ([a, b, c], [c, a, b]):
        again = await fan.reserve_several(seats, key="set")
        assert (again.status_code, again.json()) == (200, first.json())
    for others in ([a, b], [a, b, d]):
        reused = await fan.reserve_several(others, key="set")
        assert_problem(reused, 422, "IDEMPOTENCY_KEY_REUSED")
    one = await fan.reserve(d, key="one")
    listed = await fan.reserve_several([d], key="one")
    assert (listed.status_code, listed.json()) == (200, one.json())


async def test_what_no_reservation_can_be(shop: Shop) -> None:
    date_, other = shop.new_schedule(), shop.new_schedule()
    fan = await shop.admitted()
    user = {"userId": fan.user_id}
    for choice, field in (
        ({"concertSeatIds": [date_.seats[0], other.seats[0]]}, "concertSeatIds"),
        ({"concertSeatIds": [date_.seats[0], date_.seats[0]]}, "concertSeatIds"),
        ({"concertSeatIds": []}, "concertSeatIds"),
        ({"concertSeatId": date_.seats[0], "concertSeatIds": [date_.seats[1]]}, "concertSeatId"),
        ({}, "concertSeatId"),
        ({"bestAvailable": {"scheduleId": date_.id}}, "bestAvailable.count"),
    ):
        reply = await fan.request("POST", "/concerts/reservation", user | choice)
        problem = assert_problem(reply, 422, "INVALID_REQUEST")
        assert problem.errors is not None
        assert problem.errors[0].field == field
    missing = await fan.reserve_several([date_.seats[0], 9_000_000_000])
    assert_problem(missing, 404, "SEAT_NOT_FOUND")
    assert await statuses(fan, date_.id) == ["AVAILABLE"] * 5


class TestTheBestAvailable:
    async def test_are_adjacent_and_in_the_middle_of_what_is_free(self, shop: Shop) -> None:
        date_ = shop.new_schedule(seats=9)
        fan = await shop.admitted()
        hold = (await fan.reserve_best(date_.id, 3)).body
        assert [seat.id for seat in hold.seats] == date_.seats[3:6]
        assert Decimal(hold.price) == 3 * Decimal(PRICE)
        assert (await fan.pay(hold.reservation_id)).status_code == 200

    async def test_of_a_crowd_everybody_gets_adjacent_seats_of_their_own(self, shop: Shop) -> None:
        date_ = shop.new_schedule(seats=60)
        fans = await shop.crowd(25)
        replies = await asyncio.gather(*(fan.reserve_best(date_.id, 2) for fan in fans))
        assert Counter(reply.status_code for reply in replies) == {200: 25}
        held = [[seat.id for seat in reply.body.seats] for reply in replies]
        assert all(second == first + 1 for first, second in held)
        assert len({seat for pair in held for seat in pair}) == 50

    async def test_when_there_are_not_enough(self, shop: Shop) -> None:
        date_ = shop.new_schedule(seats=5)
        owner, fan = await shop.crowd(2)
        await owner.hold(date_.seats[2])
        assert_problem(await fan.reserve_best(date_.id, 3), 409, "NOT_ENOUGH_SEATS")
        split = await fan.reserve_best(date_.id, 3, allow_split=True)
        # On both sides of the taken seat.
        assert len(split.body.seats) == 3
        assert date_.seats[2] not in [seat.id for seat in split.body.seats]
        assert_problem(await fan.reserve_best(9_000_000_000, 1), 404, "SCHEDULE_NOT_FOUND")

    async def test_a_key_returns_the_same_seats(self, shop: Shop) -> None:
        date_ = shop.new_schedule(seats=9)
        fan = await shop.admitted()
        first = await fan.reserve_best(date_.id, 2, key="best")
        again = await fan.reserve_best(date_.id, 2, key="best")
        assert (again.status_code, again.json()) == (200, first.json())
        other = await fan.reserve_best(date_.id, 3, key="best")
        assert_problem(other, 422, "IDEMPOTENCY_KEY_REUSED")
