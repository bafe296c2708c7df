"""A circuit breaker: stops asking somebody who does not answer, and tries again later."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `limit` failures in a row; then lets one call through every `open_seconds`,
    until one succeeds."""

    def __init__(
        self, limit: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    def allows(self) -> bool:
        """Whether to make a call now; if so, tell `succeeded` or `failed` afterwards."""
        if self._failures < self._limit:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Set here rather than by its result, so that a probe that is lost blocks nothing.
        self._next_try = now + self._open_seconds
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures == self._limit:
            self._next_try = self._clock() + self._open_seconds
