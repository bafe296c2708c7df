"""Paying at the instant at which the hold runs out, while others grab the seat."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.e2e.shop import Fan, Shop, eventually

SEATS = 200
AT_ONCE = 20


@pytest.mark.timeout(180)
async def test_a_seat_is_paid_or_free_never_both_and_never_neither(
    shop: Shop, short_holds: str
) -> None:
    date_ = shop.new_schedule(seats=SEATS)
    outcomes: Counter[str] = Counter()
    paid: dict[int, int] = {}
    taken: dict[int, int] = {}
    hurry = asyncio.Semaphore(AT_ONCE)

    async def race(number: int) -> None:
        seat = date_.seats[number]
        async with hurry:
            payer, taker = await shop.crowd(2, short_holds)
            reserved = (await payer.reserve(seat)).json()
            reservation = reserved["reservationId"]
            until = datetime.fromisoformat(reserved["heldUntil"])
            # From 250 ms before the end to 50 ms after it: to pay takes some of that.
            shift = -0.25 + 0.3 * number / SEATS
            left = (until - datetime.now(UTC)).total_seconds() + shift
            await asyncio.sleep(max(0.0, left))
            pay, grab = await asyncio.gather(payer.pay_to_the_end(reservation), _grab(taker, seat))
            if pay.status_code == 200:
                paid[seat] = reservation
            else:
                assert (pay.status_code, pay.json()["code"]) == (410, "RESERVATION_EXPIRED")
            if grab is not None:
                taken[seat] = grab
            # Never both, never neither.
            assert (pay.status_code == 200) != (grab is not None), (pay.text, grab)
            outcomes["paid" if pay.status_code == 200 else "taken"] += 1

    await asyncio.gather(*(race(number) for number in range(SEATS)))
    print(f"\npay against expiry: {dict(outcomes)}")
    # The instants were chosen well only if both happened.
    assert outcomes["paid"] >= 5
    assert outcomes["taken"] >= 5

    async def settled() -> None:
        confirmed = dict(
            shop.rows(
                "reservation",
                """SELECT seat_id, id FROM reservation
                WHERE schedule_id = %s AND status = 'CONFIRMED'""",
                date_.id,
            )
        )
        assert confirmed == paid

    await eventually(settled)
    ours = {
        reservation
        for (reservation,) in shop.rows(
            "reservation", "SELECT id FROM reservation WHERE schedule_id = %s", date_.id
        )
    }
    charged = shop.rows(
        "payment",
        """SELECT p.reservation_id FROM payment p JOIN sandbox_charge c ON c.payment_id = p.id
        WHERE c.status = 'APPROVED'""",
    )
    assert ours & {reservation for (reservation,) in charged} == set(paid.values())


async def _grab(taker: Fan, seat: int) -> int | None:
    """Tries to take the seat until it is clear whose it is: the reservation, or None if sold."""
    while True:
        reply = await taker.reserve(seat)
        if reply.status_code == 200:
            return int(reply.json()["reservationId"])
        assert reply.status_code == 409, reply.text
        if reply.json()["code"] == "SEAT_SOLD":
            return None
        await asyncio.sleep(0.005)


async def test_the_payer_sees_what_the_shop_decided(shop: Shop, short_holds: str) -> None:
    """After a 200 the reservation is CONFIRMED, after a 410 it is EXPIRED."""
    date_ = shop.new_schedule(seats=10)
    fans = await shop.crowd(10, short_holds)
    reservations = [await fan.hold(seat) for fan, seat in zip(fans, date_.seats, strict=True)]
    await asyncio.sleep(0.93)
    replies = await asyncio.gather(
        *(fan.pay(reservation) for fan, reservation in zip(fans, reservations, strict=True))
    )

    async def seen() -> None:
        for fan, reservation, reply in zip(fans, reservations, replies, strict=True):
            status = (await fan.reservation(reservation)).json()["status"]
            assert status == {200: "CONFIRMED", 410: "EXPIRED"}[reply.status_code]

    await eventually(seen)
