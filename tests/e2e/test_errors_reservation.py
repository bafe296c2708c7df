"""Error table, 404, 409 and 410: what is asked for does not exist, is taken, or is over."""

from tests.e2e.refusals import MAX_ID
from tests.e2e.shop import Shop, assert_problem, eventually

UNKNOWN = 9_000_000_000


async def test_what_does_not_exist(shop: Shop) -> None:
    fan = await shop.admitted()
    for unknown in (UNKNOWN, MAX_ID):
        assert_problem(await fan.schedules(unknown), 404, "CONCERT_NOT_FOUND")
        assert_problem(await fan.seats(unknown), 404, "SCHEDULE_NOT_FOUND")
        assert_problem(await fan.reserve(unknown), 404, "SEAT_NOT_FOUND")
        assert_problem(await fan.pay(unknown), 404, "RESERVATION_NOT_FOUND")
        assert_problem(await fan.reservation(unknown), 404, "RESERVATION_NOT_FOUND")
        assert_problem(await fan.cancel(unknown), 404, "RESERVATION_NOT_FOUND")


async def test_a_seat_that_is_held_or_sold(shop: Shop) -> None:
    date_ = shop.new_schedule()
    owner, other = await shop.crowd(2)
    reservation = await owner.hold(date_.seats[0])
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")
    assert_problem(await owner.reserve(date_.seats[0]), 409, "SEAT_HELD")
    assert (await owner.pay(reservation)).status_code == 200

    async def sold() -> None:
        assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_SOLD")

    await eventually(sold)


async def test_a_reservation_that_was_cancelled(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    await fan.cancel(reservation)
    assert_problem(await fan.pay(reservation), 410, "RESERVATION_EXPIRED")
