"""The Redis lock a seat. It spares the database a crowd on one seat; it decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import redis.exceptions
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

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

# Adds a command to a pipeline.
_Command = Callable[[Pipeline], Any]


class RedisSeatLocks:
    """Locks that end by themselves after `lock_seconds`.

    `client` must not wait longer than 100 ms for anything. While Redis is away, seats are handed
    out without a lock.
    """

    def __init__(self, client: Redis, *, lock_seconds: float) -> None:
        self._client = client
        self._commands: list[tuple[_Command, asyncio.Future[bytes | None]]] = []
        self._sending: asyncio.Task[None] | None = None
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
            other = await self._send(
                lambda pipe: pipe.set(key, holder, nx=True, px=self._milliseconds, get=True)
            )
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            log.warning("reserving without seat locks", error=type(error).__name__)
            self._paused_until = now() + PAUSE_SECONDS
            SKIPPED.inc()
            yield None
            return
        except asyncio.CancelledError:
            # It may be set all the same: unlocked behind it, by whoever sends.
            self._queue(lambda pipe: pipe.eval(UNLOCK, 1, key, holder)).add_done_callback(_forget)
            raise
        if other is not None:
            yield other.decode()
            return
        try:
            yield None
        finally:
            try:
                await self._send(lambda pipe: pipe.eval(UNLOCK, 1, key, holder))
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                # It ends by itself soon.
                log.warning("a seat lock was left behind", error=type(error).__name__)
                self._paused_until = now() + PAUSE_SECONDS

    async def _send(self, command: _Command) -> bytes | None:
        """The reply to one command, which shares its round trip with those of others: while one
        is under way, they are collected for the next. Each alone, they were a third of what a
        reservation took of this process."""
        return await self._queue(command)

    def _queue(self, command: _Command) -> asyncio.Future[bytes | None]:
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._commands.append((command, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        return answer

    async def _send_all(self) -> None:
        """Sends until nobody waits. A failure is that of all who wait: one time-out is enough."""
        batch: list[tuple[_Command, asyncio.Future[bytes | None]]] = []
        try:
            while self._commands:
                batch, self._commands = self._commands, []
                pipe = self._client.pipeline(transaction=False)
                for command, _ in batch:
                    command(pipe)
                try:
                    replies = await pipe.execute(raise_on_error=False)
                except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                    batch += self._commands
                    self._commands = []
                    replies = [error] * len(batch)
                for (_, answer), reply in zip(batch, replies, strict=True):
                    if answer.done():  # its caller has gone away
                        continue
                    if isinstance(reply, Exception):
                        answer.set_exception(reply)
                    else:
                        answer.set_result(reply)
        finally:
            # If it was cancelled: nobody else would answer them.
            for _, answer in (*batch, *self._commands):
                answer.cancel()
            self._commands = []
            self._sending = None


def _forget(answer: asyncio.Future[bytes | None]) -> None:
    """A lock that stays behind ends by itself soon."""
    if not answer.cancelled():
        answer.exception()
