"""Every row of the contract's error table, provoked over HTTP at the real services."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import httpx
import jwt
import pytest

from deploy.local.process import Process
from deploy.local.stack import Stack
from protos.queue.v1 import queue_pb2, queue_pb2_grpc
from tests.e2e.conftest import DOOR, NOBODY, in_thread, start_all
from tests.e2e.shop import (
    DECLINED,
    FAILING,
    SILENT_APPROVED,
    SILENT_DECLINED,
    SLOW,
    Fan,
    Shop,
    assert_problem,
    eventually,
    new_user_id,
    sandbox_user,
)

MAX_ID = 2**63 - 1
UNKNOWN = 9_000_000_000


@pytest.fixture(scope="module")
def door(stack: Stack) -> str:
    """The name of a gateway to the room DOOR, with the usual limit of requests a second."""
    gateway = stack.add_replica(
        "gateway", {"GATEWAY_ROOM": DOOR, "GATEWAY_REQUESTS_PER_SECOND": "20"}
    )
    gateway.start()
    return gateway.name


@pytest.fixture(scope="module")
def impatient(stack: Stack) -> str:
    """The name of a gateway that waits half a second for the services, and remembers nothing."""
    half_a_second = {f"GATEWAY_{kind}_BUDGET_SECONDS": "0.5" for kind in ("READ", "WRITE", "PAY")}
    at_once = {
        f"GATEWAY_{kind}_TTL_SECONDS": "0" for kind in ("ADMISSION", "SEATS", "SCHEDULES", "FACTS")
    }
    gateway = stack.add_replica("gateway", half_a_second | at_once)
    gateway.start()
    return gateway.name


class Room:
    """The room DOOR in an operator's hand."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def set(self, **limits: int | bool) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = queue_pb2_grpc.QueueAdminServiceStub(channel)
            await stub.UpdateRoom(
                queue_pb2.UpdateRoomRequest(room=DOOR, **limits),  # type: ignore[arg-type]
                timeout=5,
            )


@pytest.fixture
async def room(stack: Stack, shop: Shop, door: str) -> AsyncIterator[Room]:
    room = Room(stack.address("queue_service"))
    await room.set(capacity=1000, max_waiting=1000, paused=False)
    yield room
    await room.set(capacity=1000, max_waiting=1000, paused=False)
    await shop.empty(door)


# --- 422 INVALID_REQUEST -----------------------------------------------------------------


BAD_IDS = [0, -1, MAX_ID + 1, 2**64, "42", 1.5, 42.0, True, None, [42], {}]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_a_bad_user_id(shop: Shop, bad: object) -> None:
    fan = await shop.admitted()
    for path, body in (
        ("/queues/enqueue", {"userId": bad}),
        ("/concerts/reservation", {"userId": bad, "concertSeatId": 1}),
        ("/concerts/reservations/1/pay", {"userId": bad}),
    ):
        problem = assert_problem(await fan.request("POST", path, body), 422, "INVALID_REQUEST")
        (error,) = problem["errors"]
        assert error["field"] == "userId"
        assert error["message"]


async def test_each_bad_field_has_an_entry(shop: Shop) -> None:
    fan = await shop.admitted()
    reply = await fan.request("POST", "/concerts/reservation", {"userId": "x", "concertSeatId": -1})
    problem = assert_problem(reply, 422, "INVALID_REQUEST")
    assert [error["field"] for error in problem["errors"]] == ["userId", "concertSeatId"]
    problem = assert_problem(
        await fan.request("POST", "/concerts/reservation", {}), 422, "INVALID_REQUEST"
    )
    assert [error["field"] for error in problem["errors"]] == ["userId", "concertSeatId"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"userId=42", b'{"userId": 42', b"[]", b"null", b"42", b"\xff\xfe", b'"']
)
async def test_a_body_that_is_not_a_json_object(shop: Shop, content: bytes) -> None:
    fan = await shop.admitted()
    for path in ("/queues/enqueue", "/concerts/reservation", "/concerts/reservations/1/pay"):
        reply = await fan.http.post(
            path,
            content=content,
            headers={"X-Access-Token": fan.token, "Content-Type": "application/json"},
        )
        assert len(assert_problem(reply, 422, "INVALID_REQUEST")["errors"]) == 1


