"""The loading cache."""

import asyncio
import math

import pytest

from gateway.caching import LoadingCache


def no_limit() -> float:
    return math.inf


async def test_values_are_weighed() -> None:
    cache = LoadingCache[str, bytes](60, 100, no_limit, len)
    loads: list[str] = []

    async def get(key: str, size: int) -> int:
        async def load() -> bytes:
            loads.append(key)
            return bytes(size)

        return len(await cache.get(key, load))

    assert [await get("a", 60), await get("b", 40), await get("a", 60)] == [60, 40, 60]
    assert loads == ["a", "b"]
    # The least recently used makes way.
    assert [await get("c", 30), await get("a", 60), await get("b", 40)] == [30, 60, 40]
    assert loads == ["a", "b", "c", "b"]
    # Too large to be kept, and it evicts nothing.
    assert [await get("d", 101), await get("d", 101), await get("b", 40)] == [101, 101, 40]
    assert loads == ["a", "b", "c", "b", "d", "d"]


class Loads:
    """Loads the next number, or fails with `error`, while `gate` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> int:
        self.count += 1
        mine = self.count
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return mine


async def test_a_value_is_loaded_once() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    assert [await cache.get("a", load) for _ in range(3)] == [1, 1, 1]
    assert await cache.get("b", load) == 2


async def test_a_crowd_waits_for_one_load() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    crowd = [asyncio.create_task(cache.get("a", load)) for _ in range(100)]
    await asyncio.sleep(0.001)
    load.gate.set()
    assert set(await asyncio.gather(*crowd)) == {1}
    assert load.count == 1


async def test_the_time_to_live_starts_with_the_load() -> None:
    cache, load = LoadingCache[str, int](0.05, 10, no_limit), Loads()
    load.gate.clear()
    first = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.06)
    load.gate.set()
    assert await first == 1
    # The value had expired when it arrived.
    assert await cache.get("a", load) == 2


async def test_values_that_were_loaded_together_expire_at_different_times() -> None:
    cache, load = LoadingCache[int, int](0.2, 200, no_limit), Loads()
    await asyncio.gather(*(cache.get(key, load) for key in range(200)))
    await asyncio.sleep(0.15)
    # About half of them have expired; a busy machine may make it more.
    await asyncio.gather(*(cache.get(key, load) for key in range(100)))
    assert 200 < load.count <= 300
    await asyncio.sleep(0.2)
    load.count = 0
    await asyncio.gather(*(cache.get(key, load) for key in range(100, 200)))
    assert load.count == 100


async def test_a_time_to_live_of_zero_caches_nothing() -> None:
    cache, load = LoadingCache[str, int](0, 10, no_limit), Loads()
    assert [await cache.get("a", load) for _ in range(3)] == [1, 2, 3]


async def test_a_failure_reaches_all_waiting_callers_and_is_not_cached() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    load.error = LookupError("unavailable")
    crowd = [asyncio.create_task(cache.get("a", load)) for _ in range(5)]
    await asyncio.sleep(0.001)
    load.gate.set()
    results = await asyncio.gather(*crowd, return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 5
    load.error = None
    assert await cache.get("a", load) == 2


async def test_a_failure_does_not_affect_other_keys() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    assert await cache.get("a", load) == 1
    load.error = LookupError("unavailable")
    with pytest.raises(LookupError):
        await cache.get("b", load)
    assert await cache.get("a", load) == 1


async def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache, load = LoadingCache[str, int](10, 2, no_limit), Loads()
    await cache.get("a", load)
    await cache.get("b", load)
    await cache.get("a", load)
    await cache.get("c", load)
    assert await cache.get("a", load) == 1
    assert await cache.get("c", load) == 3
    assert await cache.get("b", load) == 4


async def test_a_cancelled_caller_does_not_cancel_the_load() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    first, second = (asyncio.create_task(cache.get("a", load)) for _ in range(2))
    await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.sleep(0.001)
    load.gate.set()
    assert await second == 1
    assert first.cancelled()
    assert await cache.get("a", load) == 1


async def test_a_failure_without_a_waiting_caller_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    load.error = LookupError("unavailable")
    only = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.001)
    only.cancel()
    load.gate.set()
    await asyncio.sleep(0.001)
    load.error = None
    assert await cache.get("a", load) == 2
    assert caplog.records == []


async def test_the_limit_of_the_owner_shortens_the_time_to_live() -> None:
    cache, load = LoadingCache[str, int](10, 10, lambda: 0.05), Loads()
    assert await cache.get("a", load) == 1
    assert await cache.get("a", load) == 1
    await asyncio.sleep(0.06)
    assert await cache.get("a", load) == 2
