"""Error table, 402 and 202: what the payment provider says, or does not say in time."""

import asyncio

from tests.e2e.shop import (
    DECLINED,
    FAILING,
    OTHER_AMOUNT,
    SILENT_APPROVED,
    SILENT_DECLINED,
    SILENT_OTHER_AMOUNT,
    SLOW,
    Fan,
    Shop,
    assert_problem,
    eventually,
    sandbox_user,
)


async def test_the_provider_declines_and_the_hold_stays(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(DECLINED))
    other = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    for _ in range(2):
        assert_problem(await fan.pay(reservation), 402, "PAYMENT_DECLINED")
        assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")

    async def held_again() -> None:
        assert (await fan.reservation(reservation)).json()["status"] == "HELD"

    await eventually(held_again)
    # A key gets its first answer again; the provider is not asked for it.
    for _ in range(2):
        assert_problem(await fan.pay(reservation, key="card"), 402, "PAYMENT_DECLINED")
        charges = shop.number(
            "payment", "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s", fan.user_id
        )
        assert charges == 3
    # Having thought better of it, the fan gives the seat back.
    await eventually(held_again)
    assert (await fan.cancel(reservation)).status_code == 204
    await other.hold(date_.seats[0])


async def test_the_provider_is_slow_or_stumbles_and_it_is_no_error(shop: Shop) -> None:
    date_ = shop.new_schedule()
    for number, kind in enumerate((SLOW, FAILING)):
        fan = await shop.admitted(user_id=sandbox_user(kind))
        reservation = await fan.hold(date_.seats[number])
        reply = await fan.pay_to_the_end(reservation)
        assert (reply.status_code, reply.json()["status"]) == (200, "SUCCEEDED"), reply.text


async def test_the_provider_does_not_answer_in_time_and_asking_again_tells(shop: Shop) -> None:
    date_ = shop.new_schedule()
    lucky = await shop.admitted(user_id=sandbox_user(SILENT_APPROVED))
    unlucky = await shop.admitted(user_id=sandbox_user(SILENT_DECLINED))
    cheated = await shop.admitted(user_id=sandbox_user(SILENT_OTHER_AMOUNT))
    other = await shop.admitted()
    fans = (lucky, unlucky, cheated)
    holds = [await fan.hold(seat) for fan, seat in zip(fans, date_.seats, strict=False)]
    first, second, third = holds
    pending = await asyncio.gather(*(fan.pay(hold) for fan, hold in zip(fans, holds, strict=True)))
    for reply, reservation in zip(pending, holds, strict=True):
        assert reply.status_code == 202, reply.text
        assert reply.headers["content-type"] == "application/json"
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["status"] == "PENDING"
        assert reply.json()["reservationId"] == reservation
    # Meanwhile the seats are nobody else's, and not to be given back.
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")
    assert_problem(await lucky.cancel(first), 409, "PAYMENT_IN_PROGRESS")
    outcome = await lucky.pay_to_the_end(first)
    assert (outcome.status_code, outcome.json()["status"]) == (200, "SUCCEEDED"), outcome.text
    assert outcome.json()["paymentId"] == pending[0].json()["paymentId"]
    assert_problem(await unlucky.pay_to_the_end(second), 402, "PAYMENT_DECLINED")
    assert_problem(await cheated.pay_to_the_end(third), 402, "CHARGE_AMOUNT_DIFFERS")
    assert_refunded(shop, cheated)


async def test_the_provider_charges_another_amount_and_the_hold_stays(shop: Shop) -> None:
    fan = await shop.admitted(user_id=sandbox_user(OTHER_AMOUNT))
    reservation = await fan.hold(shop.new_schedule().seats[0])
    assert_problem(await fan.pay(reservation), 402, "CHARGE_AMOUNT_DIFFERS")
    assert_refunded(shop, fan)

    async def held_again() -> None:
        assert (await fan.reservation(reservation)).json()["status"] == "HELD"

    await eventually(held_again)


def assert_refunded(shop: Shop, fan: Fan) -> None:
    """Asserts that the provider's own book has one charge of this fan, which is refunded."""
    sql = "SELECT status FROM sandbox_charge WHERE user_id = %s"
    assert shop.rows("payment", sql, fan.user_id) == [("REFUNDED",)]