@pytest.mark.parametrize(
    "bad", ["0", "-1", "abc", "1.0", str(MAX_ID + 1), "9" * 40, "%20", "\u0661"]
)
async def test_a_bad_id_in_the_path(shop: Shop, bad: str) -> None:
    fan = await shop.admitted()
    for reply, field in (
        (await fan.schedules(bad), "concertId"),
        (await fan.seats(bad), "scheduleId"),
        (await fan.pay(bad), "reservationId"),
        (await fan.reservation(bad), "reservationId"),
        (await fan.cancel(bad), "reservationId"),
    ):
        problem = assert_problem(reply, 422, "INVALID_REQUEST")
        assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"pageSize": "0"}, "pageSize"),
        ({"pageSize": "101"}, "pageSize"),
        ({"pageSize": "-1"}, "pageSize"),
        ({"pageSize": "many"}, "pageSize"),
        ({"pageToken": "nonsense"}, "pageToken"),
        ({"pageToken": "x" * 1000}, "pageToken"),
    ],
    ids=str,
)
async def test_a_bad_page(shop: Shop, query: dict[str, str], field: str) -> None:
    problem = assert_problem(
        await (await shop.admitted()).concerts(**query), 422, "INVALID_REQUEST"
    )
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("key", ["", "x" * 256, "t\tab"], ids=["empty", "long", "control"])
async def test_a_bad_idempotency_key(shop: Shop, key: str) -> None:
    fan = await shop.admitted()
    reply = await fan.request(
        "POST",
        "/concerts/reservation",
        {"userId": fan.user_id, "concertSeatId": 1},
        headers={"Idempotency-Key": key},
    )
    problem = assert_problem(reply, 422, "INVALID_REQUEST")
    assert [error["field"] for error in problem["errors"]] == ["Idempotency-Key"]


# --- 413, 404, 405, 415 ------------------------------------------------------------------


