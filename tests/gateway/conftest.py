"""The gateway in this process, in front of fake services that a real gRPC server serves."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.clients import Clients
from gateway.drain import Drain
from gateway.settings import GatewaySettings
from tests.gateway.declared import Declared
from tests.gateway.fakes import KEYS, Services

OpenGateway = Callable[..., Awaitable[httpx.AsyncClient]]


def settings_for(services: Services, **changes: Any) -> GatewaySettings:
    """Settings for a gateway before these services: no limit of requests, nothing cached."""
    defaults: dict[str, Any] = {
        "queue_addr": services.address,
        "concert_addr": services.address,
        "reservation_addr": services.address,
        "payment_addr": services.address,
        "token_keys": KEYS,
        "requests_per_second": 0,
        "admission_ttl_seconds": 0,
        "seats_ttl_seconds": 0,
        "schedules_ttl_seconds": 0,
        "facts_ttl_seconds": 0,
    }
    return GatewaySettings(**(defaults | changes))


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """The four services, fresh."""
    services = Services()
    await services.start()
    yield services
    await services.stop()


@pytest.fixture(scope="session")
async def declared() -> Declared:
    """What the gateway says of itself; filled with what it was seen to answer."""
    settings = settings_for(Services(address="127.0.0.1:1"))
    clients = Clients(settings)
    app = create_app(settings, clients, Drain())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway"
    ) as client:
        spec = (await client.get("/openapi.json")).json()
    await clients.close()
    return Declared(spec)


@pytest.fixture
async def open_gateway(services: Services, declared: Declared) -> AsyncIterator[OpenGateway]:
    """Opens a gateway with settings of one's own; a `drain` may be handed in."""
    async with AsyncExitStack() as stack:

        async def check(response: httpx.Response) -> None:
            await response.aread()
            declared.check(response)

        async def open_one(drain: Drain | None = None, **changes: Any) -> httpx.AsyncClient:
            settings = settings_for(services, **changes)
            clients = Clients(settings)
            stack.push_async_callback(clients.close)
            app = create_app(settings, clients, drain or Drain())
            return await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app),
                    base_url="http://gateway",
                    event_hooks={"response": [check]},
                )
            )

        yield open_one


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address where nobody answers: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
async def client(open_gateway: OpenGateway) -> httpx.AsyncClient:
    """A client of a gateway whose every answer is held against the OpenAPI page."""
    return await open_gateway()
