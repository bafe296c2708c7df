"""A gateway in this process, with fake services behind a real gRPC server."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.clients import Clients
from gateway.open_files import OpenFiles
from gateway.server import Drain
from gateway.settings import Settings
from tests.gateway.declared import Declared
from tests.gateway.fakes import KEYS, Services
from tests.gateway.polling import until
from tests.gateway.watching import OpenWatching, Watching

OpenGateway = Callable[..., Awaitable[httpx.AsyncClient]]


def settings_for(services: Services, **changes: Any) -> Settings:
    """Returns settings for a gateway of these services: no rate limit, no caching, no
    enforced pace, no copy of the room."""
    defaults: dict[str, Any] = {
        "queue_addr": services.address,
        "concert_addr": services.address,
        "reservation_addr": services.address,
        "payment_addr": services.address,
        "token_keys": KEYS,
        "requests_per_second": 0,
        "enforce_pace": False,
        "room_view": False,
        "admission_ttl_seconds": 0,
        "seats_ttl_seconds": 0,
        "schedules_ttl_seconds": 0,
        "facts_ttl_seconds": 0,
        "readiness_ttl_seconds": 0,
    }
    return Settings(**(defaults | changes))


@pytest.fixture(scope="session")
async def _serving() -> AsyncIterator[Services]:
    services = Services()
    await services.start()
    yield services
    await services.stop()


@pytest.fixture
async def services(_serving: Services) -> Services:
    """The four services, in their initial state."""
    await _serving.reset()
    return _serving


@asynccontextmanager
async def gateway(
    settings: Settings, drain: Drain, *, follows: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new gateway. `follows`: it has the catalogue from the start. Otherwise its
    caches may be dropped once, when the first message comes."""
    clients = Clients(settings)
    if follows:
        await until(lambda: clients.rooms.are_known)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(settings, clients, drain, OpenFiles(20_000))),
        base_url="http://gateway",
    ) as client:
        yield client
    await clients.close()


@pytest.fixture(scope="session")
async def _gateway(_serving: Services) -> AsyncIterator[httpx.AsyncClient]:
    # Shared by all tests with default settings: it caches nothing, and creating one takes longer
    # than most tests.
    async with gateway(settings_for(_serving), Drain()) as client:
        yield client


@pytest.fixture(scope="session")
async def declared(_gateway: httpx.AsyncClient) -> Declared:
    """The OpenAPI document of the gateway."""
    declared = Declared((await _gateway.get("/openapi.json")).json())
    _gateway.event_hooks["response"] = [declared.check]
    return declared


@pytest.fixture
async def client(
    services: Services, declared: Declared, _gateway: httpx.AsyncClient
) -> httpx.AsyncClient:
    """A client that checks every response against the OpenAPI document."""
    return _gateway


@pytest.fixture
async def open_gateway(services: Services, declared: Declared) -> AsyncIterator[OpenGateway]:
    """Opens a gateway with changed settings; `drain` replaces its own."""
    async with AsyncExitStack() as stack:

        async def open_one(drain: Drain | None = None, **changes: Any) -> httpx.AsyncClient:
            client = await stack.enter_async_context(
                gateway(
                    settings_for(services, **changes),
                    drain or Drain(),
                    follows="concert_addr" not in changes,
                )
            )
            client.event_hooks["response"] = [declared.check]
            return client

        yield open_one


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address without a server: bound, so that no other process uses it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
async def open_watching(services: Services, declared: Declared) -> AsyncIterator[OpenWatching]:
    """Opens gateways that watch the room; `changes` are settings."""
    opened: list[Watching] = []

    async def open_one(**changes: object) -> Watching:
        settings = settings_for(services, room_view=True, **changes)
        clients = Clients(settings)
        app = create_app(settings, clients, Drain(), OpenFiles(20_000))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        http.event_hooks["response"] = [declared.check]
        gateway = Watching(clients, http, services)
        opened.append(gateway)
        if services.queue.watch.supported:
            await gateway.caught_up()
        return gateway

    yield open_one
    for gateway in opened:
        await gateway.http.aclose()
        await gateway.clients.close()


@pytest.fixture
def room(services: Services) -> Services:
    """A room that may be watched: two shop, and places 3, 4 and 5 wait."""
    services.queue.watch.supported = True
    services.queue.capacity = 2
    for user in range(1, 6):
        services.queue.enter(user)
    return services