async def test_a_body_over_16_kib(shop: Shop) -> None:
    fan = await shop.admitted()
    fits = json.dumps({"userId": fan.user_id, "padding": ""}).encode()
    fits = fits.replace(b'""', b'"' + b"x" * (16 * 1024 - len(fits)) + b'"')
    assert len(fits) == 16 * 1024

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1024

    headers = {"X-Access-Token": fan.token, "Content-Type": "application/json"}
    reply = await fan.http.post("/queues/enqueue", content=fits, headers=headers)
    assert reply.status_code == 201
    for path in ("/queues/enqueue", "/concerts/reservation", "/concerts/reservations/1/pay"):
        for content in (fits + b" ", chunks()):
            try:
                reply = await fan.http.post(path, content=content, headers=headers)
            except httpx.WriteError:
                continue  # the answer was given before the whole body was there
            assert_problem(reply, 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/queues", "/queues/order/", "/concerts/1", "/concerts/schedules/1"]
)
async def test_an_unknown_path(shop: Shop, path: str) -> None:
    assert_problem(await shop.fan().request("GET", path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/queues/enqueue", {"POST"}),
        ("POST", "/queues/order", {"DELETE", "GET"}),
        ("DELETE", "/concerts", {"GET"}),
        ("PUT", "/concerts/1/schedules", {"GET"}),
        ("PATCH", "/concerts/schedules/1/seats", {"GET"}),
        ("GET", "/concerts/reservation", {"POST"}),
        ("GET", "/concerts/reservations/1/pay", {"POST"}),
        ("PUT", "/concerts/reservations/1", {"DELETE", "GET"}),
    ],
)
async def test_a_wrong_method(shop: Shop, method: str, path: str, allowed: set[str]) -> None:
    reply = await shop.fan().request(method, path)
    assert_problem(reply, 405, "METHOD_NOT_ALLOWED")
    assert set(reply.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
async def test_a_wrong_content_type(shop: Shop, content_type: str) -> None:
    fan = await shop.admitted()
    for path in ("/queues/enqueue", "/concerts/reservation", "/concerts/reservations/1/pay"):
        reply = await fan.http.post(
            path,
            content=json.dumps({"userId": fan.user_id, "concertSeatId": 1}),
            headers={"X-Access-Token": fan.token, "Content-Type": content_type},
        )
        assert_problem(reply, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_with_a_charset_is_json(shop: Shop) -> None:
    reply = await shop.fan().http.post(
        "/queues/enqueue",
        content=json.dumps({"userId": new_user_id()}),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert reply.status_code == 201


# --- 401, 403 ----------------------------------------------------------------------------


async def every_route_with_a_token(fan: Fan) -> list[httpx.Response]:
    return [
        await fan.order(),
        await fan.leave(),
        *await routes_behind_the_door(fan),
        await fan.reservation(1),
        await fan.cancel(1),
    ]


async def routes_behind_the_door(fan: Fan) -> list[httpx.Response]:
    """Routes 3 to 7."""
    return [
        await fan.concerts(),
        await fan.schedules(1),
        await fan.seats(1),
        await fan.reserve(1),
        await fan.pay(1),
    ]


def forged_tokens(stack: Stack, genuine: str) -> Iterator[str]:
    claims: dict[str, Any] = jwt.decode(genuine, options={"verify_signature": False})
    header = jwt.get_unverified_header(genuine)
    key_id = header["kid"]
    secret = json.loads(stack.environment("queue_service")["QUEUE_TOKEN_KEYS"])[key_id]
    stranger = "a secret of somebody else, 32 bytes"

    def signed(claims: dict[str, Any], key: str = secret, **header: str) -> str:
        return jwt.encode(claims, key, algorithm="HS256", headers={"kid": key_id, **header})

    yield ""
    yield "nonsense"
    yield "a.b.c"
    yield genuine[:-2]
    yield genuine + "x"
    yield "x" * 10_000
    head, body, signature = genuine.split(".")
    yield f"{head}.{body}."
    yield f"{head}.{body[:-1]}{'A' if body[-1] != 'A' else 'B'}.{signature}"
    yield signed(claims, stranger)
    yield signed(claims, kid="another")
    yield jwt.encode(claims, "", algorithm="none", headers={"kid": key_id})
    yield jwt.encode(claims, secret, algorithm="HS512", headers={"kid": key_id})
    yield signed({**claims, "room": "elsewhere"})
    yield signed({name: value for name, value in claims.items() if name != "user"})
    yield signed({**claims, "place": "seven"})


async def test_a_token_that_is_not_genuine(shop: Shop, stack: Stack) -> None:
    genuine = await shop.admitted()
    for token in forged_tokens(stack, genuine.token):
        fan = shop.fan(user_id=genuine.user_id)
        fan.token = token
        for reply in await every_route_with_a_token(fan):
            assert_problem(reply, 401, "INVALID_TOKEN")
            assert reply.headers["WWW-Authenticate"]
    assert (await genuine.order()).json()["order"] == 0


async def test_the_token_of_a_place_that_was_left(shop: Shop) -> None:
    fan = await shop.admitted()
    await fan.leave()
    for reply in [await fan.order(), *await routes_behind_the_door(fan)]:
        assert_problem(reply, 401, "TOKEN_EXPIRED")


async def test_the_token_of_an_admission_that_ran_out(shop: Shop, stack: Stack) -> None:
    """At a replica of the waiting room whose admissions last a second, with a room of its own."""
    queue = stack.add_replica(
        "queue_service",
        {
            "QUEUE_ROOMS": '["brief"]',
            "QUEUE_ADMISSION_TTL_SECONDS": "1",
            # It knows nothing of the rooms that payments are made in.
            "QUEUE_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    gateway = stack.add_replica(
        "gateway", {"GATEWAY_ROOM": "brief", "GATEWAY_QUEUE_ADDR": queue.address}
    )
    await in_thread(start_all, stack, queue.name, gateway.name)
    try:
        fan = await shop.admitted(gateway.name)

        async def over() -> None:
            assert_problem(await fan.order(), 401, "TOKEN_EXPIRED")

        assert (await fan.concerts()).status_code == 200
        await eventually(over, within=3)
        for reply in await routes_behind_the_door(fan):
            assert_problem(reply, 401, "TOKEN_EXPIRED")
    finally:
        gateway.kill()
        queue.kill()


async def test_who_still_waits(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=1)
    first = await shop.admitted(door)
    waiting = [shop.fan(door) for _ in range(3)]
    for order, fan in enumerate(waiting, start=1):
        entered = await fan.enter()
        assert (entered.status_code, entered.json()["order"]) == (201, order)
        assert entered.json()["admittedUntil"] is None
        assert int(entered.headers["Retry-After"]) >= 1
    for order, fan in enumerate(waiting, start=1):
        for reply in await routes_behind_the_door(fan):
            problem = assert_problem(reply, 403, "STILL_WAITING")
            assert problem["order"] == order
        reply = await fan.order()
        body = reply.json()
        assert (reply.status_code, body["order"]) == (200, order)
        assert int(reply.headers["Retry-After"]) >= 1
        assert body["pollAfterSeconds"] > 0
        assert body["estimatedWaitSeconds"] > 0
    # The next in line gets in as soon as the first leaves.
    await first.leave()
    assert (await waiting[0].order()).json()["order"] == 0
    assert (await waiting[0].concerts()).status_code == 200
    for fan in waiting:
        await fan.leave()


async def test_what_belongs_to_another_user(shop: Shop) -> None:
    date_ = shop.new_schedule()
    owner, other = await shop.crowd(2)
    reservation = await owner.hold(date_.seats[0])
    # Another's token, another's reservation.
    for path, body in (
        ("/concerts/reservation", {"userId": owner.user_id, "concertSeatId": date_.seats[1]}),
        (f"/concerts/reservations/{reservation}/pay", {"userId": owner.user_id}),
    ):
        assert_problem(await other.request("POST", path, body), 403, "NOT_YOURS")
    for reply in (
        await other.pay(reservation),
        await other.reservation(reservation),
        await other.cancel(reservation),
    ):
        assert_problem(reply, 403, "NOT_YOURS")
    # Nothing of it has done harm.
    assert (await owner.reservation(reservation)).json()["status"] == "HELD"
    assert (await owner.pay(reservation)).status_code == 200
    # Nor is a paid reservation another's.
    assert_problem(await other.pay(reservation), 403, "NOT_YOURS")


# --- 404, 409, 410 -----------------------------------------------------------------------


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


# --- 402, 202 and what a payment may come to ---------------------------------------------


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
    assert_problem(await fan.pay(reservation, key="card"), 402, "PAYMENT_DECLINED")
    charges = shop.number(
        "payment", "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s", fan.user_id
    )
    assert charges == 3
    assert_problem(await fan.pay(reservation, key="card"), 402, "PAYMENT_DECLINED")
    assert charges == shop.number(
        "payment", "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s", fan.user_id
    )
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
    other = await shop.admitted()
    first, second = await lucky.hold(date_.seats[0]), await unlucky.hold(date_.seats[1])
    pending = await asyncio.gather(lucky.pay(first), unlucky.pay(second))
    for reply, reservation in zip(pending, (first, second), strict=True):
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


# --- 429, 503: the waiting room ----------------------------------------------------------


async def test_the_waiting_room_is_full(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=0, max_waiting=1)
    waiting = shop.fan(door)
    assert (await waiting.enter()).json()["order"] == 1
    reply = await shop.fan(door).enter()
    assert_problem(reply, 429, "QUEUE_FULL")
    assert int(reply.headers["Retry-After"]) >= 1
    # Who has a place keeps it.
    assert (await waiting.enter()).json()["order"] == 1
    await waiting.leave()


async def test_the_waiting_room_is_paused(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=2)
    inside = await shop.admitted(door)
    await room.set(paused=True)
    reply = await shop.fan(door).enter()
    assert_problem(reply, 503, "QUEUE_PAUSED")
    assert int(reply.headers["Retry-After"]) >= 1
    # Who is inside goes on.
    assert (await inside.enter()).json()["order"] == 0
    assert (await inside.concerts()).status_code == 200


async def test_a_client_asks_too_often(shop: Shop, door: str, room: Room) -> None:
    fan = await shop.admitted(door)
    other = await shop.admitted(door)
    began = time.monotonic()
    replies = [await fan.order() for _ in range(60)]
    seconds_of_the_clock = int(time.monotonic() - began) + 2
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 20 <= len(replies) - len(refused) <= 20 * seconds_of_the_clock
    assert refused
    for reply in refused:
        assert_problem(reply, 429, "TOO_MANY_REQUESTS")
        assert int(reply.headers["Retry-After"]) >= 1
    # The others do not pay for it.
    assert (await other.order()).status_code == 200

    async def forgiven() -> None:
        assert (await fan.order()).status_code == 200

    await eventually(forgiven, every=0.3)


# --- 503 UNAVAILABLE, 504 TIMEOUT --------------------------------------------------------


async def needing(service: str, fan: Fan, seat_id: int, reservation: int) -> list[httpx.Response]:
    """What the service behind the gateway is needed for."""
    match service:
        case "queue_service":
            return [await fan.enter(), await fan.order(), await fan.concerts(), await fan.leave()]
        case "concert_service":
            return [await fan.concerts(), await fan.schedules(1), await fan.seats(1)]
        case "reservation_service":
            return [
                await fan.schedules(1),
                await fan.seats(1),
                await fan.reserve(seat_id),
                await fan.reservation(reservation),
                await fan.cancel(reservation),
            ]
        case _:
            return [await fan.pay(reservation)]


SERVICES = ["queue_service", "concert_service", "reservation_service", "payment_service"]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_hangs_is_a_timeout(
    shop: Shop, stack: Stack, impatient: str, service: str
) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(impatient)
    reservation = await fan.hold(date_.seats[0])
    process = stack.process(service)
    process.signal(signal.SIGSTOP)
    try:
        for reply in await needing(service, fan, date_.seats[1], reservation):
            assert_problem(reply, 504, "TIMEOUT")
            assert int(reply.headers["Retry-After"]) >= 1
    finally:
        process.signal(signal.SIGCONT)

    async def well_again() -> None:
        for reply in await needing(
            service, await shop.admitted(impatient), date_.seats[2], reservation
        ):
            assert reply.status_code < 500, reply.text

    await eventually(well_again)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_away_is_unavailable(
    shop: Shop, stack: Stack, impatient: str, service: str
) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(impatient)
    reservation = await fan.hold(date_.seats[0])
    process: Process = stack.process(service)
    await in_thread(process.stop)
    try:
        for reply in await needing(service, fan, date_.seats[1], reservation):
            assert_problem(reply, 503, "UNAVAILABLE")
            assert int(reply.headers["Retry-After"]) >= 1
        ready = await fan.request("GET", "/health/ready")
        assert (ready.status_code, ready.json()["away"]) == (503, [service])
        assert (await fan.request("GET", "/health/live")).status_code == 200
    finally:
        await in_thread(process.start)

    async def well_again() -> None:
        assert (await fan.request("GET", "/health/ready")).status_code == 200
        for reply in await needing(
            service, await shop.admitted(impatient), date_.seats[2], reservation
        ):
            assert reply.status_code < 500, reply.text

    await eventually(well_again)


# --- 500 INTERNAL ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "table"),
    [("concert", "concert"), ("reservation", "reservation"), ("payment", "payment")],
)
async def test_a_defect_is_internal_and_says_nothing(
    shop: Shop, stack: Stack, impatient: str, schema: str, table: str
) -> None:
    """A table that is missing stands for any mistake of ours."""
    date_ = shop.new_schedule()
    fan = await shop.admitted(impatient)
    reservation = await fan.hold(date_.seats[0])
    with stack.mariadb.administrator(schema) as cursor:
        cursor.execute("SET lock_wait_timeout = 10")
        cursor.execute(f"RENAME TABLE {table} TO {table}_away")
        try:
            questions: dict[str, list[Callable[[], Awaitable[httpx.Response]]]] = {
                "concert": [fan.concerts],
                "reservation": [
                    lambda: fan.reserve(date_.seats[1]),
                    lambda: fan.reservation(reservation),
                ],
                "payment": [lambda: fan.pay(reservation)],
            }
            for ask in questions[schema]:
                reply = await ask()
                problem = assert_problem(reply, 500, "INTERNAL")
                assert table not in problem["detail"]
                assert set(problem) == {"type", "title", "status", "detail", "code", "requestId"}
        finally:
            cursor.execute(f"RENAME TABLE {table}_away TO {table}")
    assert (await fan.pay_to_the_end(reservation)).status_code == 200
