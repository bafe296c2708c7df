"""A room whose line is a draw, with the real scripts, and replicas that run the draw."""

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import lt

from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio import Redis

from protos.frontrow.concert.v1 import rooms_pb2
from queue_service.definition import Definition
from queue_service.domain import Limits, Place, Refusal, Room
from queue_service.draws import RoomDraw
from queue_service.repository import QueueRepository
from room_view.draw import Draw, cohort_sha256, draw_key
from room_view.position import Standing
from servicekit.errors import Unavailable
from tests.queue_service.conftest import RULES, entries
from tests.room_view import described_draw

SEED = bytes(range(32))
_rooms = count(1)
Before = Callable[[], Awaitable[None]]


class Killed(Exception):
    """A replica was killed: not transient, so that it does not go on."""


@dataclass
class Lists:
    """What concert_service keeps of a draw. Cohorts are complete for ever."""

    parts: dict[str, list[int]] = field(default_factory=dict)
    cohort: "array[int] | None" = None

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        assert self.cohort is not None
        assert room.draw.cohort.sha256.hex() == described_draw.list_hash(list(self.cohort))
        return Draw(self.cohort, draw_key(room.draw.seed, room.draw.public_value))

    async def put(
        self, room: str, attempt: str, offset: int, numbers: Sequence[int], *, is_last: bool
    ) -> rooms_pb2.Cohort | None:
        if self.cohort is None:
            part = self.parts.setdefault(attempt, [])
            assert offset <= len(part)
            part[offset:] = numbers
            if is_last:
                assert all(map(lt, part, part[1:]))
                self.cohort = array("q", part)
        if self.cohort is None:
            return None
        return rooms_pb2.Cohort(size=len(self.cohort), sha256=cohort_sha256(self.cohort))


class Replica:
    """The draw at one replica of queue_service. `before` runs before each of its steps."""

    def __init__(self, world: "World", before: Before | None = None) -> None:
        self.world = world
        self.store = QueueRepository(world.redis, world.rules, Limits(0, 10_000), chunk=world.chunk)
        self.store.define(world.room, Definition.of(world.definition))
        self.work = RoomDraw(self, self, world.room)
        self.work.define(world.stored())
        world.replicas.append(self)
        self.before = before

    def use_draw(self, room: str, draw: Draw | None) -> None:
        self.store.use_draw(room, draw)

    async def tick(self, room: str) -> Room:
        await self._step()
        return await self.store.tick(room)

    async def lease(self, room: str, holder: str, lease_ms: int) -> bool:
        await self._step()
        return await self.store.lease(room, holder, lease_ms)

    async def gathered(self, room: str, above: int, last: int) -> Sequence[int]:
        await self._step()
        return await self.store.gathered(room, above, last)

    async def give_ranks(self, room: str, first: int, numbers: Sequence[int]) -> Room:
        await self._step()
        return await self.store.give_ranks(room, first, numbers)

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        await self._step()
        return await self.world.lists.draw(room)

    async def put(
        self, room: str, attempt: str, offset: int, numbers: Sequence[int], *, is_last: bool
    ) -> rooms_pb2.Cohort | None:
        await self._step()
        cohort = await self.world.lists.put(room, attempt, offset, numbers, is_last=is_last)
        if cohort is not None:
            # The catalogue tells everybody.
            for replica in self.world.replicas:
                replica.work.define(self.world.stored())
        return cohort

    async def _step(self) -> None:
        if self.before is not None:
            await self.before()


