"""A crowd on one seat: one gets it, with seat locks and without."""

import asyncio
from collections import Counter

import pytest

from harness.local.stack import Stack
from tests.e2e.conftest import NOBODY, in_thread
from tests.e2e.shop import Shop, assert_problem, eventually

BUYERS = 300


@pytest.fixture(scope="module")
async def without_locks(stack: Stack) -> str:
    """The name of a gateway whose reservation service cannot reach Redis."""
    reservations = stack.add_replica(
        "reservation_service",
        {
            "RESERVATION_REDIS_URL": f"redis://{NOBODY}/0",
            "RESERVATION_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    gateway = stack.add_replica("gateway", {"GATEWAY_RESERVATION_ADDR": reservations.address})
    await in_thread(reservations.start)
    await in_thread(gateway.start)
    return gateway.name


@pytest.mark.parametrize("locks", ["with_locks", "without_locks", "both_ways_at_once"])
async def test_of_300_buyers_of_one_seat_one_gets_it(
    shop: Shop, without_locks: str, locks: str
) -> None:
    date_ = shop.new_schedule()
    seat = date_.seats[0]
    gateways = {
        "with_locks": ["gateway"],
        "without_locks": [without_locks],
        "both_ways_at_once": ["gateway", without_locks],
    }[locks]
    crowd = [fan for name in gateways for fan in await shop.crowd(BUYERS // len(gateways), name)]
    replies = await asyncio.gather(*(fan.reserve(seat) for fan in crowd))
    assert Counter(reply.status_code for reply in replies) == {200: 1, 409: BUYERS - 1}
    for reply in replies:
        if reply.status_code == 409:
            assert_problem(reply, 409, "SEAT_HELD")
    ((owner, status),) = shop.rows(
        "reservation", "SELECT user_id, status FROM reservation WHERE seat_id = %s", seat
    )
    (winner,) = [fan for fan, reply in zip(crowd, replies, strict=True) if reply.status_code == 200]
    assert (owner, status) == (winner.user_id, "HELD")
    (held,) = [reply.json()["reservationId"] for reply in replies if reply.status_code == 200]

    # Nor does anybody get it while it is being paid, or after.
    others = [fan for fan in crowd if fan is not winner]
    race = await asyncio.gather(winner.pay(held), *(fan.reserve(seat) for fan in others[:50]))
    assert race[0].status_code == 200, race[0].text
    assert {reply.status_code for reply in race[1:]} == {409}

    async def sold() -> None:
        for fan in others[:50]:
            assert_problem(await fan.reserve(seat), 409, "SEAT_SOLD")

    await eventually(sold)
    live = shop.number(
        "reservation",
        "SELECT COUNT(*) FROM reservation r JOIN reservation_seat s ON s.reservation_id = r.id"
        " WHERE s.seat_id = %s AND r.status IN ('HELD', 'PAYING', 'CONFIRMED')",
        seat,
    )
    assert live == 1


async def test_a_crowd_on_few_seats_sells_each_once(shop: Shop, without_locks: str) -> None:
    """Buyers who try the next seat when one is taken: all seats go, none twice."""
    date_ = shop.new_schedule(seats=20)
    crowd = await shop.crowd(50) + await shop.crowd(50, without_locks)
    bought: list[int] = []

    async def buy(number: int) -> None:
        fan = crowd[number]
        for shift in range(len(date_.seats)):
            reply = await fan.reserve(date_.seats[(number + shift) % len(date_.seats)])
            if reply.status_code == 200:
                paid = await fan.pay(reply.json()["reservationId"])
                assert paid.status_code == 200, paid.text
                bought.append(fan.user_id)
                return
            assert reply.status_code == 409, reply.text

    await asyncio.gather(*(buy(number) for number in range(len(crowd))))
    assert len(bought) == len(date_.seats)

    async def all_sold() -> None:
        rows = shop.rows(
            "reservation",
            "SELECT seat_id, user_id FROM reservation WHERE schedule_id = %s"
            " AND status = 'CONFIRMED'",
            date_.id,
        )
        assert sorted(seat for seat, _ in rows) == date_.seats
        assert sorted(user for _, user in rows) == sorted(bought)

    await eventually(all_sold)
