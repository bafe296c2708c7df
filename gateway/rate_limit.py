"""Who asks too often gets 429. Counted in each gateway process by itself: no store is asked."""

import time

from gateway.errors import TooManyRequests


class RateLimit:
    """At most `per_second` requests of one client in any second of the clock; 0: no limit.

    By hand: the usual library keeps a timer thread per window, which cost a tenth of the
    gateway's time.
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._counts: dict[int | str, int] = {}

    def check(self, client: int | str) -> None:
        """Counts one request of `client`. Raises TooManyRequests."""
        if not self._per_second:
            return
        second = int(time.time())
        if second != self._second:
            # So it never holds more than the clients of one second.
            self._second = second
            self._counts = {}
        count = self._counts.get(client, 0) + 1
        self._counts[client] = count
        if count > self._per_second:
            raise TooManyRequests("Wait for the time that Retry-After says before asking again.")
