"""The Redis lock a seat. It spares the database a crowd on one seat; it decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import redis.exceptions
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from servicekit import logs
from servicekit.batching import Batcher
from servicekit.errors import TimedOut, Unavailable

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

# How long a command may wait for its round trip; those before it take 100 ms at most.
QUEUE_SECONDS = 0.5
BATCH = 500

_AWAY = (redis.exceptions.RedisError, OSError, TimeoutError, TimedOut, Unavailable)

# Adds a command to a pipeline.
_Command = Callable[[Pipeline], Any]


class RedisSeatLocks:
    """Locks that end by themselves after `lock_seconds`.

    `client` must not wait longer than 100 ms for anything. While Redis is away, seats are handed
    out without a lock.
    """

    def __init__(self, client: Redis, *, lock_seconds: float) -> None:
        self._client = client
        self._commands = Batcher[_Command, bytes | Exception | None](
            self._execute, budget=QUEUE_SECONDS, max_batch=BATCH
        )
        self._unlocking: set[asyncio.Task[None]] = set()
        self._milliseconds = max(1, round(lock_seconds * 1000))
        self._paused_until = 0.0

    @contextlib.asynccontextmanager
    async def seat(self, seat_id: int, holder: str) -> AsyncIterator[str | None]:
        """Locks a seat for the block. Yields None, or who has it if somebody else does."""
        key = f"seat-lock:{seat_id}"
        if self._paused:
            SKIPPED.inc()
            yield None
            return
        try:
            # One round trip sets it and tells who has it otherwise (Redis 7).
            other = await self._send(
                lambda pipe: pipe.set(key, holder, nx=True, px=self._milliseconds, get=True)
            )
        except _AWAY as error:
            log.warning("reserving without seat locks", error=type(error).__name__)
            SKIPPED.inc()
            yield None
            return
        except asyncio.CancelledError:
            # It may be set all the same: unlocked behind it.
            unlocking = asyncio.create_task(self._unlock(key, holder))
            self._unlocking.add(unlocking)
            unlocking.add_done_callback(self._unlocking.discard)
            raise
        if other is not None:
            yield other.decode()
            return
        try:
            yield None
        finally:
            await self._unlock(key, holder)

    async def _unlock(self, key: str, holder: str) -> None:
        try:
            await self._send(lambda pipe: pipe.eval(UNLOCK, 1, key, holder))
        except _AWAY as error:
            # It ends by itself soon.
            log.warning("a seat lock was left behind", error=type(error).__name__)

    async def _send(self, command: _Command) -> bytes | None:
        """The reply to one command, which shares its round trip with those of others. Each alone,
        they were a third of what a reservation took of this process."""
        reply = await self._commands.submit(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _execute(self, commands: Sequence[_Command]) -> Sequence[bytes | Exception | None]:
        if self._paused:  # since the batch before: one time-out is enough for all who wait
            raise Unavailable("Redis is away.")
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            command(pipe)
        try:
            return await pipe.execute(raise_on_error=False)
        except _AWAY:
            self._paused_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
            raise

    @property
    def _paused(self) -> bool:
        return asyncio.get_running_loop().time() < self._paused_until
