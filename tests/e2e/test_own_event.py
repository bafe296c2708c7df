"""An event of an operator's own: imported, published, changed while it sells, cancelled. Each step
shows at two gateways within a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.e2e.operators import Admin
from tests.e2e.shop import Fan, Shop, assert_problem, eventually

EVENT: dict[str, Any] = {
    "externalId": "own-event",
    "title": "Hamlet “to be” 🎭",
    "venue": "Globe",
    "timeZone": "Asia/Seoul",
    "currency": "EUR",
    "priceCategories": [{"name": "Stalls", "price": "49.90"}],
    "sections": [
        {
            "name": "Stalls",
            "rows": [{"name": "A", "priceCategory": "Stalls", "from": 1, "to": 4}],
        }
    ],
    "schedules": [
        {
            "externalId": "first-night",
            # After midnight at the venue, and on the day before in UTC.
            "startsAt": "2099-03-15T00:30:00+09:00",
            "blocked": [{"section": "Stalls", "label": "A4"}],
        },
        {"externalId": "last-night", "startsAt": "2099-03-16T19:30:00+09:00"},
    ],
}


async def within_a_second(
    fans: Sequence[Fan], check: Callable[[Fan], Awaitable[None]], since: float
) -> None:
    """Checks, for each fan, a second after `since`."""
    await asyncio.sleep(max(0.0, since + 1 - time.monotonic()))
    for fan in fans:
        await check(fan)


async def test_an_event_from_its_import_to_its_end(
    shop: Shop, short_holds: str, admin: Admin
) -> None:
    fans = [await shop.admitted(gateway) for gateway in ("gateway", short_holds)]
    other = await shop.admitted()

    imported = await admin.ask("POST", "/admin/events", EVENT)
    now = time.monotonic()
    concert = imported["concertId"]
    assert imported["status"] == "DRAFT"

    async def is_unknown(fan: Fan) -> None:
        assert_problem(await fan.schedules(concert), 404, "CONCERT_NOT_FOUND")

    await within_a_second(fans, is_unknown, now)

    published = await admin.ask("POST", "/admin/events/own-event/publish")
    now = time.monotonic()
    date, _ = published["event"]["scheduleIds"]

    async def is_on_sale(fan: Fan) -> None:
        schedules = (await fan.schedules(concert)).body.schedules
        assert [str(schedule.date) for schedule in schedules] == ["2099-03-15", "2099-03-16"]
        seats = (await fan.seats(date)).body.seats
        assert [(seat.seat_num, seat.price) for seat in seats] == [
            (f"A{n}", "49.90") for n in (1, 2, 3, 4)
        ]
        # The last one is the house's.
        assert [seat.status for seat in seats] == ["AVAILABLE"] * 3 + ["SOLD"]

    await within_a_second(fans, is_on_sale, now)
    a1, a2, *_ = [seat.id for seat in (await fans[0].seats(date)).body.seats]
    bought = (await fans[0].reserve(a1)).body
    assert bought.price == "49.90"

    patch = {"priceCategories": [{"name": "Stalls", "price": "55"}]}
    await admin.ask("PATCH", "/admin/events/own-event", patch)
    now = time.monotonic()

    async def is_dearer(fan: Fan) -> None:
        assert {seat.price for seat in (await fan.seats(date)).body.seats} == {"55.00"}

    await within_a_second(fans, is_dearer, now)
    # A reservation keeps the price that its buyer was told.
    assert (await fans[0].reservation(bought.reservation_id)).body.price == "49.90"
    assert (await fans[0].pay_to_the_end(bought.reservation_id)).status_code == 200
    held = (await other.reserve(a2)).body
    assert held.price == "55.00"
    ended = await admin.ask("POST", "/admin/events/own-event/cancel")
    now = time.monotonic()
    assert ended["endedHolds"] == 1
    # Kafka may not have carried the payment yet, and it finishes.
    assert ended["paid"] + len(ended["payingReservationIds"]) == 1
    assert_problem(await other.pay(held.reservation_id), 410, "RESERVATION_EXPIRED")
    await within_a_second([fans[1], other], is_unknown, now)

    async def has_its_buyer() -> None:
        buyers = await admin.ask("GET", f"/admin/schedules/{date}/buyers")
        assert [
            (buyer["userId"], buyer["price"], buyer["status"]) for buyer in buyers["buyers"]
        ] == [(fans[0].user_id, "49.90", "CONFIRMED")]

    await eventually(has_its_buyer, within=20)
