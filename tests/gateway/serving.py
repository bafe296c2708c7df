"""A gateway on a real port, for tests of connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.app import create_app
from gateway.clients import Clients
from gateway.server import Drain, DrainingServer, server_config
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import Services


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def until(condition: Callable[[], bool]) -> None:
    """Polls until `condition` holds, for at most 30 s."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    services: Services, announce_seconds: float
) -> AsyncIterator[tuple[DrainingServer, asyncio.Task[None], str]]:
    """Serves a gateway on a free port; yields the server, its task and its URL."""
    settings = settings_for(services, listen=free_address(), drain_seconds=5)
    clients = Clients(settings)
    drain = Drain()
    app = create_app(settings, clients, drain)
    server = DrainingServer(server_config(settings, app), drain, announce_seconds)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        yield server, running, f"http://{settings.listen}"
    finally:
        server.should_exit = True
        await running
        await clients.close()
