"""The seven steps from the street to the ticket, field by field, and what a fan may do beside."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from harness.client import AnyResponse
from tests.e2e.shop import (
    SILENT_APPROVED,
    SLOW,
    Fan,
    Shop,
    assert_problem,
    eventually,
    place_of,
    sandbox_user,
)

MONEY = re.compile(r"\d+\.\d{2}")
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z")


def instant(text: object) -> datetime:
    assert isinstance(text, str)
    assert INSTANT.fullmatch(text), text
    return datetime.fromisoformat(text)


def assert_json(reply: AnyResponse, status: int) -> dict[str, object]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.headers["x-request-id"])
    body: dict[str, object] = reply.json()
    return body


def assert_members(body: object, members: str, additions: str = "") -> None:
    """An object has these members, no other but the additions, and lacks none of them."""
    assert isinstance(body, dict)
    assert set(members.split()) <= body.keys() <= set(f"{members} {additions}".split())


def assert_order(body: dict[str, object]) -> None:
    order = "order pollAfterSeconds estimatedWaitSeconds admittedUntil recovering"
    assert_members(body, order, "phase seatsLeft")
    assert body.get("phase") == "OPEN"


async def test_the_seven_steps_field_by_field(shop: Shop) -> None:
    fan = shop.fan()

    # 1. Enter: there is room, so the order is 0.
    entered = await fan.enter()
    body = assert_json(entered, 201)
    assert entered.headers["X-Access-Token"].count(".") == 2
    assert_order(body)
    assert body["order"] == 0
    assert instant(body["admittedUntil"]) > datetime.now(UTC)

    # 2. Where do I stand?
    body = assert_json(await fan.order(), 200)
    assert_order(body)
    assert body["order"] == 0
    assert instant(body["admittedUntil"]) > datetime.now(UTC)

    # 3. Concerts.
    body = assert_json(await fan.concerts(), 200)
    assert_members(body, "concerts")
    concerts = body["concerts"]
    assert isinstance(concerts, list)
    assert [concert["id"] for concert in concerts][:2] == [1, 2]
    for concert in concerts:
        assert_members(concert, "id title")
        assert type(concert["id"]) is int
        assert concert["title"]

    # 4. Dates of one.
    body = assert_json(await fan.schedules(1), 200)
    assert_members(body, "schedules")
    schedules = body["schedules"]
    assert isinstance(schedules, list)
    assert [schedule["id"] for schedule in schedules] == [1, 2, 3]
    for schedule in schedules:
        assert_members(schedule, "id date status")
    days = [date.fromisoformat(schedule["date"]) for schedule in schedules]
    assert days == sorted(days)
    assert days[0] >= datetime.now(UTC).date()
    assert {schedule["status"] for schedule in schedules} == {"AVAILABLE"}

    # 5. Seats of one date.
    body = assert_json(await fan.seats(1), 200)
    assert_members(body, "seats", "currency")
    assert body["currency"] == "KRW"
    seats = body["seats"]
    assert isinstance(seats, list)
    assert len(seats) == 150
    # In seat order: A2 comes before A10.
    assert [seat["seatNum"] for seat in seats[:16]] == [*(f"A{n}" for n in range(1, 16)), "B1"]
    for seat in seats:
        assert_members(seat, "id seatNum price status")
        assert type(seat["id"]) is int
        assert MONEY.fullmatch(seat["price"])
        assert seat["status"] in {"AVAILABLE", "HELD", "SOLD"}
    *_, seat = [seat for seat in seats if seat["status"] == "AVAILABLE"]

    # 6. Hold one.
    before = datetime.now(UTC)
    body = assert_json(await fan.reserve(seat["id"]), 200)
    assert_members(body, "reservationId price heldUntil seats", "currency")
    assert body["seats"] == [{name: seat[name] for name in ("id", "seatNum", "price")}]
    reservation_id = body["reservationId"]
    assert type(reservation_id) is int
    assert body["price"] == seat["price"]
    held = instant(body["heldUntil"]) - before
    assert timedelta(minutes=4, seconds=59) < held < timedelta(minutes=5, seconds=5)

    # 7. Pay.
    body = assert_json(await fan.pay(reservation_id), 200)
    assert_members(body, "paymentId reservationId status")
    assert type(body["paymentId"]) is int
    assert (body["reservationId"], body["status"]) == (reservation_id, "SUCCEEDED")

    async def sold() -> None:
        assert await (await shop.admitted()).seat_status(1, seat["id"]) == "SOLD"

    await eventually(sold)


async def test_the_request_id_of_the_client_comes_back(shop: Shop) -> None:
    fan = await shop.admitted()
    reply = await fan.request("GET", "/concerts", headers={"X-Request-Id": "on-sale.42_A"})
    assert reply.headers["X-Request-Id"] == "on-sale.42_A"
    reply = await fan.request("GET", "/concerts", headers={"X-Request-Id": "not good\t!"})
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.headers["X-Request-Id"])


async def test_who_enters_again_gets_the_same_place(shop: Shop) -> None:
    fan = await shop.admitted()
    first = fan.token
    again = await fan.enter()
    assert (again.status_code, again.json()["order"]) == (201, 0)
    assert place_of(again.headers["X-Access-Token"]) == place_of(first)
    # From another device, without the first token.
    elsewhere = await shop.admitted(user_id=fan.user_id)
    assert place_of(elsewhere.token) == place_of(first)


async def test_users_who_enter_at_once_get_one_place(shop: Shop) -> None:
    fan = shop.fan()
    tabs = [shop.fan(user_id=fan.user_id) for _ in range(20)]
    replies = await asyncio.gather(*(tab.enter() for tab in tabs))
    assert {reply.status_code for reply in replies} == {201}
    assert len({place_of(tab.token) for tab in tabs}) == 1


async def test_concerts_come_in_pages(shop: Shop) -> None:
    for _ in range(3):
        shop.new_schedule()
    fan = await shop.admitted()
    ids: list[int] = []
    token = ""
    while True:
        query = {"pageSize": 2} | ({"pageToken": token} if token else {})
        body = (await fan.concerts(**query)).json()
        assert 1 <= len(body["concerts"]) <= 2
        ids += [concert["id"] for concert in body["concerts"]]
        token = body.get("nextPageToken", "")
        if not token:
            break
    assert ids == sorted(set(ids))
    published = "SELECT COUNT(*) FROM concert WHERE status = 'PUBLISHED'"
    assert len(ids) == shop.number("concert", published)


async def test_a_payment_ends_the_admission_and_a_repeat_returns_it(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    paid = await fan.pay(reservation)
    assert paid.status_code == 200, paid.text
    await fan.until_out()
    assert_problem(await fan.order(), 401, "TOKEN_EXPIRED")
    assert_problem(await fan.reserve(date_.seats[1]), 401, "TOKEN_EXPIRED")
    # Asking again is no error, with the old token and with that of a new place.
    for who in (fan, await shop.admitted(user_id=fan.user_id)):
        again = await who.pay(reservation)
        assert (again.status_code, again.json()) == (200, paid.json())
    # Entering again gives a new place.
    old = place_of(fan.token)
    await fan.enter()
    assert place_of(fan.token) > old
    assert (await fan.concerts()).status_code == 200


async def test_a_reservation_can_be_read_through_its_life(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reserved = (await fan.reserve(date_.seats[0])).json()
    reservation = reserved["reservationId"]
    body = assert_json(await fan.reservation(reservation), 200)
    assert body == {
        **reserved,
        "concertSeatId": date_.seats[0],
        "scheduleId": date_.id,
        "seatNum": "T1",
        "status": "HELD",
    }
    assert (await fan.pay(reservation)).status_code == 200

    # The token of the ended admission is still good for looking at what was bought.
    async def confirmed() -> None:
        assert (await fan.reservation(reservation)).json()["status"] == "CONFIRMED"

    await eventually(confirmed)


async def test_a_hold_can_be_given_back_and_taken_at_once(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan, other = await shop.crowd(2)
    reservation = await fan.hold(date_.seats[0])
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")
    given_back = await fan.cancel(reservation)
    assert (given_back.status_code, given_back.text) == (204, "")
    await other.hold(date_.seats[0])
    # Again changes nothing, least of all the hold of the other.
    assert (await fan.cancel(reservation)).status_code == 204
    assert (await fan.reservation(reservation)).json()["status"] == "CANCELLED"
    assert_problem(await fan.reserve(date_.seats[0]), 409, "SEAT_HELD")


async def test_a_seat_that_was_given_back_is_taken_again_for_what_was_left(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    first = (await fan.reserve(date_.seats[0])).body
    await asyncio.sleep(0.5)
    assert (await fan.cancel(first.reservation_id)).status_code == 204
    again = (await fan.reserve(date_.seats[0])).body
    until, first_until = (datetime.fromisoformat(hold.held_until) for hold in (again, first))
    # The pause between the two does not count.
    assert abs((until - first_until).total_seconds()) < 0.4


async def test_leaving_gives_the_seats_back_except_one_that_is_being_paid(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(SILENT_APPROVED))
    other = await shop.admitted()
    paying, held = [await fan.hold(seat) for seat in date_.seats[:2]]
    assert (await fan.pay(paying)).status_code == 202
    assert (await fan.leave()).status_code == 204
    assert (await fan.reservation(held)).json()["status"] == "CANCELLED"
    assert (await fan.reservation(paying)).json()["status"] in ("PAYING", "CONFIRMED")
    await other.hold(date_.seats[1])
    assert (await fan.pay_to_the_end(paying)).status_code == 200


async def test_a_paid_reservation_cannot_be_given_back(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    assert (await fan.pay(reservation)).status_code == 200

    async def refused() -> None:
        assert_problem(await fan.cancel(reservation), 409, "ALREADY_PAID")

    await eventually(refused)


async def test_who_leaves_the_queue_is_out_and_may_come_again(shop: Shop) -> None:
    fan = await shop.admitted()
    left = await fan.leave()
    assert (left.status_code, left.text) == (204, "")
    assert_problem(await fan.order(), 401, "TOKEN_EXPIRED")
    assert_problem(await fan.concerts(), 401, "TOKEN_EXPIRED")
    assert (await fan.leave()).status_code == 204
    old = place_of(fan.token)
    assert (await fan.enter()).json()["order"] == 0
    assert place_of(fan.token) > old


async def test_seats_and_dates_tell_what_is_held_and_sold(shop: Shop) -> None:
    date_ = shop.new_schedule(seats=2)
    fans = await shop.crowd(3)
    looker = fans[2]
    first = await fans[0].hold(date_.seats[0])

    async def statuses(expected: list[str], date_status: str) -> None:
        seats = (await looker.seats(date_.id)).json()["seats"]
        assert [seat["status"] for seat in seats] == expected
        (schedule,) = (await looker.schedules(date_.concert_id)).json()["schedules"]
        assert schedule["status"] == date_status

    # At most a second stale; the rest is for the payment's event and a busy machine.
    await eventually(lambda: statuses(["HELD", "AVAILABLE"], "AVAILABLE"), within=2)
    assert (await fans[0].pay(first)).status_code == 200
    await eventually(lambda: statuses(["SOLD", "AVAILABLE"], "AVAILABLE"))
    second = await fans[1].hold(date_.seats[1])
    await eventually(lambda: statuses(["SOLD", "HELD"], "AVAILABLE"), within=2)
    assert (await fans[1].pay(second)).status_code == 200
    await eventually(lambda: statuses(["SOLD", "SOLD"], "SOLD_OUT"))
    assert_problem(await looker.reserve(date_.seats[0]), 409, "SEAT_SOLD")


async def test_dates_that_have_passed_are_not_offered(shop: Shop) -> None:
    date_ = shop.new_schedule()
    with shop.stack.mariadb.administrator("concert") as cursor:
        cursor.execute(
            "UPDATE schedule SET date = UTC_DATE() - INTERVAL 1 DAY WHERE id = %s", (date_.id,)
        )
    fan = await shop.admitted()
    assert (await fan.schedules(date_.concert_id)).json() == {"schedules": []}


async def _same(first: AnyResponse, again: AnyResponse) -> None:
    assert (again.status_code, again.json()) == (first.status_code, first.json())


async def test_an_idempotency_key_gives_the_first_hold_again(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan, other = await shop.crowd(2)
    first = await fan.reserve(date_.seats[0], key="hold-1")
    assert first.status_code == 200
    await _same(first, await fan.reserve(date_.seats[0], key="hold-1"))
    # Without the key it is a second wish.
    assert_problem(await fan.reserve(date_.seats[0]), 409, "SEAT_HELD")
    assert_problem(await fan.reserve(date_.seats[1], key="hold-1"), 422, "IDEMPOTENCY_KEY_REUSED")
    # Keys are a user's own.
    assert (await other.reserve(date_.seats[1], key="hold-1")).status_code == 200


async def test_a_refusal_is_not_remembered_under_its_key(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan, other = await shop.crowd(2)
    reservation = await other.hold(date_.seats[0])
    assert_problem(await fan.reserve(date_.seats[0], key="try"), 409, "SEAT_HELD")
    assert (await other.cancel(reservation)).status_code == 204
    assert (await fan.reserve(date_.seats[0], key="try")).status_code == 200


async def test_an_idempotency_key_gives_the_first_payment_again(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation, other = await fan.hold(date_.seats[0]), await fan.hold(date_.seats[1])
    first = await fan.pay(reservation, key="pay-1")
    assert first.status_code == 200, first.text
    await fan.until_out()
    again = await shop.admitted(user_id=fan.user_id)
    await _same(first, await again.pay(reservation, key="pay-1"))
    assert_problem(await again.pay(other, key="pay-1"), 422, "IDEMPOTENCY_KEY_REUSED")


async def _one_in_flight(replies: Sequence[AnyResponse]) -> AnyResponse:
    """One got through, or several the same answer; the others have to wait."""
    done = [reply for reply in replies if reply.status_code == 200]
    assert done, [reply.text for reply in replies]
    assert len({reply.text for reply in done}) == 1
    for reply in replies:
        if reply.status_code != 200:
            assert_problem(reply, 409, "IN_PROGRESS")
            assert int(reply.headers["Retry-After"]) >= 1
    return done[0]


async def test_a_key_whose_first_payment_is_under_way(shop: Shop) -> None:
    """The sandbox takes two seconds for this user, so the others find the first in flight."""
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(SLOW))
    reservation = await fan.hold(date_.seats[0])
    tabs = await asyncio.gather(*(shop.admitted(user_id=fan.user_id) for _ in range(5)))
    replies = await asyncio.gather(*(tab.pay(reservation, key="slow") for tab in tabs))
    assert sum(reply.status_code == 409 for reply in replies) == 4
    await _one_in_flight(replies)


async def test_a_key_used_many_times_at_once_holds_one_seat(shop: Shop) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    tabs = await asyncio.gather(*(shop.admitted(user_id=fan.user_id) for _ in range(20)))
    replies = await asyncio.gather(*(tab.reserve(date_.seats[0], key="once") for tab in tabs))
    first = await _one_in_flight(replies)
    await _same(first, await fan.reserve(date_.seats[0], key="once"))


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json"])
async def test_what_is_there_beside_the_shop(shop: Shop, path: str) -> None:
    visitor: Fan = shop.fan()
    assert (await visitor.request("GET", path)).status_code == 200


async def test_the_journey_alone_costs_what_the_seat_costs(shop: Shop) -> None:
    """Money is exact: a price that no float holds goes through unharmed."""
    date_ = shop.new_schedule(price="9007199254.91")
    fan = await shop.admitted()
    reserved = (await fan.reserve(date_.seats[0])).json()
    assert reserved["price"] == "9007199254.91"
    assert (await fan.pay(reserved["reservationId"])).status_code == 200
    ((amount,),) = shop.rows(
        "payment",
        "SELECT CAST(amount AS CHAR) FROM payment WHERE reservation_id = %s",
        reserved["reservationId"],
    )
    assert amount == "9007199254.910"