class World:
    """A room whose line is a draw, those who want to get in, and two replicas."""

    def __init__(self, redis: Redis, chunk: int = 8_192, grace_ms: int = 60_000) -> None:
        self.redis = redis
        self.room = f"draw-{next(_rooms)}"
        self.chunk = chunk
        self.rules = replace(RULES, grace_ms=grace_ms)
        self.lists = Lists()
        self.replicas: list[Replica] = []
        self.places: list[Place] = []
        self.late: list[Place] = []
        self.definition = rooms_pb2.Room(
            name=self.room,
            capacity=0,
            max_waiting=10_000,
            order=rooms_pb2.LINE_ORDER_DRAW,
            draw=rooms_pb2.Draw(seed=SEED),
        )
        self.opens_in(600)

    def opens_in(self, seconds: float) -> None:
        """Gathering closes half of that time before."""
        now = round(time.time() * 1000)
        self.definition.version += 1
        self.definition.gather_from.FromMilliseconds(now - 1_000)
        self.definition.gather_until.FromMilliseconds(now + round(seconds * 500))
        self.definition.opens_at.FromMilliseconds(now + round(seconds * 1_000))
        for replica in self.replicas:
            replica.store.define(self.room, Definition.of(self.definition))
            replica.work.define(self.stored())

    async def fill(self, people: int) -> Replica:
        """Lets people enter before gathering closes; returns their replica."""
        entrance = Replica(self)
        self.places = await self._enter(entrance, range(1, people + 1))
        return entrance

    async def gather(self, people: int, late: int = 0) -> None:
        """Lets people enter before gathering closes, and others after it, until the opening."""
        entrance = await self.fill(people)
        self.opens_in(0.3)
        await asyncio.sleep(
            max(0, self.definition.gather_until.ToMilliseconds() / 1000 - time.time())
        )
        await asyncio.sleep(0.01)
        self.late = await self._enter(entrance, range(people + 1, people + late + 1))
        await _until(self.definition.opens_at)

    async def _enter(self, at: Replica, users: Sequence[int]) -> list[Place]:
        places = []
        for n in range(0, len(users), 256):
            for answer in (await at.store.enter(self.room, entries(users[n : n + 256])))[1]:
                assert not isinstance(answer, Refusal)
                places.append(answer[0])
        return places

    async def poll(self, at: Replica) -> dict[int, Standing]:
        """Everybody polls at this replica, again if it cannot tell yet."""
        standings: dict[int, Standing] = {}
        places = [*self.places, *self.late]
        for n in range(0, len(places), 256):
            part = places[n : n + 256]
            while True:
                try:
                    _, found = await at.store.positions(self.room, part)
                    break
                except Unavailable:  # the draw is not known here yet
                    await asyncio.sleep(0.01)
            standings |= zip((place.number for place in part), found, strict=True)
        return standings

    async def lose_everything(self) -> None:
        """FLUSHALL, for this room alone."""
        keys = [key async for key in self.redis.scan_iter(f"{{queue:{self.room}}}:*")]
        if keys:
            await self.redis.delete(*keys)

    def stored(self) -> rooms_pb2.Room:
        """The definition as concert_service has it once the cohort is complete."""
        stored = rooms_pb2.Room()
        stored.CopyFrom(self.definition)
        if self.lists.cohort is not None:
            digest = cohort_sha256(self.lists.cohort)
            stored.draw.cohort.CopyFrom(
                rooms_pb2.Cohort(size=len(self.lists.cohort), sha256=digest)
            )
        return stored

    def expected(self) -> list[int]:
        """The line as anybody can recompute it."""
        numbers = [place.number for place in self.places]
        order = described_draw.order(SEED, self.definition.draw.public_value, numbers)
        return [*order, *(place.number for place in self.late)]

    async def is_drawn(self, at: Replica) -> None:
        """Waits until all ranks are given."""
        while True:
            state = await at.store.tick(self.room)
            assert state.defined is not None
            if state.defined.drawn >= max(1, len(self.places)):
                return
            await asyncio.sleep(0.05)  # more often would be all that a busy machine does


async def _until(moment: Timestamp) -> None:
    """Returns a little after this moment."""
    await asyncio.sleep(max(0, moment.ToMilliseconds() / 1000 - time.time()) + 0.01)


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns once this holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def working(*replicas: Replica) -> AsyncIterator[None]:
    """Runs the draw at these replicas while the block runs. One that is killed is gone."""
    tasks = [asyncio.create_task(replica.work.run()) for replica in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, Killed):
                raise result
