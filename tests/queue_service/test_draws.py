"""Draws with the real scripts: two replicas, losses and kills at any step."""

import asyncio
from array import array
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from queue_service import draws
from queue_service.definition import Definition
from room_view.position import PlaceState
from servicekit import redis_client
from tests.queue_service.conftest import entries
from tests.queue_service.draws import SEED, Killed, Replica, World, eventually, working
from tests.queue_service.follower import Follower
from tests.room_view import described_draw


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for others waits shortly."""
    monkeypatch.setattr(draws, "_LEASE_MS", 200)
    monkeypatch.setattr(draws, "_SETTLE_MS", 0)
    monkeypatch.setattr(draws, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(draws, "_WATCH_SECONDS", 0.02)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_client.connect(redis_url, timeout=10.0, retries=1) as client:
        yield client


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
    await half.store.give_ranks(world.room, 0, draw.places(0, 50))
    state = await half.store.tick(world.room)
    assert (state.admitted, state.defined and state.defined.drawn) == (50, 50)
    standings = await world.poll(half)
    expected = world.expected()
    assert [standings[number].state for number in expected[:50]] == [PlaceState.ADMITTED] * 50
    assert {(standings[n].order, standings[n].is_drawn) for n in expected[50:300]} == {(250, False)}
    assert [standings[number].order for number in expected[300:]] == [251, 252, 253, 254, 255]
    # Nobody's order grows because somebody enters now.
    await half.store.enter(world.room, entries([1_001]))
    again = await world.poll(half)
    assert {again[number] for number in expected[50:300]} == {standings[expected[50]]}
    # A step that comes late, one that comes twice, and one that is too early.
    for begin, end, drawn in ((20, 60, 60), (20, 60, 60), (70, 80, 60)):
        state = await half.store.give_ranks(world.room, begin, draw.places(begin, end))
        assert state.defined
        assert state.defined.drawn == drawn
    await half.store.give_ranks(world.room, 60, draw.places(60, 300))
    assert (await half.store.tick(world.room)).admitted == 100
    standings = await world.poll(half)
    assert [standings[number].order for number in expected[100:]] == list(range(1, 206))


async def test_a_room_that_is_defined_anew_is_not_drawn_yet(redis: Redis) -> None:
    world = World(redis)
    await world.gather(5)
    world.lists.cohort = array("q", [place.number for place in world.places])
    draw = await world.lists.draw(world.stored())
    replica = Replica(world)
    replica.store.use_draw(world.room, draw)
    await replica.store.tick(world.room)
    defined = (await replica.store.give_ranks(world.room, 0, draw.places(0, 5))).defined
    assert defined
    assert (defined.drawn, defined.cohort_size) == (5, 5)
    world.opens_in(600)
    defined = (await replica.store.tick(world.room)).defined
    assert defined
    assert (defined.cohort_last, defined.drawn, defined.cohort_size) == (0, 0, 0)


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
        if loses and world.lists.cohort is None:
            # Before the list is made anew, as the grace after a loss lets them do.
            await world.poll(other)
        async with working(other):
            await world.poll(other)
            await world.is_drawn(other)
            assert await line(world, other) == world.expected(), step

    for first in (1, 7):  # some at once: each waits most of its time
        async with asyncio.timeout(60):
            await asyncio.gather(*(history(step) for step in range(first, first + 6)))
