"""One payment for each admission: paying ends it at once, whatever else is in flight."""

import asyncio
from collections import Counter

from tests.e2e.shop import DECLINED, SILENT_APPROVED, Fan, Shop, assert_problem, sandbox_user

# As many seats as one user may hold.
HOLDS = 8


async def test_of_eight_holds_paid_at_once_one_is_sold(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=HOLDS + 10)
    fan = await shop.admitted()
    reservations = [await fan.hold(seat) for seat in date_.seats[:HOLDS]]
    replies = await asyncio.gather(*(fan.pay(reservation) for reservation in reservations))
    answers = Counter((reply.status_code, reply.code) for reply in replies)
    assert answers.pop((200, "")) == 1
    assert answers.keys() <= {(409, "PAYMENT_IN_PROGRESS"), (401, "TOKEN_EXPIRED")}
    # Whether or not the event of the payment has arrived.
    for seat in date_.seats[HOLDS:]:
        assert_problem(await fan.reserve(seat), 401, "TOKEN_EXPIRED")
    for reservation, reply in zip(reservations, replies, strict=True):
        again = await fan.pay(reservation)
        if reply.status_code == 200:
            assert (again.status_code, again.json()) == (200, reply.json())
        else:
            assert_problem(again, 401, "TOKEN_EXPIRED")
    sold = "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s"
    assert shop.number("payment", sold, fan.user_id) == 1


async def test_no_hold_is_made_once_a_payment_was_answered(shop: Shop) -> None:
    """Five tabs hold seats one after the other while the sixth pays, three times."""
    for _ in range(3):
        date_ = shop.new_schedule(seats=501)
        fan = await shop.admitted()
        reservation = await fan.hold(date_.seats[0])
        held, answered = asyncio.Event(), asyncio.Event()
        tabs = [
            asyncio.create_task(_hold_all(fan, date_.seats[1 + n :: 5], held, answered))
            for n in range(5)
        ]
        async with asyncio.timeout(10):
            await held.wait()
        assert (await fan.pay(reservation)).status_code == 200
        answered.set()
        before = Counter[tuple[int, str]]()
        for tab in tabs:
            before += await tab
        assert before.keys() <= {
            (200, ""),
            (409, "PAYMENT_IN_PROGRESS"),
            (401, "TOKEN_EXPIRED"),
        }


async def _hold_all(
    fan: Fan, seats: list[int], held: asyncio.Event, answered: asyncio.Event
) -> Counter[tuple[int, str]]:
    """Holds the seats one by one and cancels each, so that no limit stops the user, until three
    requests that began after the payment was answered are refused. Sets `held` after a hold, and
    returns the answers of the other requests."""
    before = Counter[tuple[int, str]]()
    late = 0
    for seat in seats:
        after = answered.is_set()
        reply = await fan.reserve(seat)
        if after:
            assert_problem(reply, 401, "TOKEN_EXPIRED")
            late += 1
            if late == 3:
                return before
        else:
            before[reply.status_code, reply.code] += 1
            if reply.status_code == 200:
                held.set()
                cancelled = await fan.cancel(reply.body.reservation_id)
                assert cancelled.status_code == 204, cancelled.text
    raise AssertionError("all seats were used before the payment was answered")


async def test_while_a_payment_is_pending_its_admission_buys_nothing_else(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(SILENT_APPROVED))
    first, second = [await fan.hold(seat) for seat in date_.seats[:2]]
    assert (await fan.pay(first)).status_code == 202
    for reply in (await fan.reserve(date_.seats[2]), await fan.pay(second)):
        assert_problem(reply, 409, "PAYMENT_IN_PROGRESS")
        assert reply.headers["Retry-After"] == "1"
    assert (await fan.pay_to_the_end(first)).status_code == 200
    assert_problem(await fan.pay(second), 401, "TOKEN_EXPIRED")
    assert_problem(await fan.reserve(date_.seats[2]), 401, "TOKEN_EXPIRED")


async def test_after_a_decline_another_reservation_is_paid(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(DECLINED))
    first, second = [await fan.hold(seat) for seat in date_.seats[:2]]
    for reservation in (first, second, first):
        # At once, so mostly before the event of the decline has arrived.
        assert_problem(await fan.pay(reservation), 402, "PAYMENT_DECLINED")
