"""Paying many times at once: one charge, one payment, one event."""

import asyncio

import pytest

from tests.e2e.shop import Fan, Shop, eventually

WAYS = 50


@pytest.mark.parametrize("keys", ["no key", "one key", "a key each"])
async def test_50_ways_at_once_pay_once(shop: Shop, keys: str) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    tabs = [shop.fan(user_id=fan.user_id) for _ in range(WAYS)]
    for tab in tabs:
        tab.token = fan.token
    key = {"no key": "", "one key": "k", "a key each": "k{}"}[keys]

    async def pay(number: int) -> int:
        tab: Fan = tabs[number]
        while True:
            reply = await tab.pay(reservation, key=key.format(number))
            # With one key for all, the others may have to ask again.
            if keys == "one key" and reply.status_code == 409:
                assert reply.json()["code"] == "IN_PROGRESS"
                await asyncio.sleep(0.02)
                continue
            assert reply.status_code == 200, reply.text
            assert reply.json()["status"] == "SUCCEEDED"
            return int(reply.json()["paymentId"])

    payments = set(await asyncio.gather(*(pay(number) for number in range(WAYS))))
    assert len(payments) == 1
    assert shop.rows(
        "payment", "SELECT id, status FROM payment WHERE reservation_id = %s", reservation
    ) == [(*payments, "SUCCEEDED")]
    assert shop.rows(
        "payment",
        "SELECT payment_id, status, calls FROM sandbox_charge WHERE user_id = %s",
        fan.user_id,
    ) == [(*payments, "APPROVED", 1)]

    async def published() -> None:
        waiting = shop.number(
            "payment",
            "SELECT COUNT(*) FROM payment WHERE unsent_shard IS NOT NULL AND reservation_id = %s",
            reservation,
        )
        assert waiting == 0

    await eventually(published)
    (event,) = (await shop.payment_events([reservation]))[reservation]
    assert event.WhichOneof("event") == "succeeded"
    assert event.payment_id in payments
