"""Rooms to test, fake and real, and a Redis that may be killed."""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from harness.local.process import find_binary
from queue_service.domain import Entry, Limits, Place, Refusal, Room, Rules
from queue_service.ports import QueueStore
from queue_service.repository import QueueRepository
from room_view.position import PlaceState, Standing
from servicekit import redis_client
from tests.fakes.queue import FakeQueueStore

# Nothing runs out, on however slow a machine; a test shortens what it is about.
RULES = Rules(
    grace_ms=60_000,
    claim_window_ms=60_000,
    admission_ttl_ms=60_000,
    absent_after_ms=60_000,
    heal_within_ms=3_600_000,
    bidding_ms=0,
)
_rooms = itertools.count(1)


def entries(user_ids: Iterable[int]) -> list[Entry]:
    """Users of whom nothing else is known."""
    return [Entry(user_id) for user_id in user_ids]


class RoomHandle:
    """One room of one store, with the shorthand that the tests are written in."""

    def __init__(
        self,
        store: QueueStore,
        room: str,
        sleep: Callable[[float], object],
        forget: Callable[[], object],
        new_replica: Callable[[], QueueStore],
    ) -> None:
        self.store = store
        self.room = room
        self._sleep = sleep
        self._forget = forget
        self._new_replica = new_replica

    async def enter(self, *user_ids: int) -> list[Place]:
        """Enters users who must all get a place."""
        places = []
        for answer in (await self.store.enter(self.room, entries(user_ids)))[1]:
            assert not isinstance(answer, Refusal)
            places.append(answer[0])
        return places

    async def try_enter(self, user_id: int, **known: Any) -> Standing | Refusal:
        """`known`: the other fields of the Entry."""
        answer = (await self.store.enter(self.room, [Entry(user_id, **known)]))[1][0]
        return answer if isinstance(answer, Refusal) else answer[1]

    async def standings(self, places: Sequence[Place]) -> list[Standing]:
        return (await self.store.positions(self.room, places))[1]

    async def orders(self, places: Sequence[Place]) -> list[int | None]:
        """0 = admitted, None = ended."""
        return [
            None if standing.state is PlaceState.ENDED else standing.order
            for standing in await self.standings(places)
        ]

    async def leave(self, place: Place) -> None:
        await self.store.leave(self.room, place.number, place.user_id, place.epoch)

    async def update(
        self,
        capacity: int | None = None,
        max_waiting: int | None = None,
        paused: bool | None = None,
    ) -> Room:
        return await self.store.update(
            self.room, capacity=capacity, max_waiting=max_waiting, paused=paused
        )

    async def tick(self) -> Room:
        return await self.store.tick(self.room)

    async def sleep(self, ms: float, keep: Sequence[Place] = ()) -> None:
        """Lets time pass; the owners of `keep` go on asking meanwhile."""
        for _ in range(4):
            done = self._sleep(ms / 4000)
            if done is not None:
                assert asyncio.iscoroutine(done)
                await done
            if keep:
                await self.standings(keep)

    async def forget(self) -> None:
        """The store loses everything it knew of this room."""
        done = self._forget()
        if done is not None:
            assert asyncio.iscoroutine(done)
            await done

    def at_new_replica(self) -> "RoomHandle":
        """The same room through a replica that has just started: it remembers nothing."""
        return RoomHandle(
            self._new_replica(), self.room, self._sleep, self._forget, self._new_replica
        )


MakeRoom = Callable[..., RoomHandle]


@pytest.fixture(params=["fake", "redis"])
async def make_room(request: pytest.FixtureRequest) -> AsyncIterator[MakeRoom]:
    """make_room(capacity=1, max_waiting=100, **changes of RULES) -> RoomHandle."""
    async with contextlib.AsyncExitStack() as stack:

        def make_fake(capacity: int = 1, max_waiting: int = 100, **changes: int) -> RoomHandle:
            store = FakeQueueStore(replace(RULES, **changes), Limits(capacity, max_waiting))
            return RoomHandle(store, "main", store.advance, store.forget, store.new_replica)

        def make_real(capacity: int = 1, max_waiting: int = 100, **changes: int) -> RoomHandle:
            client = redis_client.connect(
                request.getfixturevalue("redis_url"), timeout=10.0, retries=1
            )
            stack.push_async_callback(client.aclose)
            room = f"test-{next(_rooms)}"

            def new_store() -> QueueRepository:
                rules = replace(RULES, **changes)
                return QueueRepository(client, rules, Limits(capacity, max_waiting))

            async def forget() -> None:
                # This room alone: the server is shared with other tests.
                await client.delete(*[key async for key in client.scan_iter(f"{{queue:{room}}}:*")])

            return RoomHandle(new_store(), room, asyncio.sleep, forget, new_store)

        yield make_fake if request.param == "fake" else make_real


class OwnRedis:
    """A Redis with an append-only file, to be killed, maimed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ("127.0.0.1", self._port)
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                find_binary("redis-server"), "--port", str(self._port), "--bind", "127.0.0.1",
                "--dir", str(self._folder), "--save", "", "--appendonly", "yes",
                "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with redis.Redis.from_url(self.url) as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "Redis did not start"
                    time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def written(self) -> int:
        """Bytes of the append-only file once it holds all that was said so far: on a busy disk,
        Redis answers first and writes when the last fsync is over."""
        with redis.Redis.from_url(self.url) as client:
            deadline = time.monotonic() + 10
            while int(client.info("persistence")["aof_buffer_length"]) > 0:
                assert time.monotonic() < deadline, "Redis does not write"
                time.sleep(0.01)
        return self._log().stat().st_size

    def lose_after(self, size: int) -> None:
        """What was written after that many bytes never reached the disk."""
        os.truncate(self._log(), size)

    def spoil_snapshots(self) -> None:
        """From now on no snapshot can be saved: a folder is where the file would be."""
        (self._folder / "dump.rdb").mkdir()

    def _log(self) -> Path:
        return next((self._folder / "appendonlydir").glob("*.incr.aof"))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A running Redis of this test alone."""
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def second_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """Another one."""
    folder = tmp_path / "second"
    folder.mkdir()
    server = OwnRedis(folder)
    server.start()
    yield server
    server.kill()
