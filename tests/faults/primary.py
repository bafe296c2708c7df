"""Two Redis servers, and an address that leads to the primary, as a virtual IP address does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event

import redis.asyncio
from redis.asyncio import Redis

from harness.local.ports import HOST, Ports, free_ports
from harness.local.process import Process
from harness.local.servers import redis as redis_server
from tests.e2e.conftest import in_thread
from tests.e2e.shop import eventually


class Address:
    """Forwards each connection to a server. `move` breaks all, and forwards to another server."""

    def __init__(self, target: str) -> None:
        """`target`: host:port."""
        self.port = free_ports(1)[0]
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._connected, HOST, self.port) as server:
            yield
            server.close()
            self._break()

    def move(self, target: str) -> None:
        self._target = target
        self._break()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        with self._kept(writer):
            try:
                from_server, to_server = await asyncio.open_connection(host, int(port))
            except OSError:
                return  # breaks the connection
            with self._kept(to_server):
                copies = [_copy(reader, to_server), _copy(from_server, writer)]
                tasks = [asyncio.create_task(copy) for copy in copies]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()

    @contextlib.contextmanager
    def _kept(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()


class RedisPair:
    """A primary and a second Redis, which can take its place."""

    def __init__(self, first: Process, root: Path) -> None:
        self.first = first
        self.second = redis_server(root, Ports.free(), Event())
        self.address = Address(first.address)
        self.url = f"redis://{HOST}:{self.address.port}/0"

    async def copy(self) -> None:
        """Starts the second one with all data of the first one. From now on it copies nothing:
        a promotion finds it behind."""
        await in_thread(self.second.start)
        host, _, port = self.first.address.rpartition(":")
        async with client(self.first) as first, client(self.second) as second:
            await first.config_set("repl-diskless-sync-delay", 0)
            await second.replicaof(host, port)

            async def copied() -> None:
                link = await second.info("replication")
                assert (link["role"], link["master_link_status"]) == ("slave", "up")

            await eventually(copied)
            await second.replicaof("NO", "ONE")

    async def fail_over(self) -> None:
        """The first one dies."""
        await in_thread(self.first.kill)
        self.address.move(self.second.address)

    async def reset(self) -> None:
        """Makes the first one the primary again, without data."""
        if not self.first.running:
            await in_thread(self.first.start)
        async with client(self.first) as first:
            await first.flushall()
        self.address.move(self.first.address)
        await in_thread(self.second.stop)


def client(server: Process) -> Redis:
    return redis.asyncio.Redis.from_url(f"redis://{server.address}/0")
