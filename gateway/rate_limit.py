"""Limits the request rate of each client, in each gateway process by itself."""

import time

from prometheus_client import Counter

from gateway.errors import TooManyRequests

LIMITED = Counter("requests_limited", "Requests that a limit of this process refused.", ["limit"])

# The hash of a place, a source, or a source and the user who enters from it.
Client = int | str | tuple[str, int]

_SECOND = 1_000_000_000  # in nanoseconds


class RateLimit:
    """The generic cell rate algorithm (GCRA): `per_second` requests of one client at once, then
    one each 1 / `per_second` seconds; an idle second restores the whole burst. 0: no limit.

    Stores one number for each client: the time until which its requests are paid for. That time
    is at most one second ahead, so entries of the second before last have no effect and are
    dropped (docs/adr/0028-caches-and-rate-limit.md).
    """

    def __init__(self, per_second: int, name: str) -> None:
        """`name` is the limit's label in the metrics."""
        self._per_second = per_second
        self._interval = _SECOND // per_second if per_second else 0
        self._paid_until: dict[Client, int] = {}
        self._paid_until_before: dict[Client, int] = {}
        self._rotated = 0
        self._limited = LIMITED.labels(name)

    def check(self, client: Client) -> None:
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
            self._limited.inc()
            raise TooManyRequests
        self._paid_until[client] = paid
