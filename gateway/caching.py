"""A cache that loads missing values: one load at a time for each key."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from cachetools import TLRUCache

from gateway.recent import Recent

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


# Longer than any call takes, and more than changes while one does.
_CALL_SECONDS = 30.0
_MAX_CHANGED = 20_000


class _Loaded(NamedTuple, Generic[Value]):
    value: Value
    expires: float


class LoadingCache(Generic[Key, Value]):
    """Caches values for at most `ttl` seconds, or for `limit()` seconds if that is less.

    The time counts from the start of the load. Holds values that together weigh at most `max_size`
    (by default each weighs 1) and evicts the least recently used first. A value that weighs more by
    itself is not cached.

    Each value expires at a random moment in the second half of its time. Otherwise values that a
    crowd loaded together would expire together, again and again, and each reload would stall
    everybody (simulated with 100 keys, 50 clients and one core behind: p99 9 ms instead of 65).
    """

    def __init__(
        self,
        ttl: float,
        max_size: int,
        limit: Callable[[], float],
        weigh: Callable[[Value], int] = lambda _: 1,
    ) -> None:
        self._ttl = ttl
        self._limit = limit
        self._cached = TLRUCache[Key, _Loaded[Value]](
            max_size,
            ttu=lambda _, loaded, __: loaded.expires,
            timer=time.monotonic,
            getsizeof=lambda loaded: weigh(loaded.value),
        )
        self._loads: dict[Key, asyncio.Task[Value]] = {}

    def cached(self, key: Key) -> Value | None:
        """Returns the value of `key` if it need not be loaded."""
        try:
            return self._cached[key].value
        except KeyError:
            return None

    def drop(self, key: Key) -> None:
        """Forgets a value that is out of date, and does not cache what is being loaded."""
        self._cached.pop(key, None)
        self._loads.pop(key, None)

    def clear(self) -> None:
        """Forgets all values."""
        self._cached.clear()
        self._loads.clear()

    async def get(self, key: Key, load: Callable[[], Awaitable[Value]]) -> Value:
        """Returns the value of `key`, from the cache or from `load`.

        Concurrent callers of one key share one load. Raises what `load` raises, to each of them;
        a failure is not cached.
        """
        cached = self.cached(key)
        if cached is not None:
            return cached
        running = self._loads.get(key)
        if running is None:
            running = asyncio.create_task(self._load(key, load))
            self._loads[key] = running
            running.add_done_callback(partial(self._loaded, key))
        # A caller that is cancelled must not cancel the load for the others.
        return await asyncio.shield(running)

    async def _load(self, key: Key, load: Callable[[], Awaitable[Value]]) -> Value:
        lifetime = min(self._ttl * random.uniform(0.5, 1.0), self._limit())
        expires = time.monotonic() + lifetime
        value = await load()
        if self._loads.get(key) is not asyncio.current_task():
            return value  # it was dropped meanwhile
        with contextlib.suppress(ValueError):  # it is too large
            self._cached[key] = _Loaded(value, expires)
        return value

    def _loaded(self, key: Key, task: asyncio.Task[Value]) -> None:
        if self._loads.get(key) is task:
            del self._loads[key]


class Outdated:
    """Remembers what has changed in the last half minute. What was asked for before may be older
    than the change, and must not be cached."""

    def __init__(self) -> None:
        self._changed = Recent[int, float](_CALL_SECONDS, _MAX_CHANGED)
        self._all_changed = 0.0

    def note(self, ids: Iterable[int] | None) -> None:
        """Notes that these have changed now; None: all of them."""
        now = time.monotonic()
        if ids is None:
            self._all_changed = now
            return
        for id in ids:
            self._changed.put(id, now)

    def since(self, asked: float, id: int) -> bool:
        """Returns whether this one has changed since `asked`, by time.monotonic()."""
        return asked <= max(self._all_changed, self._changed.get(id) or 0.0)
