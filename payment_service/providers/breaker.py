"""A circuit breaker: stops calling a provider that fails, and probes it later."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `limit` consecutive failures; then allows one call per `open_seconds` until one
    succeeds."""

    def __init__(
        self, limit: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    def allows(self) -> bool:
        """Returns whether to make a call now. Report its result with `succeeded` or `failed`."""
        if self._failures < self._limit:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Set before the result, so that a probe that never reports does not keep it open.
        self._next_try = now + self._open_seconds
        return True

    def succeeded(self) -> None:
        """Closes the breaker."""
        self._failures = 0

    def failed(self) -> None:
        """Counts a failure."""
        self._failures += 1
        if self._failures == self._limit:
            self._next_try = self._clock() + self._open_seconds
