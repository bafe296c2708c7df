"""Ticks run while somebody waits or is admitted; a replica of an empty room does nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import redis

from queue_service.domain import Limits
from queue_service.repository import QueueRepository
from queue_service.service import QueueService
from queue_service.tokens import Signer
from room_view.position import Pacing
from servicekit import redis_client
from tests import cancelling
from tests.queue_service.conftest import RULES, OwnRedis, RoomHandle, entries
from tests.queue_service.watching import RULES as ROOM_RULES
from tests.queue_service.watching import Store, mirror, replica


def service_of(store: Store) -> QueueService:
    return QueueService(store, Signer("k1", "0" * 32), Pacing(ROOM_RULES), ["main"])


@asynccontextmanager
async def ticking(service: QueueService, seconds: float = 0.01) -> AsyncIterator[None]:
    task = asyncio.create_task(service.keep_ticking("main", seconds))
    try:
        yield
    finally:
        await cancelling.end(task)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def ticks_within(store: Store, seconds: float) -> int:
    before = store.calls
    await asyncio.sleep(seconds)
    return store.calls - before


async def test_begin_with_the_first_place_and_end_with_the_last() -> None:
    store = Store()
    service = service_of(store)
    async with ticking(service):
        await until(lambda: store.calls == 1)  # at its start
        assert await ticks_within(store, 0.2) == 0
        (result,) = await service.enter_queue("main", entries([1]))
        await until(lambda: store.calls > 5)
        place = result.place  # type: ignore[union-attr]
        await service.leave_queue("main", place.number, 1)
        assert await ticks_within(store, 0.2) <= 2
        assert await ticks_within(store, 0.2) == 0


async def test_end_an_admission_that_nobody_asks_for() -> None:
    store = Store()
    service = service_of(store)
    async with ticking(service):
        await service.enter_queue("main", entries([1]))
        store.advance(RULES.admission_ttl_ms / 1000 + 0.001)
        await until(lambda: not store.copy_rooms()["main"].admitted)


async def test_come_when_an_admission_ends_not_later(own_redis: OwnRedis) -> None:
    rules = replace(RULES, admission_ttl_ms=300)
    async with (
        redis_client.connect(own_redis.url, timeout=1.0, retries=1) as client,
        redis_client.connect(own_redis.url, timeout=1.0, block=2.0) as blocking,
    ):
        store = QueueRepository(client, rules, Limits(1, 10), blocking)
        service = QueueService(store, Signer("k1", "0" * 32), Pacing(ROOM_RULES), ["main"])
        first, _ = (await store.enter("main", entries([1, 2])))[1]
        assert isinstance(first, tuple)
        (ending, standing), admitted = first, "{queue:main}:admitted"
        async with ticking(service, seconds=0.1):  # at least every second
            with redis.Redis.from_url(own_redis.url) as observer:
                await until(lambda: observer.zscore(admitted, ending.number) is None)
                ended_at = 1000 * time.time()
                assert observer.zcard(admitted) == 1, "the next one is admitted"
    assert standing.admitted_until_ms <= ended_at < standing.admitted_until_ms + 500


async def test_go_on_at_a_replica_that_was_restarted() -> None:
    store = Store()
    await store.enter("main", entries([1]))
    async with ticking(service_of(store)):
        await until(lambda: store.calls > 5)


async def test_of_one_replica_suffice_and_a_heartbeat_begins_those_of_another() -> None:
    store = Store()
    other = store.new_replica()
    service, other_service = service_of(store), service_of(other)
    async with ticking(other_service):
        await until(lambda: other.calls == 1)
        async with ticking(service):
            await service.enter_queue("main", entries([1]))
            await until(lambda: store.calls > 5)
            assert await ticks_within(other, 0.1) == 0
        # The first one has stopped. A gateway asks the other one for a heartbeat.
        await other_service.heartbeat("main", [])
        await until(lambda: other.calls > 5)


async def test_are_not_stopped_by_an_older_reply() -> None:
    """A reply that was under way while somebody entered."""
    store = Store()
    service = service_of(store)
    empty = await store.tick("main")
    await service.enter_queue("main", entries([1]))
    service._count(service._rooms["main"], empty)
    store.calls = 0
    async with ticking(service):
        await until(lambda: store.calls > 5)


async def test_repeat_ends_in_a_new_epoch_although_the_room_is_empty() -> None:
    store = Store()
    service = service_of(store)
    room = RoomHandle(store, "main", store.advance, store.forget, store.new_replica)
    async with ticking(service):
        (result,) = await service.enter_queue("main", entries([1]))
        place = result.place  # type: ignore[union-attr]
        await service.leave_queue("main", place.number, 1)
        await until(lambda: not service._rooms["main"].activity.is_busy)
        await room.forget()
        await service.heartbeat("main", [])
        # Without the end, the poll would restore the place.
        await until(lambda: place.number in store.copy_rooms()["main"].ended)


async def test_come_at_once_when_a_new_epoch_may_have_lost_ends() -> None:
    store = Store()
    service = service_of(store)
    room = RoomHandle(store, "main", store.advance, store.forget, store.new_replica)
    async with ticking(service, seconds=0.2):  # nothing is due: the next one in 2 s
        (result, _) = await service.enter_queue("main", entries([1, 2]))
        place = result.place  # type: ignore[union-attr]
        await service.leave_queue("main", place.number, 1)
        await asyncio.sleep(0.5)
        await room.forget()
        began = time.monotonic()
        await service.get_positions([place])
        await until(lambda: place.number in store.copy_rooms()["main"].ended)
        assert time.monotonic() - began < 1


async def test_come_at_once_when_a_call_leaves_something_to_do(own_redis: OwnRedis) -> None:
    """A script admits at most 256 at a time."""
    async with (
        redis_client.connect(own_redis.url, timeout=1.0, retries=1) as client,
        redis_client.connect(own_redis.url, timeout=1.0, block=2.0) as blocking,
    ):
        store = QueueRepository(client, RULES, Limits(0, 1_000), blocking)
        service = QueueService(store, Signer("k1", "0" * 32), Pacing(ROOM_RULES), ["main"])
        async with ticking(service, seconds=0.1):  # nothing is due: the next one in 1 s
            for n in range(0, 600, 200):
                await service.enter_queue("main", entries(range(n + 1, n + 201)))
            began = time.monotonic()
            await service.update_room("main", capacity=600)
            while (await service.get_room("main")).admitted < 600:
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.02)


async def test_an_empty_room_makes_no_call_for_seconds(own_redis: OwnRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as observer:

        def commands() -> int:
            return int(observer.info("stats")["total_commands_processed"])

        async with (
            redis_client.connect(own_redis.url, timeout=1.0, retries=1) as client,
            redis_client.connect(own_redis.url, timeout=1.0, block=2.0) as blocking,
            replica(QueueRepository(client, RULES, Limits(1, 10), blocking)) as service,
        ):
            await service.service.get_room("main")
            await until(lambda: not service.service._rooms["main"].activity.is_busy)
            await asyncio.sleep(0.2)
            before = commands()
            await asyncio.sleep(1.5)
            assert commands() - before == 1  # the observer's own
            async with mirror(service.address) as watching:
                await watching.beat()
                await asyncio.sleep(0.2)
                before = commands()
                await asyncio.sleep(1.5)
                # A read of the log that waits for the next change, and ends now and then.
                assert commands() - before <= 2
