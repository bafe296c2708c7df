"""A bounded memory of facts that may be a little stale."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def _seconds_to_midnight() -> float:
    """Seconds until the date changes (UTC)."""
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    return (midnight - now).total_seconds()


class TtlCache(Generic[Key, Value]):
    """Keeps the `max_size` entries used last, each for `ttl` seconds from when it was put in, and
    none beyond midnight (UTC), when dates pass."""

    def __init__(
        self, *, max_size: int, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_size = max_size
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[Key, tuple[Value, float]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """The value of `key`, or None if there is none or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if self._clock() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: Key, value: Value, *, seconds: float | None = None) -> None:
        """Remembers `value`, at the cost of the entry that was not used for longest; for other
        `seconds` than `ttl` if it is as old as that already."""
        lifetime = self._ttl if seconds is None else seconds
        until = self._clock() + min(lifetime, _seconds_to_midnight())
        self._entries[key] = (value, until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)
