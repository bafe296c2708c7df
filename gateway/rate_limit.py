"""Limits the request rate of each client, in each gateway process by itself."""

import time

from gateway.errors import TooManyRequests

_SECOND = 1_000_000_000  # in nanoseconds


class RateLimit:
    """The generic cell rate algorithm (GCRA): `per_second` requests of one client at once, then
    one each 1 / `per_second` seconds; an idle second restores the whole burst. 0: no limit.

    Stores one number for each client: the time until which its requests are paid for. That time
    is at most one second ahead, so entries of the second before last have no effect and are
    dropped (docs/adr/0028-caches-and-rate-limit.md).
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._interval = _SECOND // per_second if per_second else 0
        self._paid_until: dict[int | str, int] = {}
        self._paid_until_before: dict[int | str, int] = {}
        self._rotated = 0

    def check(self, client: int | str) -> None:
        """Counts one request of `client`. Raises TooManyRequests; a refused request is free."""
        if not self._per_second:
            return
        now = time.monotonic_ns()
        if now - self._rotated >= _SECOND:
            self._paid_until_before, self._paid_until = self._paid_until, {}
            self._rotated = now
        paid = self._paid_until.get(client) or self._paid_until_before.get(client, 0)
        paid = max(paid, now) + self._interval
        if paid - now > _SECOND:
            raise TooManyRequests("Wait for the time in Retry-After before the next request.")
        self._paid_until[client] = paid
