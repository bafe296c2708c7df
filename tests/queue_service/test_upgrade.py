"""A replica of the version before works on the same room, and records no changes."""

from typing import Any

import pytest
from redis.asyncio import Redis

from queue_service.definition import Definition
from queue_service.domain import Limits, Refusal
from queue_service.repository import QueueRepository
from room_view.view import Gap
from servicekit import redis_client
from tests.queue_service.conftest import RULES, OwnRedis, entries
from tests.queue_service.follower import Follower

KEY = "{{queue:main}}:{}".format
NUMBERS_PER_SECOND = 4_096_000


class OldReplica:
    """Runs the commands that scripts of the version before run."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def enter(self, user: int) -> int:
        last = int(await self.field("last")) + NUMBERS_PER_SECOND
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(KEY("state"), "last", last)
            pipe.hset(KEY("users"), str(user), str(last))
            pipe.hset(KEY("places"), str(last), f"{user}:{last // 4096 + 1_767_225_600_000}")
            pipe.zadd(KEY("waiting"), {str(last): last})
            await pipe.execute()
        return last

    async def leave(self, number: int, user: int) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hdel(KEY("places"), str(number))
            pipe.hdel(KEY("users"), str(user))
            for name in ("waiting", "admitted"):
                pipe.zrem(KEY(name), number)
            pipe.srem(KEY("unclaimed"), number)
            await pipe.execute()

    async def claim(self, number: int, until_ms: int) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.srem(KEY("unclaimed"), number)
            pipe.zadd(KEY("admitted"), {str(number): until_ms})
            await pipe.execute()

    async def set_capacity(self, capacity: int) -> None:
        await self.redis.hset(KEY("state"), "capacity", str(capacity))

    async def field(self, name: str) -> str:
        value = await self.redis.hget(KEY("state"), name)
        assert isinstance(value, bytes)
        return value.decode()


@pytest.mark.parametrize("change", ["enter", "leave", "leave admitted", "claim", "capacity"])
async def test_a_change_without_an_entry_is_noticed(own_redis: OwnRedis, change: str) -> None:
    async with redis_client.connect(own_redis.url, timeout=5.0) as redis:
        store, old = QueueRepository(redis, RULES, Limits(1, 100)), OldReplica(redis)
        _, answers = await store.enter("main", entries([11, 12, 13]))
        first, second, third = [answer[0] for answer in answers if not isinstance(answer, Refusal)]
        await store.leave("main", first.number, 11, first.epoch)  # the second one is let in
        follower = Follower(store, "main")
        view = await follower.start()
        before = await store.tick("main")
        assert before.unrecorded_at == 0
        match change:
            case "enter":
                await old.enter(99)
            case "leave":
                await old.leave(third.number, 13)
            case "leave admitted":
                await old.leave(second.number, 12)
            case "claim":
                await old.claim(second.number, before.now + 60_000)
            case _:
                await old.set_capacity(2)
        seen = await store.heartbeat("main", ())
        assert seen.unrecorded_at == seen.now
        assert seen.seq >= before.seq + 2
        with pytest.raises(Gap):
            await follower.catch_up()
        view = await follower.start()
        assert view.fields.unrecorded_at_ms == seen.unrecorded_at
        waiting: Any = await redis.zrange(KEY("waiting"), 0, -1)
        assert [n for block in view.line.blocks() for n in block] == [int(n) for n in waiting]
        assert (second.number in view.admitted) == (change != "leave admitted")
        # Noticed once.
        after = await store.tick("main")
        assert (after.unrecorded_at, after.seq) == (seen.unrecorded_at, seen.seq)


async def test_it_is_noticed_once_a_second(own_redis: OwnRedis) -> None:
    """Each time costs every copy a snapshot, and none is used until a minute later anyway."""
    async with redis_client.connect(own_redis.url, timeout=5.0) as redis:
        store, old = QueueRepository(redis, RULES, Limits(1, 100)), OldReplica(redis)
        await store.enter("main", entries([11, 12]))
        number = await old.enter(98)
        first = await store.tick("main")
        await old.leave(number, 98)
        # A change of this version that makes the counts what they were.
        await store.enter("main", entries([13]))
        second = await store.tick("main")
        assert second.unrecorded_at == first.unrecorded_at
        follower = Follower(store, "main")
        await follower.start()
        # A second later, without another change.
        await redis.hincrby(KEY("state"), "unrecorded_at", -1_000)
        third = await store.tick("main")
        assert third.unrecorded_at > first.unrecorded_at
        with pytest.raises(Gap):
            await follower.catch_up()
        assert (await store.tick("main")).seq == third.seq


async def test_the_first_replica_of_this_version_notices_the_others(own_redis: OwnRedis) -> None:
    async with redis_client.connect(own_redis.url, timeout=5.0) as redis:
        store = QueueRepository(redis, RULES, Limits(1, 100))
        await store.enter("main", entries([11]))
        await redis.delete(KEY("changes"))
        await redis.hdel(KEY("state"), "seq", "bytes", "shape", "unrecorded_at")
        seen = await QueueRepository(redis, RULES, Limits(1, 100)).tick("main")
        assert seen.unrecorded_at == seen.now
        assert (await store.tick("main")).unrecorded_at == seen.now


async def test_the_version_before_reads_the_log_of_a_room_with_a_definition(
    own_redis: OwnRedis,
) -> None:
    """It takes exactly these fields in an F, and knows no other kinds of words."""
    async with redis_client.connect(own_redis.url, timeout=5.0) as redis:
        store = QueueRepository(redis, RULES, Limits(1, 100))
        store.define("main", Definition(1, 1, 100, opens_at_ms=2**52))
        await store.enter("main", entries([11, 12]))
        store.define("main", Definition(2, 1, 100, admissions_per_minute=60))
        await store.tick("main")
        log: Any = await redis.xrange(KEY("changes"))
        texts = [entry[b"c"].decode() for _, entry in log]
        assert {word[0] for text in texts for word in text.split(" ")} == set("FJA")
        fields = [word for text in texts for word in text.split(" ") if word[0] == "F"]
        assert [len(word.split(",")) for word in fields] == [9] * len(fields)
        # The shape of a room does not depend on its definition.
        shape = await redis.hget(KEY("state"), "shape")
        await redis.hdel(KEY("state"), "definition")
        other = QueueRepository(redis, RULES, Limits(1, 100))
        assert (await other.tick("main")).unrecorded_at == 0
        assert await redis.hget(KEY("state"), "shape") == shape
