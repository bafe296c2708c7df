"""A memory of what happened lately, bounded in time and in size."""

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Remembers each value for at least `seconds`, or until half of `size` newer ones came; while
    values arrive, for at most twice as long. Holds at most `size` values.

    Two dictionaries take turns: when the newer one is full or old, the older one is dropped. That
    takes less than half of the memory of a FIFOCache and less time, and needs no sweep
    (docs/adr/0028-caches-and-rate-limit.md).
    """

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._half = size // 2
        self._new: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._began = time.monotonic()

    def __len__(self) -> int:
        return len(self._new.keys() | self._old.keys())

    def get(self, key: Key) -> Value | None:
        """Returns the last value of `key`, or None."""
        value = self._new.get(key)
        return self._old.get(key) if value is None else value

    def put(self, key: Key, value: Value) -> None:
        """Remembers `value`, which must not be None."""
        now = time.monotonic()
        if now - self._began >= self._seconds or len(self._new) >= self._half:
            self._old, self._new = self._new, {}
            self._began = now
        self._new[key] = value

    def drop(self, key: Key) -> None:
        """Forgets `key`, if it is there."""
        self._new.pop(key, None)
        self._old.pop(key, None)
