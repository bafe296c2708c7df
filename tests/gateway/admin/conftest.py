"""The admin API in this process, with its services behind a real gRPC server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from concert_service.operators.domain import Role
from gateway.admin.app import AdminApplication, create_admin_app
from gateway.admin.clients import AdminClients
from gateway.server import Drain
from gateway.settings import Settings
from tests.gateway.admin.fakes import ADMIN_TOKEN, AdminServices
from tests.gateway.fakes import KEYS

OpenClient = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def services() -> AsyncIterator[AdminServices]:
    services = AdminServices()
    await services.start()
    yield services
    await services.stop()


@pytest.fixture
def admin_settings(services: AdminServices) -> Settings:
    return Settings(
        token_keys=KEYS,
        concert_addr=services.address,
        queue_addr=services.address,
        reservation_addr=services.address,
        queue_admin_token=ADMIN_TOKEN,
    )


@pytest.fixture
async def app(admin_settings: Settings) -> AsyncIterator[AdminApplication]:
    clients = AdminClients(admin_settings)
    yield create_admin_app(admin_settings, clients, Drain())
    await clients.close()


@pytest.fixture
async def open_client(services: AdminServices, app: AdminApplication) -> AsyncIterator[OpenClient]:
    """Opens a client with a new key of a role, or with the header of `authorization`, that connects
    from an address."""
    async with AsyncExitStack() as stack:

        async def open_one(
            role: Role | None = None, *, authorization: str = "", address: str = "127.0.0.1"
        ) -> httpx.AsyncClient:
            if role is not None:
                authorization = f"Bearer {await services.key(role)}"
            return await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app, client=(address, 1)),
                    base_url="http://admin",
                    headers={"Authorization": authorization} if authorization else {},
                )
            )

        yield open_one


@pytest.fixture
async def admin(open_client: OpenClient) -> httpx.AsyncClient:
    """A client with a key that may do everything."""
    return await open_client(Role.ADMIN)
