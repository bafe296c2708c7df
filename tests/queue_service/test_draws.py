"""Draws with the real scripts: two replicas, losses and kills at any step."""

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio import Redis

from protos.frontrow.concert.v1 import rooms_pb2
from queue_service import draws
from queue_service.definition import Definition
from queue_service.domain import Limits, Place, Refusal, Room
from queue_service.draws import RoomDraw
from queue_service.repository import QueueRepository
from room_view.draw import Draw, cohort_sha256, draw_key
from room_view.position import PlaceState, Standing
from servicekit import redis_client
from servicekit.errors import Unavailable
from tests.queue_service.conftest import RULES, entries
from tests.queue_service.follower import Follower
from tests.room_view import described_draw

SEED = bytes(range(32))
_rooms = count(1)
Before = Callable[[], Awaitable[None]]


class Killed(Exception):
    """A replica was killed: not transient, so that it does not go on."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for others waits shortly."""
    monkeypatch.setattr(draws, "_LEASE_MS", 200)
    monkeypatch.setattr(draws, "_SETTLE_MS", 0)
    monkeypatch.setattr(draws, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(draws, "_WATCH_SECONDS", 0.02)


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
            assert part == sorted(set(part))
            if is_last:
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

    async def gather(self, people: int, late: int = 0) -> None:
        """Lets people enter before gathering closes, and others after it, until the opening."""
        entrance = Replica(self)
        self.places = await self._enter(entrance, range(1, people + 1))
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
            await asyncio.sleep(0.01)


async def _until(moment: Timestamp) -> None:
    """Returns a little after this moment."""
    await asyncio.sleep(max(0, moment.ToMilliseconds() / 1000 - time.time()) + 0.01)


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns once this holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_client.connect(redis_url, timeout=10.0, retries=1) as client:
        yield client


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


async def line(world: World, at: Replica) -> list[int]:
    """Returns the numbers in the order in which they stand, all of them polled."""
    standings = await world.poll(at)
    assert all(s.state is PlaceState.WAITING and s.is_drawn for s in standings.values())
    assert sorted(s.order for s in standings.values()) == list(range(1, len(standings) + 1))
    return sorted(standings, key=lambda number: standings[number].order)


async def test_everybody_gets_the_rank_that_anybody_can_recompute(redis: Redis) -> None:
    world = World(redis, chunk=100)
    first, second = Replica(world), Replica(world)
    follower = Follower(first.store, world.room)
    async with working(first, second):
        await world.gather(700, late=10)
        await world.is_drawn(first)
        assert await line(world, second) == world.expected()
    # A copy that has followed all the time, and one that reads a line with ranks.
    for view in (await follower.start(), await Follower(second.store, world.room).start()):
        assert view.fields.cohort_size == 700
        view.use(await world.lists.draw(world.stored()))
        while view.advance():
            pass
        assert [view.order(number) for number in world.expected()] == list(range(1, 711))


async def test_nobody_has_an_order_before_the_draw_reaches_him(redis: Redis) -> None:
    world = World(redis)
    await world.gather(300, late=5)
    world.lists.cohort = array("q", [place.number for place in world.places])
    draw = await world.lists.draw(world.stored())
    half = Replica(world)
    half.store.use_draw(world.room, draw)
    world.definition.version, world.definition.capacity = 9, 100
    half.store.define(world.room, Definition.of(world.definition))
    assert (await half.store.tick(world.room)).admitted == 0
    state = await half.store.give_ranks(world.room, 0, draw.places(0, 50))
    assert (state.admitted, state.defined and state.defined.drawn) == (50, 50)
    standings = await world.poll(half)
    expected = world.expected()
    assert [standings[number].state for number in expected[:50]] == [PlaceState.ADMITTED] * 50
    assert {(standings[n].order, standings[n].is_drawn) for n in expected[50:300]} == {(255, False)}
    assert [standings[number].order for number in expected[300:]] == [251, 252, 253, 254, 255]
    # A step that comes late, one that comes twice, and one that is too early.
    for begin, end, drawn in ((20, 60, 60), (20, 60, 60), (70, 80, 60)):
        state = await half.store.give_ranks(world.room, begin, draw.places(begin, end))
        assert state.defined
        assert state.defined.drawn == drawn
    state = await half.store.give_ranks(world.room, 60, draw.places(60, 300))
    assert state.admitted == 100
    standings = await world.poll(half)
    assert [standings[number].order for number in expected[100:]] == list(range(1, 206))


async def test_waits_for_the_public_value(redis: Redis) -> None:
    world = World(redis)
    world.definition.public_value_source = "the lottery"
    replica = Replica(world)
    async with working(replica):
        await world.gather(50)
        await asyncio.sleep(0.3)
        assert world.lists.cohort is not None
        state = await replica.store.tick(world.room)
        assert state.defined
        assert state.defined.drawn == 0
        world.definition.draw.public_value = "3 14 15"
        world.definition.version += 1
        replica.work.define(world.stored())
        await world.is_drawn(replica)
        assert await line(world, replica) == world.expected()


async def test_a_room_in_which_nobody_gathered_opens(redis: Redis) -> None:
    world = World(redis)
    world.definition.capacity = 2
    replica = Replica(world)
    async with working(replica):
        await world.gather(0, late=3)
        await world.is_drawn(replica)
        standings = await world.poll(replica)
    assert [standings[place.number].order for place in world.late] == [0, 0, 1]


async def test_a_place_that_was_lost_and_not_drawn_stands_behind_the_cohort(redis: Redis) -> None:
    world = World(redis)
    replica = Replica(world)
    await world.gather(30, late=3)
    lost = world.places[7]
    await redis.zrem(f"{{queue:{world.room}}}:waiting", lost.number)
    async with working(replica):
        await eventually(lambda: world.lists.cohort is not None)
    await world.lose_everything()
    fresh = Replica(world)
    async with working(fresh):
        await asyncio.sleep(0.1)
        found = await line(world, fresh)
    cohort = [place.number for place in world.places if place is not lost]
    expected = described_draw.order(SEED, "", cohort)
    assert found == [*expected, lost.number, *(place.number for place in world.late)]


@pytest.mark.parametrize("loses", [False, True])
async def test_a_replica_may_be_killed_at_any_step(redis: Redis, *, loses: bool) -> None:
    async def history(step: int) -> None:
        world = World(redis, chunk=40, grace_ms=1_000)
        left = step

        async def before() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                if loses:
                    await world.lose_everything()
                raise Killed

        await world.gather(90)
        killed, other = Replica(world, before), Replica(world)
        async with working(killed):
            # Alone first, so that it comes to its last step.
            await eventually(lambda: left <= 0)
        async with working(other):
            if loses:
                await world.poll(other)
            await world.is_drawn(other)
            assert await line(world, other) == world.expected(), step

    async with asyncio.timeout(60):
        await asyncio.gather(*(history(step) for step in range(1, 12)))
