"""The log of changes and its Redis: fail-overs, fail-backs, blocking reads, and the cost."""

import asyncio
import time
from itertools import pairwise

import pytest

from queue_service.domain import Limits
from queue_service.ports import MAX_BLOCK_MS
from queue_service.repository import QueueRepository
from room_view.view import Gap
from servicekit import redis_client
from servicekit.errors import Unavailable
from tests.queue_service.conftest import RULES, OwnRedis, entries
from tests.queue_service.follower import Follower
from tests.queue_service.log import Log

LIMITS = Limits(1, 100)


async def test_a_fail_back_that_nobody_noticed_opens_an_epoch(own_redis: OwnRedis) -> None:
    """To a master that meanwhile copied an older state, under the same replication id."""
    async with redis_client.connect(own_redis.url, timeout=5.0) as client:
        store, log = QueueRepository(client, RULES, LIMITS), Log(client, "main")
        await store.enter("main", entries([11, 12]))
        await log.note()
        seen, _ = await store.enter("main", entries([13]))
        follower = Follower(store, "main")
        await follower.start()
        for user in (12, 13):
            place = int(await client.hget(log.key("users"), str(user)) or 0)
            left = await store.leave("main", place, user, seen.epoch)
        await log.cut(0, unnoticed=True)
        fresh = QueueRepository(client, RULES, LIMITS)
        assert (await fresh.tick("main")).seq < left.seq, "it cannot know"
        assert (await fresh.tick("main")).epoch == left.epoch
        fresh.remember("main", left.memory)
        after = await fresh.tick("main")
        assert after.epoch > left.last
        assert after.recovering
        with pytest.raises(Gap):
            await follower.catch_up()


async def test_a_replica_answers_reads_but_no_heartbeat(
    own_redis: OwnRedis, second_redis: OwnRedis
) -> None:
    async with (
        redis_client.connect(own_redis.url, timeout=5.0) as primary,
        redis_client.connect(second_redis.url, timeout=5.0) as replica,
    ):
        seen, _ = await QueueRepository(primary, RULES, LIMITS).enter("main", entries([11, 12]))
        await primary.config_set("repl-diskless-sync-delay", 0)
        await replica.replicaof(*own_redis.address)
        store = QueueRepository(replica, RULES, LIMITS)
        deadline = time.monotonic() + 10
        while not (found := await store.changes("main", "0", 0)):
            assert time.monotonic() < deadline, "the replica has no copy"
            await asyncio.sleep(0.05)
        assert found[-1][1].seq == seen.seq
        with pytest.raises(Unavailable):
            await store.heartbeat("main", ())
        with pytest.raises(Unavailable):
            await store.snapshot("main")
        await replica.replicaof("NO", "ONE")
        assert (await store.heartbeat("main", ())).epoch > seen.epoch


async def test_a_reader_waits_longer_than_other_commands_may_take(own_redis: OwnRedis) -> None:
    async with (
        redis_client.connect(own_redis.url, timeout=0.3) as client,
        redis_client.connect(own_redis.url, timeout=0.3, block=MAX_BLOCK_MS / 1000) as blocking,
    ):
        store = QueueRepository(client, RULES, LIMITS, blocking)
        follower = Follower(store, "main")
        await follower.start()
        began = time.monotonic()
        assert await store.changes("main", follower.after_id, 600) == []
        assert time.monotonic() - began >= 0.6
        reader = asyncio.create_task(store.changes("main", follower.after_id, MAX_BLOCK_MS))
        await asyncio.sleep(0.5)
        await store.enter("main", entries([11]))
        assert [changes.seq for _, changes in await reader] == [follower.view.seq + 1]
        # A reader that is cancelled leaves no connection that another one's answer may come from.
        reader = asyncio.create_task(store.changes("main", "$", MAX_BLOCK_MS))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        found = await store.changes("main", "0", 0)
        assert all(b.seq == a.seq + 1 for (_, a), (_, b) in pairwise(found))


async def test_a_reader_notices_that_redis_has_ended(own_redis: OwnRedis) -> None:
    async with redis_client.connect(own_redis.url, timeout=1.0, block=2.0) as client:
        store = QueueRepository(client, RULES, LIMITS)
        follower = Follower(store, "main")
        await follower.start()
        reader = asyncio.create_task(store.changes("main", follower.after_id, MAX_BLOCK_MS))
        await asyncio.sleep(0.05)
        own_redis.kill()
        with pytest.raises(Unavailable):
            await reader


@pytest.mark.parametrize("items", [1, 64])
async def test_joining_runs_few_commands(own_redis: OwnRedis, items: int) -> None:
    """Before there was a log, 16, and 8 for each further place."""
    async with redis_client.connect(own_redis.url, timeout=5.0) as client:
        store = QueueRepository(client, RULES, Limits(1, 1_000))
        await store.enter("main", entries([1, 2]))
        await client.config_resetstat()
        await store.enter("main", entries(range(100, 100 + items)))
        stats = await client.info("commandstats")
        ran = {
            name.removeprefix("cmdstat_"): int(stat["calls"])
            for name, stat in stats.items()
            if name not in ("cmdstat_evalsha", "cmdstat_config|resetstat")
        }
        assert sum(ran.values()) == 15 + 6 * (items - 1), ran
