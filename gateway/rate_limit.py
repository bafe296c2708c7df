"""Who asks too often gets 429. Counted in each gateway process by itself: no store is asked."""

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from gateway.errors import TooManyRequests


class RateLimit:
    """At most `per_second` requests of one client in any second of the clock; 0: no limit."""

    def __init__(self, per_second: int) -> None:
        self._item = RateLimitItemPerSecond(per_second) if per_second else None
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check(self, client: str) -> None:
        """Counts one request of `client`. Raises TooManyRequests."""
        if self._item is not None and not self._limiter.hit(self._item, client):
            raise TooManyRequests("Wait for the time that Retry-After says before asking again.")
