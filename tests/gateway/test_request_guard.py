"""The request guard by itself, with every head that some HTTP server might let through."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.middleware import request_guard
from gateway.middleware.request_guard import (
    MAX_DISCARDED_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_FIELDS,
    RequestGuard,
)

Head = list[tuple[bytes, bytes]]
HOST = (b"host", b"shop.example:8080")
CHUNKED = (b"transfer-encoding", b"chunked")


@dataclass
class Exchange:
    """One request through the guard to an application that reads `reads` pieces of the body."""

    headers: Head
    version: str = "1.1"
    path: str = "/"
    pieces: list[bytes] = field(default_factory=list)
    reads: int = 0
    #: Whether the client ends the body after `pieces`.
    ends: bool = True
    #: Headers that the application got; None if it was not called.
    seen: Head | None = None
    sent: list[Message] = field(default_factory=list)

    async def run(self) -> "Exchange":
        scope = {
            "type": "http",
            "method": "POST",
            "http_version": self.version,
            "path": self.path,
            "query_string": b"",
            "headers": self.headers,
        }
        await RequestGuard(self._app)(scope, self._receive, self._send)
        return self

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen = scope["headers"]
        for _ in range(self.reads):
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _receive(self) -> Message:
        if not self.pieces and not self.ends:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        more = bool(self.pieces) or not self.ends
        return {"type": "http.request", "body": piece, "more_body": more}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def closes(self) -> bool:
        values = [value for name, value in self.sent[0]["headers"] if name == b"connection"]
        assert values in ([], [b"close"])
        return bool(values)


async def refusal(exchange: Exchange) -> tuple[int, str]:
    """Returns status and code of a refused request."""
    await exchange.run()
    assert exchange.seen is None
    assert exchange.closes
    headers = dict(exchange.sent[0]["headers"])
    body = json.loads(exchange.sent[1]["body"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert body["status"] == exchange.status
    assert body["requestId"].encode() == headers[b"x-request-id"]
    return exchange.status, body["code"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"")],
        [HOST, HOST],
        [HOST, (b"accept", b"*/*"), (b"host", b"other")],
        [(b"host", b"a, b")],
        [(b"host", b"a b")],
        [(b"host", b"a/b")],
        [(b"host", b"user@a")],
        [(b"host", b"h\xc3\xb6st")],
        [HOST, (b"transfer-encoding", b"gzip")],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
        [HOST, (b"transfer-encoding", b"chunked, chunked")],
        [HOST, (b"transfer-encoding", b"gzip"), CHUNKED],
        [HOST, CHUNKED, CHUNKED],
        [HOST, CHUNKED, (b"content-length", b"5")],
        [HOST, (b"content-length", b"-5")],
        [HOST, (b"content-length", b"5, 5")],
        [HOST, (b"content-length", b"")],
    ],
)
async def test_malformed(headers: Head) -> None:
    assert await refusal(Exchange(headers)) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("version", ["2.0", "2", "1.2", "0.9", "3", ""])
async def test_another_version(version: str) -> None:
    assert await refusal(Exchange([HOST], version=version)) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("version", ["1.0", "1"])
async def test_http_1_0_needs_no_host(version: str) -> None:
    assert (await Exchange([], version=version).run()).status == 200
    assert await refusal(Exchange([HOST, HOST], version=version)) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"[::1]:8080", b"xn--hst-sna.example", b"a_b", b"localhost:1", b"x%20y"]
)
async def test_hosts(host: bytes) -> None:
    assert (await Exchange([(b"host", host)]).run()).status == 200


async def test_the_largest_head() -> None:
    fields: Head = [HOST, *((b"x-%d" % n, b"") for n in range(MAX_HEADER_FIELDS - 1))]
    assert (await Exchange(fields).run()).status == 200
    used = len(b"/") + len(b"host: \r\n" + HOST[1]) + len(b"x: \r\n")
    assert (await Exchange([HOST, (b"x", b"v" * (MAX_HEAD_BYTES - used))]).run()).status == 200


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange([HOST, *((b"x-%d" % n, b"") for n in range(MAX_HEADER_FIELDS))]),
        Exchange([HOST, (b"x", b"v" * MAX_HEAD_BYTES)]),
        Exchange([HOST, *((b"x-%d" % n, b"v" * 250) for n in range(80))]),
        Exchange([HOST, (b"n" * MAX_HEAD_BYTES, b"")]),
        Exchange([HOST], path="/" + "p" * MAX_HEAD_BYTES),
    ],
    ids=["fields", "a value", "all values", "a name", "the path"],
)
async def test_a_larger_head(exchange: Exchange) -> None:
    assert await refusal(exchange) == (431, "HEADERS_TOO_LARGE")


async def test_an_upgrade_is_ignored() -> None:
    headers: Head = [HOST, (b"connection", b"Upgrade"), (b"upgrade", b"h2c")]
    exchange = await Exchange(headers).run()
    assert (exchange.status, exchange.closes) == (200, False)


class TestTheBody:
    async def test_that_the_application_read(self) -> None:
        exchange = Exchange([HOST, (b"content-length", b"4")], pieces=[b"ab", b"cd"], reads=2)
        assert (await exchange.run()).closes is False

    async def test_in_chunks_that_the_application_read(self) -> None:
        assert not (await Exchange([HOST, CHUNKED], pieces=[b"ab", b""], reads=2).run()).closes

    @pytest.mark.parametrize("reads", [0, 1])
    async def test_of_ordinary_size_that_it_did_not_read_is_read_here(self, reads: int) -> None:
        exchange = Exchange([HOST, (b"content-length", b"4")], pieces=[b"ab", b"cd"], reads=reads)
        assert (await exchange.run()).closes is False
        assert exchange.pieces == []

    async def test_that_is_declared_too_large_is_not_read(self) -> None:
        length = str(MAX_DISCARDED_BYTES + 1).encode()
        exchange = Exchange([HOST, (b"content-length", length)], pieces=[b"ab", b"cd"])
        assert (await exchange.run()).closes
        assert exchange.pieces == [b"ab", b"cd"]

    async def test_in_chunks_is_read_up_to_the_limit(self) -> None:
        exchange = Exchange([HOST, CHUNKED], pieces=[b"x" * 1_000] * 80)
        assert (await exchange.run()).closes
        assert len(exchange.pieces) == 80 - 66

    async def test_that_does_not_end_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(request_guard, "BODY_SECONDS", 0.01)
        assert (await Exchange([HOST, (b"content-length", b"4")], ends=False).run()).closes

    async def test_that_the_application_did_not_wait_for_is_not_waited_for_here(self) -> None:
        exchange = Exchange([HOST, (b"content-length", b"4")], ends=False)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
            await send({"type": "http.response.start", "status": 422, "headers": []})

        exchange._app = app  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            assert (await exchange.run()).closes
