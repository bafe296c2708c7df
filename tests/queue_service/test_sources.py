"""New places are counted per source, and solutions are spent, over the fake and over Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from queue_service.domain import Entry, Limits, Refusal
from queue_service.repository import QueueRepository
from room_view.position import Standing
from servicekit import redis_client
from tests.queue_service.conftest import RULES, MakeRoom, RoomHandle

LIMITED, UNSOLVED = Refusal.TOO_MANY_REQUESTS, Refusal.CHALLENGE_REQUIRED
HOUR_MS = 3_600_000


async def got(room: RoomHandle, users: range, source: str) -> int:
    """How many of these users got a place."""
    answers = [await room.try_enter(user, source=source) for user in users]
    assert set(answers) - {LIMITED} == {a for a in answers if isinstance(a, Standing)}
    return sum(isinstance(answer, Standing) for answer in answers)


async def test_a_source_gets_its_allowance_of_invented_users(make_room: MakeRoom) -> None:
    room = make_room(max_waiting=10_000, entries_per_source=10, source_window_ms=HOUR_MS)
    assert await got(room, range(1, 1_001), "192.0.2.1") == 10
    # Neither other sources nor callers that name no source pay for it.
    assert await got(room, range(2_001, 2_011), "192.0.2.2") == 10
    assert await got(room, range(3_001, 3_021), "") == 20


async def test_replicas_count_together(make_room: MakeRoom) -> None:
    room = make_room(entries_per_source=10, source_window_ms=HOUR_MS)
    replicas = [room, room.at_new_replica(), room.at_new_replica()]
    granted = [await got(replicas[user % 3], range(user, user + 1), "a") for user in range(1, 40)]
    assert sum(granted) == 10


async def test_without_a_limit_nothing_is_counted(make_room: MakeRoom) -> None:
    assert await got(make_room(), range(1, 51), "192.0.2.1") == 50


async def test_getting_ones_place_back_is_free(make_room: MakeRoom) -> None:
    """Also with the allowance used up: people behind one address reload their pages."""
    room = make_room(entries_per_source=3, source_window_ms=HOUR_MS)
    assert await got(room, range(1, 10), "office") == 3
    for user in (1, 2, 3) * 5:
        assert isinstance(await room.try_enter(user, source="office"), Standing)


async def test_a_refused_entry_is_free(make_room: MakeRoom) -> None:
    room = make_room(entries_per_source=3, source_window_ms=HOUR_MS)
    await room.update(paused=True)
    for user in range(1, 10):
        assert await room.try_enter(user, source="a") is Refusal.QUEUE_PAUSED
    await room.update(paused=False)
    assert await got(room, range(1, 10), "a") == 3


async def test_leaving_restores_nothing(make_room: MakeRoom) -> None:
    room = make_room(entries_per_source=1, source_window_ms=HOUR_MS)
    (place,) = await room.enter(1)
    assert await got(room, range(2, 3), "a") == 1
    await room.leave(place)
    assert await got(room, range(1, 2), "a") == 0


async def test_time_restores_the_allowance_evenly(make_room: MakeRoom) -> None:
    room = make_room(entries_per_source=4, source_window_ms=1_200)
    assert await got(room, range(1, 5), "a") == 4
    await room.sleep(700)
    assert 2 <= await got(room, range(11, 31), "a") < 10  # 700 ms restore two, and time goes on
    await room.sleep(1_300)
    assert await got(room, range(41, 45), "a") == 4


async def test_a_solution_is_good_for_one_new_place(make_room: MakeRoom) -> None:
    room = make_room()
    expires = (await room.tick()).now + HOUR_MS
    solved = {"solution": "s1", "solution_expires_ms": expires}
    assert isinstance(await room.try_enter(1, **solved), Standing)
    assert await room.try_enter(2, **solved) is UNSOLVED
    # A repeat after a lost reply gets the same place.
    assert isinstance(await room.try_enter(1, **solved), Standing)
    replica = room.at_new_replica()
    assert await replica.try_enter(3, **solved) is UNSOLVED
    # Once the place has ended, the solution is worth nothing more.
    (place,) = await room.enter(1)
    await room.leave(place)
    assert await room.try_enter(1, **solved) is UNSOLVED


async def test_only_a_granted_place_spends_the_solution(make_room: MakeRoom) -> None:
    room = make_room(entries_per_source=1, source_window_ms=HOUR_MS)
    expires = (await room.tick()).now + HOUR_MS
    solved = {"solution": "s1", "solution_expires_ms": expires}
    assert await got(room, range(1, 2), "a") == 1
    assert await room.try_enter(2, source="a", **solved) is LIMITED
    assert isinstance(await room.try_enter(2, source="b", **solved), Standing)


async def test_without_a_solution_only_a_live_place_is_given(make_room: MakeRoom) -> None:
    room = make_room()
    assert await room.try_enter(1, only_live_place=True) is UNSOLVED
    await room.enter(1)
    assert isinstance(await room.try_enter(1, only_live_place=True), Standing)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_client.connect(redis_url, timeout=10.0, retries=1) as client:
        yield client


async def test_what_decides_nothing_any_more_is_deleted(redis: Redis) -> None:
    limits = Limits(capacity=1, max_waiting=1_000)
    rules = replace(RULES, entries_per_source=5, source_window_ms=50)
    store = QueueRepository(redis, rules, limits)
    state = await store.tick("sources")
    await store.enter(
        "sources",
        [Entry(user, f"source {user}", f"s{user}", state.now) for user in range(1, 101)],
    )
    assert await redis.zcard("{queue:sources}:sources") == 100
    assert await redis.zcard("{queue:sources}:solutions") == 100
    while (await store.tick("sources")).now < state.now + 200:  # twice: the first may be too early
        pass
    await store.tick("sources")
    assert await redis.exists("{queue:sources}:sources", "{queue:sources}:solutions") == 0


async def test_notes_of_restored_places_that_ended_are_deleted(redis: Redis) -> None:
    """The version before, which may run beside this one, ends a place and leaves its note."""
    store = QueueRepository(redis, RULES, Limits(capacity=1, max_waiting=100))
    await store.enter("restored", [Entry(11)])
    live = await redis.zrange("{queue:restored}:admitted", 0, -1)
    await redis.zunionstore("{queue:restored}:restored", ["{queue:restored}:admitted"])
    await redis.zadd("{queue:restored}:restored", {str(number): 1 for number in range(50)})
    for _ in range(100):
        await store.tick("restored")
    assert await redis.zrange("{queue:restored}:restored", 0, -1) == live
    assert len(live) == 1


async def test_a_flood_of_sources_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue_service.repository._MAX_SOURCES", 50)
    rules = replace(RULES, entries_per_source=3, source_window_ms=HOUR_MS)
    store = QueueRepository(redis, rules, Limits(capacity=1, max_waiting=1_000))
    heavy = [Entry(user, "heavy") for user in range(1, 4)]
    await store.enter("flood", heavy)
    for user in range(1_000, 1_200):
        await store.enter("flood", [Entry(user, f"2001:db8:{user}::/64")])
    assert await redis.zcard("{queue:flood}:sources") == 50
    # It evicts those with the most left, so whoever used up the allowance stays limited.
    _, (answer,) = await store.enter("flood", [Entry(9, "heavy")])
    assert answer is LIMITED
