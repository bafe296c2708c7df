"""Per-seat Redis locks: an optimisation that keeps contention off the database.

Correctness never depends on them.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Collection, Sequence

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from servicekit import logs, redis_client
from servicekit.errors import Unavailable
from servicekit.retries import Outage

log = logs.get(__name__)

SKIPPED = Counter("seat_locks_skipped", "Groups of reservations made without their seat locks.")

# How long to continue without Redis after a failure, so that not every reservation waits for the
# timeout of a dead Redis.
PAUSE_SECONDS = 1.0

# Deletes the locks that we still hold: one may have expired and belong to another holder.
UNLOCK = """
for _, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then
        redis.call('DEL', key)
    end
end
"""


class RedisSeatLocks:
    """Implements `ports.SeatLocks` with locks that expire after `lock_seconds`.

    `client` must have a timeout of at most 100 ms. While Redis is unavailable, blocks run without
    locks.
    """

    def __init__(self, client: Redis, *, lock_seconds: float) -> None:
        self._client = client
        self._milliseconds = max(1, round(lock_seconds * 1000))
        self._paused_until = 0.0
        self._outage = Outage(log, "seat_locks_unavailable", "seat_locks_available")

    @contextlib.asynccontextmanager
    async def seats(self, seat_ids: Sequence[int]) -> AsyncIterator[Collection[int]]:
        """See `ports.SeatLocks`. Takes one trip to Redis before the block and one after it."""
        holder = secrets.token_hex(8)
        pipe = self._client.pipeline(transaction=False)
        for seat_id in seat_ids:
            pipe.set(_key(seat_id), holder, nx=True, px=self._milliseconds)
        replies = await self._execute(pipe)
        if replies is None:
            SKIPPED.inc()
            yield ()
            return
        # True: locked; None: somebody else has locked it.
        locked = [_key(id) for id, reply in zip(seat_ids, replies, strict=True) if reply is True]
        try:
            yield {id for id, reply in zip(seat_ids, replies, strict=True) if reply is None}
        finally:
            if locked:
                pipe = self._client.pipeline(transaction=False)
                pipe.eval(UNLOCK, len(locked), *locked, holder)
                await self._execute(pipe)  # locks that cannot be released expire soon

    async def _execute(self, pipe: Pipeline) -> Sequence[object] | None:
        """Returns the reply to each command, an exception for one that Redis refused. Returns None
        if Redis is unavailable, and at once for a while after that."""
        if asyncio.get_running_loop().time() < self._paused_until:
            return None
        try:
            async with redis_client.translated_errors(self._client, "Redis is unavailable."):
                replies: Sequence[object] = await pipe.execute(raise_on_error=False)
        except Unavailable as error:
            self._paused_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
            self._outage.failed(error)
            return None
        refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refused:  # by a server that cannot serve
            await redis_client.cannot_serve(self._client, refused)
            self._outage.failed(refused)
        else:
            self._outage.succeeded()
        return replies


def _key(seat_id: int) -> str:
    return f"seat-lock:{seat_id}"
