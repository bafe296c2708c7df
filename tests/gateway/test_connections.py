"""Raw HTTP over real connections to a real server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway import requests
from gateway.middleware import request_guard
from gateway.middleware.request_guard import MAX_DISCARDED_BYTES
from gateway.requests import MAX_BODY_BYTES
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.serving import serving


@dataclass
class Connection:
    """One connection without an HTTP client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: str) -> None:
        for part in parts:
            self.writer.write(part.encode())
            await self.writer.drain()

    async def read_response(self, *, body: bool = True) -> tuple[int, dict[str, str], str]:
        """Returns status, headers and body of the next response."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            fields = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in fields}
            length = int(headers["content-length"]) if body else 0
            return (
                int(head[0].split()[1]),
                headers,
                (await self.reader.readexactly(length)).decode(),
            )

    async def is_closed(self) -> bool:
        """Returns whether the server closes it without another byte."""
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


@pytest.fixture
async def connection(services: Services) -> AsyncIterator[Connection]:
    async with serving(services) as gateway:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", gateway.port))
        yield connection
        connection.writer.close()


HOLD = "POST /concerts/reservation HTTP/1.1\r\nHost: x\r\n"
ENTER = "POST /queues/enqueue HTTP/1.1\r\nHost: x\r\n"
LIVE = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_many_requests_on_one_connection(connection: Connection) -> None:
    for _ in range(3):
        await connection.send(LIVE)
        status, headers, body = await connection.read_response()
        assert (status, body) == (200, '{"status":"live"}')
        assert "connection" not in headers
    await connection.send(LIVE, LIVE, LIVE)  # without waiting for responses
    assert [(await connection.read_response())[0] for _ in range(3)] == [200] * 3


async def test_a_body_in_chunks(connection: Connection) -> None:
    await connection.send(
        ENTER + "Transfer-Encoding: chunked\r\n\r\n", "8\r\n", '{"userId', "\r\n6\r\n", '": 42}'
    )
    await connection.send("\r\n0\r\n\r\n")
    status, headers, _ = await connection.read_response()
    assert status == 201
    assert "x-access-token" in headers


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, MAX_DISCARDED_BYTES])
async def test_a_body_that_is_somewhat_too_large_is_answered(
    connection: Connection, size: int
) -> None:
    """Closing the connection instead would reset it, and the client would not learn why."""
    await connection.send(ENTER + f"Content-Length: {size}\r\n\r\n", " " * size)
    status, headers, body = await connection.read_response()
    assert status == 413
    assert "BODY_TOO_LARGE" in body
    assert "connection" not in headers
    await connection.send(LIVE)
    assert (await connection.read_response())[0] == 200


async def test_a_refused_request_whose_body_follows_keeps_the_connection(
    connection: Connection,
) -> None:
    """Many clients send head and body separately."""
    await connection.send(HOLD + "Content-Length: 14\r\n\r\n")
    await asyncio.sleep(0.05)
    await connection.send('{"userId": 42}', LIVE)
    status, headers, _ = await connection.read_response()
    assert status == 401
    assert "connection" not in headers
    assert (await connection.read_response())[0] == 200


async def test_a_body_that_never_comes_ends_the_connection(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_guard, "BODY_SECONDS", 0.05)
    await connection.send(HOLD + "Content-Length: 14\r\n\r\n{")
    status, headers, _ = await connection.read_response()
    assert (status, headers["connection"]) == (401, "close")
    assert await connection.is_closed()


async def test_a_late_body_is_not_the_next_request(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.05)
    await connection.send(ENTER + f"Content-Length: {len(LIVE)}\r\n\r\n")
    status, headers, _ = await connection.read_response()
    assert (status, headers["connection"]) == (422, "close")
    assert await connection.is_closed()


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    connection: Connection,
) -> None:
    await connection.send(ENTER + "Content-Length: 99999\r\nExpect: 100-continue\r\n\r\n")
    status, headers, _ = await connection.read_response()
    assert (status, headers["connection"]) == (413, "close")
    assert await connection.is_closed()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health/live", 200), ("/docs", 200), ("/concerts", 401), ("/nowhere", 404)],
)
async def test_head_has_no_body(connection: Connection, path: str, status: int) -> None:
    await connection.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    found, headers, _ = await connection.read_response(body=False)
    assert (found, int(headers["content-length"]) > 0) == (status, True)
    await connection.send(LIVE)  # a body would be read here
    assert (await connection.read_response())[0] == 200


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        ("GET /health/live HTTP/1.1\r\n", {400}),
        ("GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n", {400}),
        ("GET /health/live HTTP/1.1\r\nHost: a\r\nhost: a\r\n", {400}),
        ("GET /health/live HTTP/1.1\r\nHost:\r\n", {400}),
        ("GET /health/live HTTP/1.1\r\nHost: a, b\r\n", {400}),
        ("GET /health/live HTTP/2.0\r\nHost: a\r\n", {400, 505}),
        (ENTER + "Transfer-Encoding: gzip, chunked\r\n", {400, 501}),
        (ENTER + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", {400, 501}),
        (ENTER + "Transfer-Encoding: chunked\r\nX: " + "x" * 17_000 + "\r\n", {431}),
        (ENTER + "X: x\r\n" * 101, {431}),
    ],
)
async def test_malformed_http_is_refused_and_ends_the_connection(
    connection: Connection, head: str, statuses: set[int]
) -> None:
    await connection.send(head + "\r\n")
    assert (await connection.read_response())[0] in statuses
    assert await connection.is_closed()


@pytest.mark.parametrize("blank", [" ", "\t", " \t "])
async def test_blanks_around_a_header_value_do_not_count(
    connection: Connection, services: Services, blank: str
) -> None:
    token, key = services.token(42), "key"
    await connection.send(
        f"POST /concerts/reservation HTTP/1.1\r\nHost:{blank}x{blank}\r\n"
        f"X-Access-Token:{blank}{token}{blank}\r\nIdempotency-Key:{blank}{key}{blank}\r\n"
        f"Content-Type:{blank}application/json{blank}\r\n"
        f"X-Request-Id:{blank}mine{blank}\r\nContent-Length:{blank}36{blank}\r\n\r\n"
        '{"userId": 42, "concertSeatId": 101}'
    )
    status, headers, body = await connection.read_response()
    assert (status, headers["x-request-id"]) == (200, "mine"), body
    assert services.faults.of("HoldSeats")[0].request.items[0].idempotency_key == key


async def test_http_1_0_gets_a_closed_connection(connection: Connection) -> None:
    await connection.send("GET /health/live HTTP/1.0\r\n\r\n")
    assert (await connection.read_response())[0] == 200
    assert await connection.is_closed()


async def test_a_client_that_disconnects_causes_no_warning(
    connection: Connection, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    services.faults.delays["EnterQueue"] = 0.05
    await connection.send(ENTER + 'Content-Length: 14\r\n\r\n{"userId": 42}')
    await until(lambda: bool(services.faults.of("EnterQueue")))
    connection.writer.close()
    await asyncio.sleep(0.1)  # the response has no receiver
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_the_response_does_not_name_the_http_server(connection: Connection) -> None:
    await connection.send(LIVE)
    _, headers, _ = await connection.read_response()
    assert headers["server"] == "frontrow"  # granian would name itself
    assert set(headers) == {
        "server",
        "date",
        "content-type",
        "content-length",
        "cache-control",
        "x-request-id",
    }


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /concerts/\xe9 HTTP/1.1", 400),
        ("G\xe9T /concerts HTTP/1.1", 400),
        ("GET /concerts HTTP/9.7", 400),
        ("GET /concerts", 400),
        ("FOO /concerts HTTP/1.1", 405),
    ],
)
async def test_a_malformed_request_line_is_refused(
    connection: Connection, line: str, status: int
) -> None:
    connection.writer.write(line.encode("latin-1") + b"\r\nHost: x\r\n\r\n")
    assert (await connection.read_response())[0] == status
    assert status == 405 or await connection.is_closed()


async def test_bad_requests_do_not_fill_the_log(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [
        "G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET /concerts HTTP/1.1\r\nHost: x\r\nX-Access-Token: e30.e30.x\r\n\r\n",
        "GET /concerts/x/schedules HTTP/1.1\r\nHost: x\r\n"
        f"X-Access-Token: {services.token(42)}\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        ENTER + "Content-Length: 1\r\n\r\n{",
        ENTER + "Content-Length: 99999\r\n\r\n",
        ENTER + "Content-Length: 9\r\n",  # and the client leaves
        ENTER + "Transfer-Encoding: gzip\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: " + "a" * 20_000 + "\r\n\r\n",
    ]
    async with serving(services) as gateway:
        caplog.clear()
        for request in bad:
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(request.encode())
                if request.endswith("\r\n\r\n"):
                    await reader.readuntil(b"\r\n")
                writer.close()
    # Libraries may complain: each of their messages is logged once a second (servicekit/logs.py).
    messages = {(record.name, record.msg) for record in caplog.records}
    assert not any(name.startswith(("gateway", "servicekit")) for name, _ in messages)
    assert len(messages) <= 1, messages
