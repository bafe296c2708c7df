"""Seat locks: on Redis, and while Redis is unavailable."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import CapturingLogger

from reservation_service import locks as locks_module
from reservation_service.locks import RedisSeatLocks
from servicekit import redis_client
from tests.reservation_service.conftest import new_seats


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    # Patient, so that a slow test machine does not turn locks off.
    async with redis_client.connect(redis_url, timeout=5.0) as client:
        yield client
        await client.connection_pool.disconnect()


async def test_locks_exclude_others_and_end_with_the_block(redis: Redis) -> None:
    locks, others = [RedisSeatLocks(redis, lock_seconds=10) for _ in range(2)]
    first, second, third = new_seats(3)
    async with locks.seats([first, second]) as elsewhere:
        assert elsewhere == set()
        async with others.seats([second, third]) as elsewhere:
            assert elsewhere == {second}
            async with locks.seats([first, second, third]) as elsewhere:
                assert elsewhere == {first, second, third}
        # The locks of the outer block are still there.
        async with others.seats([first, second, third]) as elsewhere:
            assert elsewhere == {first, second}
    async with others.seats([first, second, third]) as elsewhere:
        assert elsewhere == set()


async def test_an_expired_lock_is_not_released_for_its_next_holder(redis: Redis) -> None:
    slow, patient = RedisSeatLocks(redis, lock_seconds=0.02), RedisSeatLocks(redis, lock_seconds=10)
    seats = new_seats(2)
    async with patient.seats(seats[1:]):
        async with slow.seats(seats[:1]):
            await asyncio.sleep(0.03)
            next_holder = patient.seats(seats)
            assert await next_holder.__aenter__() == {seats[1]}
        async with slow.seats(seats) as elsewhere:
            assert elsewhere == set(seats)
        await next_holder.__aexit__(None, None, None)
    async with slow.seats(seats) as elsewhere:
        assert elsewhere == set()


async def test_a_group_takes_two_trips(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = RedisSeatLocks(redis, lock_seconds=10)
    trips = 0
    pipeline = redis.pipeline

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal trips
        trips += 1
        return pipeline(*arguments, **named)

    monkeypatch.setattr(redis, "pipeline", counted)
    async with locks.seats(new_seats(100)):
        assert trips == 1
    assert trips == 2


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_an_error_of_the_block_passes_and_releases(
    redis: Redis, error: type[BaseException]
) -> None:
    locks = RedisSeatLocks(redis, lock_seconds=10)
    seats = new_seats(2)
    with pytest.raises(error):
        async with locks.seats(seats):
            raise error
    async with locks.seats(seats) as elsewhere:
        assert elsewhere == set()


# Redis unavailable.


async def test_a_dead_redis_costs_one_timeout_for_all_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(locks_module, "log", log)
    monkeypatch.setattr(locks_module, "PAUSE_SECONDS", 0.01)
    async with redis_client.connect("redis://127.0.0.1:1", timeout=0.1) as dead:
        locks = RedisSeatLocks(dead, lock_seconds=3)
        started = asyncio.get_running_loop().time()
        for seat_id in range(1000):
            async with locks.seats([seat_id]) as elsewhere:
                assert not elsewhere
        assert asyncio.get_running_loop().time() - started < 5
        await dead.connection_pool.disconnect()
    assert [call.args for call in log.calls] == [("seat_locks_unavailable",)]


async def test_a_redis_that_refuses_the_commands_is_skipped(redis: Redis, redis_url: str) -> None:
    await redis.execute_command("ACL", "SETUSER", "readers", "on", ">secret", "~*", "+@read")  # type: ignore[no-untyped-call]
    url = redis_url.replace("redis://", "redis://readers:secret@")
    async with redis_client.connect(url, timeout=5.0) as reader:
        async with RedisSeatLocks(reader, lock_seconds=3).seats(new_seats(2)) as elsewhere:
            assert elsewhere == set()
        await reader.connection_pool.disconnect()
    await redis.execute_command("ACL", "DELUSER", "readers")  # type: ignore[no-untyped-call]


async def test_a_redis_that_hangs_costs_one_timeout_for_all() -> None:
    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with redis_client.connect(f"redis://127.0.0.1:{port}", timeout=0.1) as silent:
        locks = RedisSeatLocks(silent, lock_seconds=3)
        started = asyncio.get_running_loop().time()
        for seat_id in range(1000):
            async with locks.seats([seat_id]) as elsewhere:
                assert not elsewhere
        assert asyncio.get_running_loop().time() - started < 5
        await silent.connection_pool.disconnect()
    server.close()
