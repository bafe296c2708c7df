"""Writes of several payments at the same step, as one group.

While a group is being written, the payments that arrive at the step wait and form the next one; a
payment that arrives alone is written at once. A group is all or nothing. If MariaDB refuses it,
each item is written again by itself, so that only the culprit fails. See
docs/adr/0048-payments-in-groups.md.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from servicekit import call_context, logs
from servicekit.batching import Batcher
from servicekit.mysql import DatabaseError, Statement, StatementRefused, TransactionAborted

log = logs.get(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_GROUP = 64
# Two, so that a group that waits for a lock does not hold up all others.
MAX_IN_FLIGHT = 2
# How long an item waits for its group to start, in seconds, and how long a group may take. The
# callers' own deadlines may be shorter.
GROUP_SECONDS = 5.0
# A group of several gives up on a locked row after this long; the items that do not need the row
# are then written without it.
LOCK_WAIT_SECONDS = 1


class _Refused(Exception):
    """MariaDB has refused a group of several and has committed nothing of it."""


class Groups(Generic[Item, Result]):
    """The writes of one step. `write` writes its items, at least one, in one transaction, and
    returns their results in order; with several items its statements should be `hasty`."""

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._write = write
        self._batcher: Batcher[Item, Result] = Batcher(
            self._write_group,
            budget=GROUP_SECONDS,
            max_batch=MAX_GROUP,
            max_in_flight=MAX_IN_FLIGHT,
            direct=True,
        )

    async def submit(self, item: Item) -> Result:
        """Returns the result of one item. Raises what `write` raises for it, and what
        `Batcher.submit` raises."""
        try:
            return await self._batcher.submit(item)
        except _Refused:
            # By its own caller, so that none waits for another item.
            [result] = await self._write([item])
            return result

    async def _write_group(self, items: Sequence[Item]) -> Sequence[Result]:
        if len(items) > 1:
            # It runs in the context of its first caller, whose deadline is not that of the others.
            call_context.set_deadline(GROUP_SECONDS)
        try:
            return await self._write(items)
        except (DatabaseError, TransactionAborted, StatementRefused) as error:
            if len(items) == 1:
                raise
            # A TimeoutError leaves open what was committed, so it fails the group.
            log.info("group_written_one_by_one", items=len(items), error=type(error).__name__)
            raise _Refused from error


def hasty(statement: Statement) -> Statement:
    """Returns the statement with a short wait for locks."""
    sql, *values = statement
    return (f"SET STATEMENT innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS} FOR {sql}", *values)
