"""A hold that ran out is dead at that instant, with the sweep switched off."""

import asyncio
from datetime import UTC, datetime

from tests.e2e.shop import Fan, Shop, assert_problem, eventually


async def lapse(fan: Fan, reservation: int) -> None:
    """Waits for the end of the hold, by the shop's clock."""
    held_until = (await fan.reservation(reservation)).json()["heldUntil"]
    left = datetime.fromisoformat(held_until) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()) + 0.05)


async def test_it_cannot_be_paid(shop: Shop, short_holds: str) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(short_holds)
    reservation = await fan.hold(date_.seats[0])
    await lapse(fan, reservation)
    assert_problem(await fan.pay(reservation), 410, "RESERVATION_EXPIRED")
    assert_problem(await fan.pay(reservation, key="late"), 410, "RESERVATION_EXPIRED")
    assert (await fan.reservation(reservation)).json()["status"] == "EXPIRED"
    # Giving it back is no error, and needless.
    assert (await fan.cancel(reservation)).status_code == 204
    charges = shop.number(
        "payment", "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s", fan.user_id
    )
    assert charges == 0


async def test_the_seat_can_be_taken_at_once(shop: Shop, short_holds: str) -> None:
    date_ = shop.new_schedule()
    fan, other = await shop.crowd(2, short_holds)
    reservation = await fan.hold(date_.seats[0])
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")
    await lapse(fan, reservation)
    # Nobody has tidied: in the table the hold still stands.
    assert shop.rows(
        "reservation", "SELECT status FROM reservation WHERE id = %s", reservation
    ) == [("HELD",)]
    taken = await other.hold(date_.seats[0])
    assert_problem(await fan.pay(reservation), 410, "RESERVATION_EXPIRED")
    paid = await other.pay(taken)
    assert (paid.status_code, paid.json()["reservationId"]) == (200, taken)
    assert shop.rows(
        "reservation",
        "SELECT reservation_id FROM seat_claim WHERE seat_id = %s",
        date_.seats[0],
    ) == [(taken,)]


async def test_the_seat_map_shows_it_as_available(shop: Shop, short_holds: str) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(short_holds)
    reservation = await fan.hold(date_.seats[0])
    await lapse(fan, reservation)

    async def available() -> None:
        assert await fan.seat_status(date_.id, date_.seats[0]) == "AVAILABLE"

    # A map is at most a second old.
    await eventually(available, within=1.2)


async def test_the_same_user_may_hold_it_again_after_the_cool_down(
    shop: Shop, short_holds: str
) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(short_holds)
    first = await fan.hold(date_.seats[0])
    await lapse(fan, first)
    refused = await fan.reserve(date_.seats[0])
    assert_problem(refused, 409, "SEAT_HELD")
    assert refused.retry_after is not None
    # A program follows the header, and is right to.
    await asyncio.sleep(refused.retry_after)
    second = await fan.hold(date_.seats[0])
    assert second != first
    assert (await fan.pay(second)).status_code == 200


async def test_of_a_crowd_on_a_lapsed_seat_one_gets_it(shop: Shop, short_holds: str) -> None:
    date_ = shop.new_schedule()
    first = await shop.admitted(short_holds)
    # These hold for five minutes.
    crowd = await shop.crowd(100)
    reservation = await first.hold(date_.seats[0])
    await lapse(first, reservation)
    replies = await asyncio.gather(*(fan.reserve(date_.seats[0]) for fan in crowd))
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 99
