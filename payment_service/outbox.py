"""The SQL statements on the outbox: writing an event with its payment, and the relay's."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from payment_service.domain import Event
from servicekit.mysql import Database, Statement, Transaction

SHARDS = 16

# aiomysql 0.3.2 cannot escape bytes with PyMySQL 1.2, so the payload travels as hex digits.
PUT_IF = """
INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload)
SELECT %s, %s, %s, %s, UNHEX(%s) FROM payment WHERE {condition} FOR UPDATE
"""

SHARDS_WITH_EVENTS = "SELECT DISTINCT shard FROM outbox"

LOCK_SHARDS = "SELECT shard FROM outbox_shard WHERE shard IN %s FOR UPDATE SKIP LOCKED"

OLDEST = """
SELECT id, event_id, reservation_id, payment_id, payload FROM outbox
WHERE shard IN %s ORDER BY id LIMIT %s
"""

DELETE = "DELETE FROM outbox WHERE id IN %s"


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
        event.reservation_id % SHARDS,
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
    async def batch(self, limit: int) -> AsyncIterator[Sequence[Event]]:
        async with self._database.transaction() as transaction:
            events = await _lock_oldest(transaction, limit)
            yield list(events.values())
            if events:
                await transaction.execute(DELETE, list(events))


async def _lock_oldest(transaction: Transaction, limit: int) -> dict[int, Event]:
    """Returns the oldest events by row id. Locks their shards; skips the shards that another relay
    has locked."""
    busy = await transaction.fetch_all(SHARDS_WITH_EVENTS)
    if not busy:
        return {}
    mine = await transaction.fetch_all(LOCK_SHARDS, [row.shard for row in busy])
    if not mine:
        return {}
    rows = await transaction.fetch_all(OLDEST, [row.shard for row in mine], limit)
    return {
        row.id: Event(
            event_id=row.event_id,
            reservation_id=row.reservation_id,
            payment_id=row.payment_id,
            payload=row.payload,
        )
        for row in rows
    }
