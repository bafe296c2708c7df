"""A gateway on a real port, for tests of connections."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.app import create_app
from gateway.clients import Clients
from gateway.open_files import OpenFiles
from gateway.server import Drain, HttpServer, listen
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


@dataclass
class Serving:
    """A gateway that serves."""

    server: HttpServer
    running: asyncio.Task[None]
    port: int
    drain: Drain
    open_files: OpenFiles

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    services: Services, *, open_files: int = 20_000, **changes: Any
) -> AsyncIterator[Serving]:
    """Serves a gateway on a free port; `changes` are settings."""
    defaults = {"listen": "127.0.0.1:0", "drain_announce_seconds": 0, "drain_seconds": 5}
    settings = settings_for(services, **(defaults | changes))
    clients = Clients(settings)
    drain = Drain()
    files = OpenFiles(open_files)
    app = create_app(settings, clients, drain, files)
    listener = listen(settings)
    port = listener.getsockname()[1]
    server = HttpServer(app, listener, drain, files.connections, settings)
    running = asyncio.create_task(server.serve())
    try:
        yield Serving(server, running, port, drain, files)
    finally:
        server.handle_signal(signal.SIGINT)
        await running
        await clients.close()
