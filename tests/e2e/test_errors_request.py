"""Error table, 404 NOT_FOUND, 405, 413, 415 and 422: the request itself is wrong."""

import json
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from harness.client import AnyResponse, Response
from tests.e2e.refusals import MAX_ID
from tests.e2e.shop import Fan, Shop, assert_problem, new_user_id

ROUTES_WITH_A_BODY = ["/queues/enqueue", "/concerts/reservation", "/concerts/reservations/1/pay"]


def assert_wrong_fields(reply: AnyResponse, *fields: str) -> None:
    """That there is an entry for each of these, in this order, and for no other."""
    problem = assert_problem(reply, 422, "INVALID_REQUEST")
    assert [error.field for error in problem.errors or ()] == list(fields)
    assert all(error.message for error in problem.errors or ())


async def post(
    fan: Fan, path: str, content: str | bytes | AsyncIterator[bytes], content_type: str
) -> AnyResponse:
    """Sends a body as it is, whatever it claims to be."""
    headers = {"X-Access-Token": fan.token, "Content-Type": content_type}
    return Response(await fan.http.post(path, content=content, headers=headers), BaseModel)


# 422 INVALID_REQUEST.

BAD_IDS = [0, -1, MAX_ID + 1, 2**64, "42", 1.5, 42.000001, 2.0**53, True, None, [42], {}]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_a_bad_user_id(shop: Shop, bad: object) -> None:
    fan = await shop.admitted()
    for path, body in (
        ("/queues/enqueue", {"userId": bad}),
        ("/concerts/reservation", {"userId": bad, "concertSeatId": 1}),
        ("/concerts/reservations/1/pay", {"userId": bad}),
    ):
        assert_wrong_fields(await fan.request("POST", path, body), "userId")


async def test_each_bad_field_has_an_entry(shop: Shop) -> None:
    fan = await shop.admitted()
    for body in ({"userId": "x", "concertSeatId": -1}, {}):
        reply = await fan.request("POST", "/concerts/reservation", body)
        assert_wrong_fields(reply, "userId", "concertSeatId")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"userId=42", b'{"userId": 42', b"[]", b"null", b"42", b"\xff\xfe", b'"']
)
async def test_a_body_that_is_not_a_json_object(shop: Shop, content: bytes) -> None:
    fan = await shop.admitted()
    for path in ROUTES_WITH_A_BODY:
        reply = await post(fan, path, content, "application/json")
        assert len(assert_problem(reply, 422, "INVALID_REQUEST").errors or ()) == 1


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
        assert_wrong_fields(reply, field)


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
    fan = await shop.admitted()
    assert_wrong_fields(await fan.concerts(**query), field)


@pytest.mark.parametrize("key", ["", "x" * 256, "t\tab"], ids=["empty", "long", "control"])
async def test_a_bad_idempotency_key(shop: Shop, key: str) -> None:
    fan = await shop.admitted()
    reply = await fan.request(
        "POST",
        "/concerts/reservation",
        {"userId": fan.user_id, "concertSeatId": 1},
        headers={"Idempotency-Key": key},
    )
    assert_wrong_fields(reply, "Idempotency-Key")


# 413 BODY_TOO_LARGE.


async def test_a_body_over_16_kib(shop: Shop) -> None:
    fan = await shop.admitted()
    fits = json.dumps({"userId": fan.user_id, "padding": ""}).encode()
    fits = fits.replace(b'""', b'"' + b"x" * (16 * 1024 - len(fits)) + b'"')
    assert len(fits) == 16 * 1024

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1024

    reply = await post(fan, "/queues/enqueue", fits, "application/json")
    assert reply.status_code == 201
    for path in ROUTES_WITH_A_BODY:
        for content in (fits + b" ", chunks()):
            reply = await post(fan, path, content, "application/json")
            assert_problem(reply, 413, "BODY_TOO_LARGE")


# 404 NOT_FOUND, 405 METHOD_NOT_ALLOWED.


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/queues", "/queues/order/", "/concerts/1", "/concerts/schedules/1"]
)
async def test_an_unknown_path(shop: Shop, path: str) -> None:
    assert_problem(await shop.fan().request("GET", path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/queues/enqueue", {"POST", "OPTIONS"}),
        ("POST", "/queues/order", {"DELETE", "GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/concerts", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/concerts/1/schedules", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/concerts/schedules/1/seats", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/concerts/reservation", {"POST", "OPTIONS"}),
        ("GET", "/concerts/reservations/1/pay", {"POST", "OPTIONS"}),
        ("PUT", "/concerts/reservations/1", {"DELETE", "GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_a_wrong_method(shop: Shop, method: str, path: str, allowed: set[str]) -> None:
    reply = await shop.fan().request(method, path)
    assert_problem(reply, 405, "METHOD_NOT_ALLOWED")
    assert set(reply.headers["Allow"].split(", ")) == allowed


# 415 UNSUPPORTED_MEDIA_TYPE.


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
async def test_a_wrong_content_type(shop: Shop, content_type: str) -> None:
    fan = await shop.admitted()
    body = json.dumps({"userId": fan.user_id, "concertSeatId": 1})
    for path in ROUTES_WITH_A_BODY:
        reply = await post(fan, path, body, content_type)
        assert_problem(reply, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_with_a_charset_is_json(shop: Shop) -> None:
    reply = await shop.fan().http.post(
        "/queues/enqueue",
        content=json.dumps({"userId": new_user_id()}),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert reply.status_code == 201
