"""A gateway on a real port, for tests of connections."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.app import create_app
from gateway.clients import Clients
from gateway.open_files import OpenFiles
from gateway.server import Drain, HttpServer, listen
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import KEYS, Services


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def restartable_address() -> str:
    """Returns a free address that no client gets as its own: one that connects to a closed port
    with that number would be connected to itself, and the server could not start again."""
    while True:
        address = f"127.0.0.1:{random.randrange(10_000, 19_999)}"
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", int(address.rpartition(":")[2])))
            return address


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


@asynccontextmanager
async def program(
    addresses: dict[str, str], **settings: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `python -m gateway` until it answers at `listen`; `addresses` are those of the services,
    by name. Its output, and that of its workers, is in `stdout`."""
    defaults = {
        "token_keys": json.dumps(KEYS),
        "requests_per_second": 0,
        "admin_listen": "",
        **{f"{name}_addr": address for name, address in addresses.items()},
    }
    environment = os.environ | {
        f"GATEWAY_{name.upper()}": str(value) for name, value in (defaults | settings).items()
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await _until_alive(f"http://{settings['listen']}")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def addresses_of(services: Services) -> dict[str, str]:
    """Returns the addresses of the fakes, by name."""
    return dict.fromkeys(("queue", "concert", "reservation", "payment"), services.address)


async def _until_alive(url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient(base_url=url, timeout=1) as client:
                    if (await client.get("/health/live")).status_code == 200:
                        return
            await asyncio.sleep(0.02)
