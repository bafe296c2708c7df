"""Per-seat Redis locks: an optimisation that keeps contention off the database.

Correctness never depends on them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from servicekit import logs, redis_client
from servicekit.batching import Batcher
from servicekit.errors import TimedOut, Unavailable
from servicekit.retries import Outage

log = logs.get(__name__)

SKIPPED = Counter("seat_locks_skipped", "Reservations made without a seat lock.")

# How long to continue without Redis after a failure, so that not every reservation waits for the
# timeout of a dead Redis.
PAUSE_SECONDS = 1.0

# Deletes the lock only if we still hold it: it may have expired and belong to another holder.
UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""

# How long a command may wait for its round trip to start. A round trip takes at most 100 ms.
QUEUE_SECONDS = 0.5
BATCH = 500

# Adds a command to a pipeline.
_Command = Callable[[Pipeline], Any]


class RedisSeatLocks:
    """Implements `ports.SeatLocks` with locks that expire after `lock_seconds`.

    `client` must have a timeout of at most 100 ms. While Redis is unavailable, blocks run without
    a lock.
    """

    def __init__(self, client: Redis, *, lock_seconds: float) -> None:
        self._client = client
        self._commands = Batcher[_Command, bytes | Exception | None](
            self._execute, budget=QUEUE_SECONDS, max_batch=BATCH
        )
        self._unlocking: set[asyncio.Task[None]] = set()
        self._milliseconds = max(1, round(lock_seconds * 1000))
        self._paused_until = 0.0
        self._outage = Outage(log, "seat_locks_unavailable", "seat_locks_available")

    @contextlib.asynccontextmanager
    async def seat(self, seat_id: int, holder: str) -> AsyncIterator[str | None]:
        """See `ports.SeatLocks`."""
        key = f"seat-lock:{seat_id}"
        if self._paused:
            SKIPPED.inc()
            yield None
            return
        try:
            # Returns the current holder if there is one (NX together with GET needs Redis 7).
            other = await self._send(
                lambda pipe: pipe.set(key, holder, nx=True, px=self._milliseconds, get=True)
            )
        except (Unavailable, TimedOut):
            SKIPPED.inc()
            yield None
            return
        except asyncio.CancelledError:
            # The command may be sent nevertheless: release the lock after it.
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
        # A lock that cannot be released expires soon.
        with contextlib.suppress(Unavailable, TimedOut):
            await self._send(lambda pipe: pipe.eval(UNLOCK, 1, key, holder))

    async def _send(self, command: _Command) -> bytes | None:
        """Returns the reply to one command. Raises Unavailable or TimedOut, also if Redis refuses
        this command, which says nothing about the others of its batch."""
        reply = await self._commands.submit(command)
        if isinstance(reply, Exception):
            raise Unavailable("Redis refuses the commands of seat locks.") from reply
        return reply

    async def _execute(self, commands: Sequence[_Command]) -> Sequence[bytes | Exception | None]:
        """Runs concurrent commands in one round trip: one each cost a third of a reservation's CPU
        in this process."""
        if self._paused:  # The previous batch failed: one timeout is enough for all callers.
            raise Unavailable("Redis is unavailable.")
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            command(pipe)
        try:
            async with redis_client.translated_errors(self._client, "Redis is unavailable."):
                replies = await pipe.execute(raise_on_error=False)
        except Unavailable as error:
            self._paused_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
            self._outage.failed(error)
            raise
        refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refused:  # by a server that cannot serve, or by a Redis before version 7
            await redis_client.cannot_serve(self._client, refused)
            self._outage.failed(refused)
        else:
            self._outage.succeeded()
        return replies

    @property
    def _paused(self) -> bool:
        return asyncio.get_running_loop().time() < self._paused_until
