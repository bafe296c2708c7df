"""Invalid requests get one error for each invalid field."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.middleware.request_guard import MAX_DISCARDED_BYTES
from gateway.requests import MAX_BODY_BYTES
from tests.gateway.fakes import Services
from tests.gateway.problems import assert_problem

BAD_IDS = {
    "missing": "",
    "null": "null",
    "a boolean": "true",
    "a float": "1.5",
    "almost an integer": "42.000001",
    "a fraction with an exponent": "15e-1",
    "a zero as a float": "0.0",
    "a negative float": "-42.0",
    # The next floating-point number stands for this integer and for its neighbour.
    "2^53 + 1 as a float": "9007199254740993.0",
    "2^53 as a float": "9007199254740992.0",
    "2^63 with an exponent": "9.223372036854775808e18",
    "beyond every float": "1e400",
    "a whole float in a string": '"42.0"',
    "a string": '"42"',
    "an array": "[42]",
    "an object": '{"id": 42}',
    "zero": "0",
    "negative": "-1",
    "2^63": str(2**63),
    "2^64 + 1": str(2**64 + 1),
    "of 400 digits": "9" * 400,
}
BODY_FIELDS = [
    ("/queues/enqueue", "userId", {}),
    ("/concerts/reservation", "userId", {"concertSeatId": 101}),
    ("/concerts/reservation", "concertSeatId", {"userId": 42}),
    ("/concerts/reservations/1/pay", "userId", {}),
]
BODY_PATHS = ["/queues/enqueue", "/concerts/reservation", "/concerts/reservations/1/pay"]


def fields(body: dict[str, list[dict[str, str]]]) -> list[str]:
    assert all(error["message"] for error in body["errors"])
    return [error["field"] for error in body["errors"]]


@pytest.fixture
def headers(services: Services) -> dict[str, str]:
    """The headers of user 42, who is admitted."""
    return {"X-Access-Token": services.token(42), "Content-Type": "application/json"}


class TestIdsInTheBody:
    @pytest.mark.parametrize(("path", "field", "others"), BODY_FIELDS)
    async def test_invalid(
        self,
        client: httpx.AsyncClient,
        headers: dict[str, str],
        path: str,
        field: str,
        others: dict[str, int],
    ) -> None:
        for what, value in BAD_IDS.items():
            rest = json.dumps(others)[1:-1]
            members = [member for member in (rest, value and f'"{field}": {value}') if member]
            response = await client.post(
                path, content="{" + ", ".join(members) + "}", headers=headers
            )
            assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == [field], what

    @pytest.mark.parametrize(("path", "field", "others"), BODY_FIELDS[:3])
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("42.0", 42),
            ("4.2e1", 42),
            ("420e-1", 42),
            ("9007199254740991.0", 2**53 - 1),
            ("9007199254740993", 2**53 + 1),
            ("9223372036854775807", 2**63 - 1),
        ],
    )
    async def test_every_spelling_of_an_integer_of_json_schema(
        self,
        client: httpx.AsyncClient,
        services: Services,
        path: str,
        field: str,
        others: dict[str, int],
        text: str,
        value: int,
    ) -> None:
        headers = {"X-Access-Token": services.token(value if field == "userId" else 42)}
        rest = "".join(f', "{name}": {number}' for name, number in others.items())
        body = "{" + f'"{field}": {text}{rest}' + "}"
        await client.post(
            path, content=body, headers=headers | {"Content-Type": "application/json"}
        )
        if path == "/queues/enqueue":
            (call,) = services.faults.of("EnterQueue")
            assert list(call.request.user_ids) == [value]
        else:
            (call,) = services.faults.of("HoldSeats")
            (item,) = call.request.items
            assert (item.user_id if field == "userId" else item.seats.seat_ids[0]) == value

    async def test_the_largest(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/queues/enqueue", json={"userId": 2**63 - 1})
        assert response.status_code == 201

    async def test_every_invalid_field_is_reported(
        self, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        response = await client.post(
            "/concerts/reservation", json={"userId": 0, "concertSeatId": "x"}, headers=headers
        )
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert fields(body) == ["userId", "concertSeatId"]

    async def test_invalid_fields_of_path_body_and_key_are_reported_together(
        self, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        response = await client.post(
            "/concerts/reservations/0/pay",
            json={"userId": 0},
            headers=headers | {"Idempotency-Key": ""},
        )
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert fields(body) == ["reservationId", "userId", "Idempotency-Key"]

    async def test_snake_case_names_are_not_accepted(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/queues/enqueue", json={"user_id": 42})
        assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == ["userId"]


class TestIdsInThePath:
    @pytest.mark.parametrize(
        ("method", "path", "field"),
        [
            ("GET", "/concerts/{}/schedules", "concertId"),
            ("GET", "/concerts/schedules/{}/seats", "scheduleId"),
            ("POST", "/concerts/reservations/{}/pay", "reservationId"),
            ("GET", "/concerts/reservations/{}", "reservationId"),
            ("DELETE", "/concerts/reservations/{}", "reservationId"),
        ],
    )
    async def test_invalid(
        self,
        client: httpx.AsyncClient,
        headers: dict[str, str],
        method: str,
        path: str,
        field: str,
    ) -> None:
        content = b'{"userId": 42}' if method == "POST" else None
        for bad in [
            "0",
            "-1",
            "+1",
            "1.5",
            "1e3",
            "true",
            "null",
            "x",
            "%20",
            "1%20",
            "1_0",
            "%C2%B2",  # a superscript two: a digit to Python
            "%D9%A1",  # an Arabic one: decimal to Python
            str(2**63),
            "9" * 4_400,
        ]:
            response = await client.request(
                method, path.format(bad), content=content, headers=headers
            )
            assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == [field], bad

    async def test_the_largest(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        response = await client.get(f"/concerts/{2**63 - 1}/schedules", headers=headers)
        assert_problem(response, 404, "CONCERT_NOT_FOUND")


@pytest.mark.parametrize("path", BODY_PATHS)
class TestTheBody:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b" ",
            b"null",
            b"42",
            b'"userId"',
            b"[]",
            b'[{"userId": 42}]',
            b"{",
            b'{"userId": 42',
            b'{"userId": 42}}',
            b"{'userId': 42}",
            b"userId=42",
            b'\xff\xfe{"userId": 42}',
            b'{"userId": \xff}',
            b"[" * 10_000,
            b'{"userId": %b}' % (b"9" * 5_000),
        ],
    )
    async def test_not_a_json_object(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str, content: bytes
    ) -> None:
        response = await client.post(path, content=content, headers=headers)
        assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == ["body"]

    async def test_empty(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        response = await client.post(path, headers=headers)
        body = assert_problem(response, 422, "INVALID_REQUEST")
        said = {"field": "body", "message": "The body is empty; send a JSON object."}
        assert said in body["errors"]

    @pytest.mark.parametrize(
        "media_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/problem+json",
            "",
        ],
    )
    async def test_another_content_type(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str, media_type: str
    ) -> None:
        response = await client.post(
            path, content=b'{"userId": 42}', headers=headers | {"Content-Type": media_type}
        )
        assert_problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")

    @pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x", ""])
    async def test_a_content_coding(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str, coding: str
    ) -> None:
        response = await client.post(
            path, content=b'{"userId": 42}', headers=headers | {"Content-Encoding": coding}
        )
        assert_problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")

    async def test_the_content_coding_that_changes_nothing(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        response = await client.post(
            path, content=b"{", headers=headers | {"Content-Encoding": "Identity"}
        )
        assert_problem(response, 422, "INVALID_REQUEST")

    async def test_the_content_type_in_another_spelling(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        media_type = "Application/JSON ; charset=UTF-8"
        response = await client.post(
            path, content=b"{", headers=headers | {"Content-Type": media_type}
        )
        assert_problem(response, 422, "INVALID_REQUEST")

    async def test_up_to_the_limit_is_read(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        content = b"{}".ljust(MAX_BODY_BYTES)
        response = await client.post(path, content=content, headers=headers)
        assert_problem(response, 422, "INVALID_REQUEST")

    async def test_over_the_limit_is_not_read(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        length = str(MAX_DISCARDED_BYTES + 1)
        response = await client.post(
            path, content=never(), headers=headers | {"Content-Length": length}
        )
        assert_problem(response, 413, "BODY_TOO_LARGE")

    async def test_without_a_length_is_read_up_to_the_limit(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1_000
                assert sent <= MAX_DISCARDED_BYTES + 2_000
                yield b" " * 1_000

        response = await client.post(path, content=endless(), headers=headers)
        assert_problem(response, 413, "BODY_TOO_LARGE")


async def test_a_body_in_pieces_is_accepted(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"userId": 42}':
            yield bytes([byte])

    assert (await client.post("/queues/enqueue", content=pieces())).status_code == 201


async def test_a_stalled_body_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.requests.BODY_SECONDS", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    response = await client.post("/queues/enqueue", content=stalled())
    assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == ["body"]


class TestTheIdempotencyKey:
    @pytest.mark.parametrize("path", BODY_PATHS[1:])
    @pytest.mark.parametrize("key", ["", "k" * 256, "tab\there", "ünï"])
    async def test_invalid(
        self, client: httpx.AsyncClient, headers: dict[str, str], path: str, key: str
    ) -> None:
        response = await client.post(
            path,
            json={"userId": 42, "concertSeatId": 101},
            headers=httpx.Headers(headers | {"Idempotency-Key": key}, encoding="latin-1"),
        )
        assert fields(assert_problem(response, 422, "INVALID_REQUEST")) == ["Idempotency-Key"]

    async def test_of_full_length(
        self, client: httpx.AsyncClient, services: Services, headers: dict[str, str]
    ) -> None:
        key = "~" * 255
        response = await client.post(
            "/concerts/reservation",
            json={"userId": 42, "concertSeatId": 101},
            headers=headers | {"Idempotency-Key": key},
        )
        assert response.status_code == 200
        assert services.faults.of("HoldSeats")[0].request.items[0].idempotency_key == key
