"""The documentation pages: from memory, with an ETag, and only if they are wanted."""

import asyncio
import re
from importlib import resources

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from gateway import pages
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem

FILES = [
    f"/static-offline-docs/{name}"
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
]
PAGES = ["/docs", "/openapi.json", *FILES]


@pytest.mark.parametrize("path", PAGES)
class TestAPage:
    async def test_has_its_content_type_and_length(
        self, client: httpx.AsyncClient, path: str
    ) -> None:
        response = await client.get(path)
        assert response.status_code == 200
        assert int(response.headers["Content-Length"]) == len(response.content)
        kinds = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
        kinds |= {"json": "application/json"}
        kind = kinds.get(path.rpartition(".")[2], "text/html; charset=utf-8")
        assert response.headers["Content-Type"] == kind

    async def test_may_be_cached_and_is_not_sent_twice(
        self, client: httpx.AsyncClient, path: str
    ) -> None:
        first = await client.get(path)
        assert first.headers["Cache-Control"] == "public, max-age=300"
        etag = first.headers["ETag"]
        assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            again = await client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b""), known
            assert again.headers["ETag"] == etag
            assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
        other = await client.get(path, headers={"If-None-Match": '"0", W/"1"'})
        assert (other.status_code, other.content) == (200, first.content)

    async def test_is_read_once(
        self, client: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = await client.get(path)

        def fail(*_: object) -> None:
            raise AssertionError("the page was made again")

        monkeypatch.setattr("gateway.pages.openapi_document", fail)
        monkeypatch.setattr("pathlib.Path.read_bytes", fail)
        assert (await client.get(path)).content == first.content

    async def test_can_be_switched_off(self, open_gateway: OpenGateway, path: str) -> None:
        client = await open_gateway(documentation=False)
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            assert (await client.request(method, path)).status_code == 404
        assert_problem(await client.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_complete(client: httpx.AsyncClient, path: str) -> None:
    content = (resources.files("fastapi_offline") / "static" / path.rpartition("/")[2]).read_bytes()
    assert (await client.get(path)).content == content


async def test_responses_of_the_api_are_not_stored(
    client: httpx.AsyncClient, services: Services
) -> None:
    services.reservations.hold(42, 101)
    mine = {"X-Access-Token": services.token(42)}
    for method, path, body in [
        ("POST", "/queues/enqueue", {"userId": 42}),
        ("GET", "/queues/order", None),
        ("GET", "/concerts", None),
        ("GET", "/concerts/1/schedules", None),
        ("GET", "/concerts/schedules/11/seats", None),
        ("POST", "/concerts/reservation", {"userId": 42, "concertSeatId": 102}),
        ("GET", "/concerts/reservations/1", None),
        ("POST", "/concerts/reservations/1/pay", {"userId": 42}),
        ("DELETE", "/concerts/reservations/2", None),
        ("DELETE", "/queues/order", None),
        ("GET", "/concerts", None),  # 401 now
        ("GET", "/nowhere", None),
        ("PUT", "/concerts", None),
        ("OPTIONS", "/concerts", None),
        ("GET", "/health/live", None),
        ("GET", "/health/ready", None),
    ]:
        response = await client.request(method, path, json=body, headers=mine)
        stored = response.headers.get_list("Cache-Control")
        assert stored == ["no-store"], (method, path, response.status_code)


async def test_a_slow_client_keeps_others_waiting_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "_TURN_SECONDS", 0.05)
    handle = pages.documentation_pages([])["/docs"]
    sending: list[Message] = []
    read = asyncio.Event()

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sending.append(message)
        await read.wait()

    async def request() -> None:
        scope = {"type": "http", "method": "GET", "path": "/docs", "headers": []}
        response = await handle(Request(scope))
        await response(scope, receive, send)

    clients = [asyncio.create_task(request()) for _ in range(2 * pages._AT_ONCE)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(sending) == pages._AT_ONCE
    await until(lambda: len(sending) == len(clients))
    read.set()
    await asyncio.gather(*clients)
    # Each turn was given back once: no more than before have one.
    read.clear()
    sending.clear()
    monkeypatch.setattr(pages, "_TURN_SECONDS", 60)
    clients = [asyncio.create_task(request()) for _ in range(2 * pages._AT_ONCE)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(sending) == pages._AT_ONCE
    read.set()
    await asyncio.gather(*clients)
