"""Requests that are answered before the middleware and the routing get the same answers, byte for
byte, as on the ordinary way, and count in the same way."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from gateway.app import create_app
from gateway.clients import Clients
from gateway.immediate import ImmediateAnswers
from gateway.open_files import OpenFiles
from gateway.server import Drain
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import Services, sign
from tests.gateway.polling import until
from tests.gateway.serving import serving

ID = (b"x-request-id", b"the-same-id")
HOST = (b"host", b"shop.example")
Fields = list[tuple[bytes, bytes]]
COUNTERS = ("http_requests_total", "http_request_seconds_count", "requests_limited_total")


@dataclass
class Answer:
    status: int
    fields: Fields
    body: bytes
    immediate: bool


class Way:
    """One gateway, asked through `app` or through its ordinary way only."""

    def __init__(self, clients: Clients, app: ImmediateAnswers, drain: Drain) -> None:
        self.clients = clients
        self.drain = drain
        self.app = app
        self._ordinary = app.ordinary
        app.ordinary = self._note
        self._was_ordinary = False

    async def has_view(self) -> None:
        await until(lambda: self.clients.rooms.main.copy.view is not None)

    async def _note(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._was_ordinary = True
        await self._ordinary(scope, receive, send)

    async def ask(self, ordinary: bool, scope: Scope) -> Answer:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(dict(message))

        # Otherwise a slow machine would find the copy of the room too old to answer.
        assert await self.clients.rooms.main.copy.freshness.becomes_fresh()
        self._was_ordinary = ordinary
        await (self._ordinary if ordinary else self.app)(scope, receive, send)
        start, body = sent
        return Answer(start["status"], start["headers"], body["body"], not self._was_ordinary)


@dataclass
class Both:
    """Two gateways before one room, each with its own limits and caches: one is asked as servers
    ask it, the other on the ordinary way. Place 1 shops, the places 3 and 4 wait."""

    services: Services
    fast: Way
    ordinary: Way

    def token(self, kind: str) -> str:
        room = self.services.queue
        if kind == "waiting":
            return sign(room.waiting[1])
        shopper = next(iter(room.admitted.values()))
        return sign(shopper, iat=1) if kind == "over-aged" else sign(shopper)

    async def ask(self, path: str, fields: Fields, method: str = "GET", **scope: Any) -> Answer:
        """Sends a request to both and compares; returns the answer of the fast one."""
        counted, answers = [], []
        for way, ordinary in ((self.fast, False), (self.ordinary, True)):
            request = {**scope_of(path, [ID, *fields], method), **scope}
            before = counters()
            answers.append(await way.ask(ordinary, request))
            counted.append({k: v - before.get(k, 0) for k, v in counters().items()})
        fast, ordinary_answer = answers
        assert fast.status == ordinary_answer.status
        assert fast.body == ordinary_answer.body
        assert fast.fields == ordinary_answer.fields
        assert {k: v for k, v in counted[0].items() if v} == {
            k: v for k, v in counted[1].items() if v
        }
        return fast


def scope_of(path: str, fields: Fields, method: str = "GET") -> Scope:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [HOST, *fields],
        "client": ("127.0.0.1", 1),
    }


def counters() -> dict[tuple[str, str], float]:
    return {
        (sample.name, json.dumps(sample.labels)): sample.value
        for metric in REGISTRY.restricted_registry(COUNTERS).collect()
        for sample in metric.samples
    }


@pytest.fixture
async def both(services: Services, request: pytest.FixtureRequest) -> AsyncIterator[Both]:
    """`request.param` are settings."""
    changes = getattr(request, "param", {})
    services.queue.watch.supported = True
    services.queue.capacity = 2
    for user in range(1, 5):
        services.queue.enter(user)
    ways = []
    for _ in range(2):
        cached = dict.fromkeys(("facts_ttl_seconds", "schedules_ttl_seconds"), 60)
        settings = settings_for(services, room_view=True, seats_ttl_seconds=1, **(cached | changes))
        clients, drain = Clients(settings), Drain()
        app = create_app(settings, clients, drain, OpenFiles(20_000))
        way = Way(clients, app, drain)
        ways.append(way)
        await way.has_view()
    found = Both(services, *ways)
    if not changes:  # fills the caches
        for path in READS:
            await found.ask(path, token(found, "shopping"))
    yield found
    for way in ways:
        await way.clients.close()


READS = ("/concerts", "/concerts/1/schedules", "/concerts/schedules/11/seats")


def token(both: Both, kind: str) -> Fields:
    return [(b"x-access-token", both.token(kind).encode())]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
class TestAnsweredAtOnce:
    @pytest.mark.parametrize("kind", ["waiting", "shopping"])
    async def test_polls(self, both: Both, method: str, kind: str) -> None:
        answer = await both.ask("/queues/order", token(both, kind), method)
        assert (answer.status, answer.immediate) == (200, True)
        assert both.services.faults.of("GetPositions") == []

    @pytest.mark.parametrize("path", [*READS, "/concerts?pageSize=100", "/concerts?other=1"])
    async def test_reads(self, both: Both, method: str, path: str) -> None:
        answer = await both.ask(path, token(both, "shopping"), method)
        assert (answer.status, answer.immediate) == (200, True)

    @pytest.mark.parametrize(
        ("path", "fields", "status"),
        [
            ("/queues/order", [], 401),
            ("/concerts", [(b"x-access-token", b"forged")], 401),
            ("/queues/order", [(b"x-access-token", b"")], 401),
        ],
    )
    async def test_refusals(
        self, both: Both, method: str, path: str, fields: Fields, status: int
    ) -> None:
        answer = await both.ask(path, fields, method)
        assert (answer.status, answer.immediate) == (status, True)

    @pytest.mark.parametrize(
        "path",
        ["/concerts?pageSize=0", "/concerts/0/schedules", "/concerts/schedules/x/seats"],
    )
    async def test_invalid_fields(self, both: Both, method: str, path: str) -> None:
        answer = await both.ask(path, token(both, "shopping"), method)
        assert (answer.status, answer.immediate) == (422, True)


class TestOddHeaders:
    async def test_the_first_of_several_tokens_counts(self, both: Both) -> None:
        fields = [*token(both, "shopping"), (b"x-access-token", b"forged")]
        answer = await both.ask("/queues/order", fields)
        assert (answer.status, answer.immediate) == (200, True)
        answer = await both.ask("/queues/order", fields[::-1])
        assert answer.status == 401

    async def test_a_request_id_is_made_if_the_client_sends_none(self, both: Both) -> None:
        fields = [(b"x-request-id", b"not valid"), *token(both, "shopping")]
        ids = []
        for way, ordinary in ((both.fast, False), (both.ordinary, True)):
            answer = await way.ask(ordinary, scope_of("/queues/order", fields))
            *others, last = answer.fields
            assert last[0] == b"x-request-id"
            ids.append((len(last[1]), others))
        assert ids[0] == ids[1]
        assert ids[0][0] == 32

    @pytest.mark.parametrize(
        ("fields", "scope"),
        [
            ([HOST], {}),
            ([(b"transfer-encoding", b"gzip")], {}),
            ([(b"content-length", b"x")], {}),
            ([(b"content-length", b"5")], {}),
            ([], {"http_version": "2"}),
            ([(b"filler", b"x" * 16_384)], {}),
            ([(b"a", b"b")] * 100, {}),
        ],
    )
    async def test_malformed_heads_and_bodies_take_the_ordinary_way(
        self, both: Both, fields: Fields, scope: dict[str, Any]
    ) -> None:
        answer = await both.ask("/queues/order", [*token(both, "shopping"), *fields], **scope)
        assert not answer.immediate


class TestOrdinary:
    async def test_a_request_of_somebody_who_waits(self, both: Both) -> None:
        answer = await both.ask("/concerts", token(both, "waiting"))
        assert (answer.status, answer.immediate) == (403, False)

    async def test_what_is_not_cached(self, both: Both) -> None:
        answer = await both.ask("/concerts/2/schedules", token(both, "shopping"))
        assert (answer.status, answer.immediate) == (200, False)
        answer = await both.ask("/concerts/9/schedules", token(both, "shopping"))
        assert (answer.status, answer.immediate) == (404, False)

    async def test_other_methods_and_paths(self, both: Both) -> None:
        for method, path in (
            ("OPTIONS", "/concerts"),
            ("POST", "/queues/order"),
            ("GET", "/health/live"),
            ("GET", "/nowhere"),
        ):
            answer = await both.ask(path, token(both, "shopping"), method)
            assert not answer.immediate

    async def test_an_over_aged_token_is_replaced(self, both: Both) -> None:
        fields = token(both, "over-aged")
        for way, ordinary in ((both.fast, False), (both.ordinary, True)):
            answer = await way.ask(ordinary, scope_of("/queues/order", fields))
            assert not answer.immediate
            assert dict(answer.fields).get(b"x-access-token")

    async def test_a_process_that_drains_closes_the_connection(self, both: Both) -> None:
        both.fast.drain.begun = both.ordinary.drain.begun = True
        answer = await both.ask("/queues/order", token(both, "shopping"))
        assert (b"connection", b"close") in answer.fields


class TestLimits:
    @pytest.mark.parametrize("both", [{"requests_per_second": 2}], indirect=True)
    async def test_of_the_client(self, both: Both) -> None:
        statuses = [
            (await both.ask("/queues/order", token(both, "shopping"))).status for _ in range(4)
        ]
        assert statuses == [200, 200, 429, 429]

    @pytest.mark.parametrize("both", [{"requests_per_second_per_source": 2}], indirect=True)
    async def test_of_the_source_also_for_requests_that_are_not_answered_at_once(
        self, both: Both
    ) -> None:
        shopping, waiting = token(both, "shopping"), token(both, "waiting")
        assert (await both.ask("/concerts", waiting)).status == 403
        assert (await both.ask("/queues/order", shopping)).status == 200
        refused = await both.ask("/queues/order", shopping)
        assert (refused.status, refused.immediate) == (429, True)
        assert (await both.ask("/concerts", [])).status == 429


class TestCors:
    @pytest.mark.parametrize(
        "both",
        [{"cors_origins": ("https://shop.example",)}, {"cors_origins": ("*",)}],
        indirect=True,
    )
    @pytest.mark.parametrize("origin", [None, b"https://shop.example", b"https://other.example"])
    async def test_pages_of_origins(self, both: Both, origin: bytes | None) -> None:
        fields = [] if origin is None else [(b"origin", origin)]
        answer = await both.ask("/queues/order", [*fields, *token(both, "shopping")])
        assert (answer.status, answer.immediate) == (200, True)
        assert (b"vary", b"Origin") in answer.fields or origin is not None
        answer = await both.ask("/queues/order", fields)
        assert (answer.status, answer.immediate) == (401, True)


async def test_many_at_once_do_not_mix_their_requests(both: Both) -> None:
    tokens = [sign(place) for place in both.services.queue.waiting]

    async def poll(number: int) -> None:
        own = str(number).encode()
        fields = [(b"x-access-token", tokens[number % 2].encode())]
        answer = await both.fast.ask(
            False, scope_of("/queues/order", [(b"x-request-id", own), *fields])
        )
        assert answer.fields[-1] == (b"x-request-id", own)
        assert json.loads(answer.body)["order"] == 1 + number % 2

    await asyncio.gather(*map(poll, range(20)))


async def test_through_the_server(services: Services) -> None:
    services.queue.watch.supported = True
    services.queue.capacity = 1
    headers = {"X-Access-Token": sign(services.queue.enter(1)), "X-Request-Id": "mine"}
    async with (
        serving(services, room_view=True, room_fresh_seconds=1) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers=headers) as client,
    ):
        for _ in range(2):  # on one connection
            for method in ("GET", "HEAD"):
                response = await client.request(method, "/queues/order")
                assert response.status_code == 200
                assert response.headers["server"] == "frontrow"
                assert response.headers["x-request-id"] == "mine"
                assert int(response.headers["content-length"]) > 0
                assert bool(response.content) == (method == "GET")
        refused = await client.get("/queues/order", headers={"X-Access-Token": "forged"})
        assert refused.status_code == 401
