"""Writes of several payments at the same step, as one group.

While a group is being written, the payments that arrive at the step wait and form the next one; a
payment that arrives alone is written at once. A group is all or nothing, and it waits for no row
that another transaction has locked. If MariaDB refuses it, each item is written again by its own
caller, so that only the culprit fails or waits. See docs/adr/0048-payments-in-groups.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from servicekit import call_context, logs
from servicekit.batching import Batcher
from servicekit.mysql import DatabaseError, Statement, StatementRefused, TransactionAborted
from servicekit.retries import call_pause

log = logs.get(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_GROUP = 64
# Two, so that a payment need not wait for the commit before its own.
MAX_IN_FLIGHT = 2
# How long an item waits for its result, in seconds. The callers' own deadlines may be shorter.
GROUP_SECONDS = 5.0
# How long an item tries to get a locked row, in seconds; less than a payment's lease. It occupies a
# connection for at most LOCK_WAIT_SECONDS at a time, and few items of a step do so at once: the
# others need the connections.
PATIENCE_SECONDS = 8.0
LOCK_WAIT_SECONDS = 1
MAX_PATIENT = 2


class _Refused(Exception):
    """MariaDB has refused a group and has committed nothing of it."""


class Groups(Generic[Item, Result]):
    """The writes of one step.

    `write` gets items, at least one, and how long its statements may wait for a lock, in seconds.
    It tries once to write them in one transaction, and returns their results in order. Its
    statements are `hasty`.
    """

    def __init__(self, write: Callable[[Sequence[Item], int], Awaitable[Sequence[Result]]]) -> None:
        self._write = write
        self._patient = asyncio.Semaphore(MAX_PATIENT)
        self._batcher: Batcher[Item, Result] = Batcher(
            self._write_group,
            budget=GROUP_SECONDS,
            max_batch=MAX_GROUP,
            max_in_flight=MAX_IN_FLIGHT,
            direct=True,
        )

    async def submit(self, item: Item) -> Result:
        """Returns the result of one item. Raises what `write` raises for it, and what
        `Batcher.submit` raises; TransactionAborted if a row stays locked for PATIENCE_SECONDS or
        for the call's deadline."""
        try:
            return await self._batcher.submit(item)
        except _Refused:
            pass
        # By its own caller, so that none waits for another item.
        try:
            [result] = await self._write([item], 0)
        except TransactionAborted:
            return await self._write_patiently(item)
        return result

    async def _write_patiently(self, item: Item) -> Result:
        clock = asyncio.get_running_loop().time
        until = clock() + call_context.remaining(PATIENCE_SECONDS)
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout_at(until):
                    await self._patient.acquire()
            except TimeoutError:
                raise TransactionAborted from None
            try:
                [result] = await self._write([item], LOCK_WAIT_SECONDS)
                return result
            except TransactionAborted:
                if clock() >= until:
                    raise
            finally:
                self._patient.release()
            # An aborted transaction has not waited; its rival should end first.
            await asyncio.sleep(call_pause(attempt))

    async def _write_group(self, items: Sequence[Item]) -> Sequence[Result]:
        try:
            return await self._write(items, 0)
        except (TransactionAborted, StatementRefused) as error:
            # Also if it is alone: its caller waits for the row, and the next group does not.
            log.info("group_refused", items=len(items), error=type(error).__name__)
            raise _Refused from error
        except DatabaseError as error:
            if len(items) == 1:
                raise
            # A TimeoutError leaves open what was committed, so it fails the group.
            log.info("group_refused", items=len(items), error=type(error).__name__)
            raise _Refused from error


def hasty(statement: Statement, lock_wait: int) -> Statement:
    """Returns the statement with a wait for locks of at most `lock_wait` seconds."""
    sql, *values = statement
    return (f"SET STATEMENT innodb_lock_wait_timeout = {lock_wait:d} FOR {sql}", *values)
