"""The committed events that Kafka has not acknowledged: two columns of their payments.

`unsent` has a flag for each kind of event (`domain.EventKind`) and `unsent_shard` the shard of the
reservation while any flag is set, else NULL. The statement that changes a payment sets them, so
both take effect or neither does; the relay encodes an event again from the row of its payment. See
docs/adr/0048-payments-in-groups.md.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence, Set
from datetime import UTC

from payment_service import events
from payment_service.domain import Event, EventKind
from payment_service.ports import OutboxBatch
from payment_service.rows import COLUMNS, microseconds, payment_from
from servicekit.kafka import hash_of_key
from servicekit.mysql import Connection, Database, Row, Transaction

# The topic has 6 partitions (protos/topics.py), so a shard has events of one partition only, as
# with every divisor of 12. With another number of partitions a shard has events of several, and one
# that is unavailable delays more of the others.
SHARDS = 12

# How many events wait in memory at most: some MB. The others are read from their payments.
MAX_IN_MEMORY = 20_000

# MariaDB skips through the index (see EXPLAIN: "Using index for group-by").
SHARDS_WITH_EVENTS = """
SELECT DISTINCT unsent_shard FROM payment FORCE INDEX (unsent) WHERE unsent_shard IS NOT NULL
"""

# Bounded, because a long outage leaves many, which are read shard by shard then.
SHARDS_WITH_OLD_EVENTS = """
SELECT DISTINCT unsent_shard FROM (
    SELECT unsent_shard FROM payment FORCE INDEX (unsent)
    WHERE unsent_shard IS NOT NULL AND unsent_shard NOT IN %s
      AND updated_at <= NOW(6) - INTERVAL %s MICROSECOND LIMIT 1000
) old
"""

LOCK_SHARDS = "SELECT shard FROM outbox_shard WHERE shard IN %s FOR UPDATE SKIP LOCKED"

# For each shard, because MariaDB then reads the oldest from the index and sorts nothing.
OLDEST_OF_SHARD = f"""
(SELECT {COLUMNS}, unsent_shard, unsent, updated_at FROM payment FORCE INDEX (unsent)
WHERE unsent_shard = %s ORDER BY id LIMIT %s)
"""

UNSENT_OUTCOMES = "SELECT id FROM payment WHERE id IN %s AND unsent & %s"

# MariaDB makes the assignments from left to right. The time of the last change stays that of the
# outcome or the refund: an event that is encoded again has it.
MARK_SENT = """
UPDATE payment SET unsent = unsent & ~%s,
    unsent_shard = IF(unsent = 0, NULL, unsent_shard), updated_at = updated_at
WHERE id IN %s
"""


def key_of(reservation_id: int) -> bytes:
    """Returns the key of a reservation's events in Kafka."""
    return str(reservation_id).encode()


def shard_of(reservation_id: int) -> int:
    """Returns the shard of a reservation's events."""
    return hash_of_key(key_of(reservation_id)) % SHARDS


class CommittedEvents:
    """The events that this process has just committed, in memory, for its relay.

    They are unsent in the database as well: those that do not fit, or are lost with the process,
    are read from there.
    """

    def __init__(self, limit: int = MAX_IN_MEMORY) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        # How many events of each reservation were added and are not done.
        self._in_hand: Counter[int] = Counter()
        self._any = asyncio.Event()

    def add(self, event: Event) -> None:
        """Hands a committed event to the relay; drops it if there are too many."""
        if len(self._events) < self._limit:
            self._events.append(event)
            self._in_hand[event.reservation_id] += 1
            self._any.set()

    def in_hand(self, reservation_id: int) -> bool:
        """Returns whether an event of the reservation waits here, or was taken and is not done."""
        return reservation_id in self._in_hand

    def done(self, events: Sequence[Event]) -> None:
        """Ends the work on events that were taken, whether they were sent or not."""
        for event in events:
            self._in_hand[event.reservation_id] -= 1
            if not self._in_hand[event.reservation_id]:
                del self._in_hand[event.reservation_id]

    async def take(self, limit: int) -> list[Event]:
        """Waits for events; returns the oldest, at least one and at most `limit`. Call `done` with
        them afterwards."""
        await self._any.wait()
        taken = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
        if not self._events:
            self._any.clear()
        return taken


class OutboxRepository:
    """Implements `ports.OutboxStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def oldest(
        self, limit: int, without: Set[int], *, older_than: float
    ) -> AsyncIterator[OutboxBatch]:
        # No transaction for it: most polls find nothing.
        async with self._database.connection() as connection:
            if older_than > 0:
                found = await connection.fetch_all(
                    # No shard is -1: a list of SQL must not be empty.
                    SHARDS_WITH_OLD_EVENTS,
                    [-1, *without],
                    microseconds(older_than),
                )
            else:
                found = await connection.fetch_all(SHARDS_WITH_EVENTS)
        shards = {row.unsent_shard for row in found} - without
        if not shards:
            yield OutboxBatch()
            return
        async with self._locked(shards, limit) as batch:
            yield batch

    @contextlib.asynccontextmanager
    async def oldest_of_each(self, shards: Set[int]) -> AsyncIterator[OutboxBatch]:
        if not shards:
            yield OutboxBatch()
            return
        async with self._locked(shards, len(shards)) as batch:
            yield batch

    async def unsent_outcomes(self, payment_ids: Set[int]) -> Set[int]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(
                UNSENT_OUTCOMES, list(payment_ids), EventKind.OUTCOME.value
            )
        return {row.id for row in rows}

    async def mark_sent(self, events: Sequence[Event]) -> None:
        async def mark(connection: Connection) -> None:
            await _mark_sent(connection, events)

        several_kinds = len({event.kind for event in events}) > 1
        await self._database.run(mark, autocommit=not several_kinds)

    @contextlib.asynccontextmanager
    async def _locked(self, shards: Set[int], limit: int) -> AsyncIterator[OutboxBatch]:
        """Locks these shards, except those that another relay has locked, for the block."""
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch_all(LOCK_SHARDS, list(shards))
            mine = [row.shard for row in rows]
            batch = await _oldest(transaction, mine, limit) if mine else OutboxBatch()
            yield batch
            if batch.published:
                await _mark_sent(transaction, batch.published)


async def _oldest(transaction: Transaction, shards: Sequence[int], limit: int) -> OutboxBatch:
    each = max(1, limit // len(shards))
    values = [value for shard in shards for value in (shard, each)]
    rows = await transaction.fetch_all(" UNION ALL ".join([OLDEST_OF_SHARD] * len(shards)), *values)
    counts = [sum(row.unsent_shard == shard for row in rows) for shard in shards]
    ordered = sorted(rows, key=lambda row: int(row.id))
    return OutboxBatch(
        [event for row in ordered for event in _events_of(row)],
        frozenset(shards),
        full=max(counts) == each,
    )


async def _mark_sent(connection: Connection, sent: Sequence[Event]) -> None:
    statements = []
    for kind in EventKind:
        ids = sorted(event.payment_id for event in sent if event.kind is kind)
        if ids:
            statements.append((MARK_SENT, kind.value, ids))
    await connection.execute_together(*statements)


def _events_of(row: Row) -> list[Event]:
    at = row.updated_at.replace(tzinfo=UTC)
    return events.unsent(payment_from(row), EventKind(row.unsent), at)
