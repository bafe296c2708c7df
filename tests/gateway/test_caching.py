"""The cache of what may be stale for a moment."""

import asyncio
import math

import pytest

from gateway.caching import LoadingCache


def no_limit() -> float:
    return math.inf


class Loads:
    """Loads the next number, once it is let go."""

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


async def test_a_value_ends_counted_from_the_beginning_of_its_load() -> None:
    cache, load = LoadingCache[str, int](0.05, 10, no_limit), Loads()
    load.gate.clear()
    first = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.06)
    load.gate.set()
    assert await first == 1
    # It was already too old when it came.
    assert await cache.get("a", load) == 2


async def test_what_was_loaded_together_does_not_end_together() -> None:
    cache, load = LoadingCache[int, int](0.2, 200, no_limit), Loads()
    await asyncio.gather(*(cache.get(key, load) for key in range(200)))
    await asyncio.sleep(0.15)
    # Half of them have ended by now, give or take what chance and a busy machine may do.
    await asyncio.gather(*(cache.get(key, load) for key in range(100)))
    assert 200 < load.count <= 300
    await asyncio.sleep(0.2)
    load.count = 0
    await asyncio.gather(*(cache.get(key, load) for key in range(100, 200)))
    assert load.count == 100


async def test_a_time_to_live_of_zero_keeps_nothing() -> None:
    cache, load = LoadingCache[str, int](0, 10, no_limit), Loads()
    assert [await cache.get("a", load) for _ in range(3)] == [1, 2, 3]


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    load.error = LookupError("away")
    crowd = [asyncio.create_task(cache.get("a", load)) for _ in range(5)]
    await asyncio.sleep(0.001)
    load.gate.set()
    results = await asyncio.gather(*crowd, return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 5
    load.error = None
    assert await cache.get("a", load) == 2


async def test_a_failure_leaves_the_other_keys_alone() -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    assert await cache.get("a", load) == 1
    load.error = LookupError("away")
    with pytest.raises(LookupError):
        await cache.get("b", load)
    assert await cache.get("a", load) == 1


async def test_the_least_recently_used_goes_first() -> None:
    cache, load = LoadingCache[str, int](10, 2, no_limit), Loads()
    await cache.get("a", load)
    await cache.get("b", load)
    await cache.get("a", load)
    await cache.get("c", load)
    assert await cache.get("a", load) == 1
    assert await cache.get("c", load) == 3
    assert await cache.get("b", load) == 4


async def test_who_goes_away_does_not_take_the_load_along() -> None:
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


async def test_a_failure_that_nobody_waits_for_is_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, load = LoadingCache[str, int](10, 10, no_limit), Loads()
    load.gate.clear()
    load.error = LookupError("away")
    only = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.001)
    only.cancel()
    load.gate.set()
    await asyncio.sleep(0.001)
    load.error = None
    assert await cache.get("a", load) == 2
    assert caplog.records == []


async def test_the_limit_of_the_caller_ends_a_value_early() -> None:
    cache, load = LoadingCache[str, int](10, 10, lambda: 0.05), Loads()
    assert await cache.get("a", load) == 1
    assert await cache.get("a", load) == 1
    await asyncio.sleep(0.06)
    assert await cache.get("a", load) == 2
