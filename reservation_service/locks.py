"""The Redis lock a seat. It spares the database a crowd on one seat; it decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import redis.exceptions
from prometheus_client import Counter
from redis.asyncio import Redis

from servicekit import logs

log = logs.get(__name__)

SKIPPED = Counter("seat_locks_skipped", "Seats that were taken without a lock.")

# After a failure, how long to go on without Redis, so that a dead one does not cost every
# reservation its time-out.
PAUSE_SECONDS = 1.0

# Unlocks only what is still ours: the lock may have ended and be somebody else's by now.
UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


class RedisSeatLocks:
    """Locks that end by themselves after `lock_seconds`.

    `client` must not wait longer than 100 ms for anything. While Redis is away, seats are handed
    out without a lock.
    """

    def __init__(self, client: Redis, *, lock_seconds: float) -> None:
        self._client = client
        self._unlock = client.register_script(UNLOCK)
        self._milliseconds = max(1, round(lock_seconds * 1000))
        self._paused_until = 0.0

    @contextlib.asynccontextmanager
    async def seat(self, seat_id: int, holder: str) -> AsyncIterator[str | None]:
        """Locks a seat for the block. Yields None, or who has it if somebody else does."""
        key = f"seat-lock:{seat_id}"
        now = asyncio.get_running_loop().time
        if now() < self._paused_until:
            SKIPPED.inc()
            yield None
            return
        try:
            # One round trip sets it and tells who has it otherwise (Redis 7).
            other = await self._client.set(key, holder, nx=True, px=self._milliseconds, get=True)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            log.warning("reserving without seat locks", error=type(error).__name__)
            self._paused_until = now() + PAUSE_SECONDS
            SKIPPED.inc()
            yield None
            return
        if other is not None:
            assert isinstance(other, bytes)
            yield other.decode()
            return
        try:
            yield None
        finally:
            try:
                await self._unlock(keys=[key], args=[holder])
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                # It ends by itself soon.
                log.warning("a seat lock was left behind", error=type(error).__name__)
                self._paused_until = now() + PAUSE_SECONDS
