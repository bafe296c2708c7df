"""The SQL statements on the outbox: writing an event with its payment, and the relay's."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence, Set

from payment_service.domain import Event, OutboxRow
from payment_service.ports import OutboxBatch
from servicekit.kafka import hash_of_key
from servicekit.mysql import Database, Row, Statement, Transaction

# The topic has 6 partitions (protos/topics.py), so a shard has events of one partition only, as
# with every divisor of 12. With another number of partitions a shard has events of several, and one
# that is unavailable delays more of the others.
SHARDS = 12

# aiomysql 0.3.2 cannot escape bytes with PyMySQL 1.2, so the payload travels as hex digits.
PUT_IF = """
INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload)
SELECT %s, %s, %s, %s, UNHEX(%s) FROM payment WHERE {condition} FOR UPDATE
"""

SHARDS_WITH_EVENTS = "SELECT DISTINCT shard FROM outbox"

LOCK_SHARDS = "SELECT shard FROM outbox_shard WHERE shard IN %s FOR UPDATE SKIP LOCKED"

COLUMNS = "id, shard, event_id, reservation_id, payment_id, payload"

OLDEST = f"SELECT {COLUMNS} FROM outbox WHERE shard IN %s ORDER BY id LIMIT %s"

OLDEST_OF_EACH = f"""
SELECT {COLUMNS} FROM outbox
WHERE id IN (SELECT MIN(id) FROM outbox WHERE shard IN %s GROUP BY shard) ORDER BY id
"""

DELETE = "DELETE FROM outbox WHERE id IN %s"


def key_of(reservation_id: int) -> bytes:
    """Returns the key of a reservation's events in Kafka."""
    return str(reservation_id).encode()


def shard_of(reservation_id: int) -> int:
    """Returns the shard of a reservation's events."""
    return hash_of_key(key_of(reservation_id)) % SHARDS


def put_in_outbox(event: Event, condition: str, *values: object) -> Statement:
    """Returns a statement that writes an event into the outbox if the payment matches `condition`,
    whose values are `values`. It locks the payment.

    Send it in one transaction with the change of the payment, before it and with the same
    condition, so that both take effect or neither does. In the other order, with ROW_COUNT() as
    the condition, a connection that is lost between the two would commit a change without its
    event (docs/adr/0018-statements-travel-together.md).
    """
    return (
        PUT_IF.format(condition=condition),
        shard_of(event.reservation_id),
        event.event_id,
        event.reservation_id,
        event.payment_id,
        event.payload.hex(),
        *values,
    )


class OutboxRepository:
    """Implements `ports.OutboxStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def oldest(self, limit: int, without: Set[int]) -> AsyncIterator[OutboxBatch]:
        # No transaction for it: most polls of an idle service find nothing.
        async with self._database.connection() as connection:
            busy = await connection.fetch_all(SHARDS_WITH_EVENTS)
        shards = {row.shard for row in busy} - without
        if not shards:
            yield OutboxBatch([])
            return
        async with self._database.transaction() as transaction:
            mine = await _lock(transaction, shards)
            batch = _batch(await transaction.fetch_all(OLDEST, mine, limit) if mine else [])
            yield batch
            await _delete_published(transaction, batch)

    @contextlib.asynccontextmanager
    async def oldest_of_each(self, shards: Set[int]) -> AsyncIterator[OutboxBatch]:
        async with self._database.transaction() as transaction:
            mine = await _lock(transaction, shards)
            batch = _batch(await transaction.fetch_all(OLDEST_OF_EACH, mine) if mine else [])
            yield batch
            await _delete_published(transaction, batch)


async def _lock(transaction: Transaction, shards: Collection[int]) -> list[int]:
    """Locks these shards, except those that another relay has locked. Returns the locked ones."""
    if not shards:
        return []
    rows = await transaction.fetch_all(LOCK_SHARDS, list(shards))
    return [row.shard for row in rows]


async def _delete_published(transaction: Transaction, batch: OutboxBatch) -> None:
    if batch.published:
        await transaction.execute(DELETE, list(batch.published))


def _batch(rows: Sequence[Row]) -> OutboxBatch:
    return OutboxBatch(
        [
            OutboxRow(
                row.id,
                row.shard,
                Event(
                    event_id=row.event_id,
                    reservation_id=row.reservation_id,
                    payment_id=row.payment_id,
                    payload=row.payload,
                ),
            )
            for row in rows
        ]
    )
