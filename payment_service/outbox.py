"""The SQL statements on the outbox: writing an event with its payment, and the relay's."""

from payment_service.domain import Event
from servicekit.mysql import Statement, Transaction

SHARDS = 16


def put_in_outbox(event: Event, condition: str, *values: object) -> Statement:
    """Returns a statement that writes an event into the outbox if the payment matches `condition`,
    whose values are `values`. It locks the payment.

    Send it in one transaction with the change of the payment, before it and with the same
    condition, so that both take effect or neither does. In the other order, with ROW_COUNT() as
    the condition, a connection that is lost between the two would commit a change without its
    event (docs/adr/0018-statements-travel-together.md).
    """
    # aiomysql 0.3.2 cannot escape bytes with PyMySQL 1.2, so the payload travels as hex digits.
    return (
        f"""INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload)
        SELECT %s, %s, %s, %s, UNHEX(%s) FROM payment WHERE {condition} FOR UPDATE""",
        event.reservation_id % SHARDS,
        event.event_id,
        event.reservation_id,
        event.payment_id,
        event.payload.hex(),
        *values,
    )


class Outbox:
    """The outbox as the relay uses it, in one transaction: `lock_batch`, publish, `delete`."""

    async def lock_batch(self, transaction: Transaction, limit: int) -> list[tuple[int, Event]]:
        """Returns the oldest unsent events, at most `limit`, each with its row id. Locks their
        shards; skips the shards that another relay has locked."""
        busy = await transaction.fetch_all("SELECT DISTINCT shard FROM outbox")
        if not busy:
            return []
        mine = await transaction.fetch_all(
            """SELECT shard FROM outbox_shard
            WHERE shard IN %s FOR UPDATE SKIP LOCKED""",
            [row.shard for row in busy],
        )
        if not mine:
            return []
        rows = await transaction.fetch_all(
            """SELECT id, event_id, reservation_id, payment_id, payload FROM outbox
            WHERE shard IN %s ORDER BY id LIMIT %s""",
            [row.shard for row in mine],
            limit,
        )
        return [
            (
                row.id,
                Event(
                    event_id=row.event_id,
                    reservation_id=row.reservation_id,
                    payment_id=row.payment_id,
                    payload=row.payload,
                ),
            )
            for row in rows
        ]

    async def delete(self, transaction: Transaction, ids: list[int]) -> None:
        """Deletes the rows of events that Kafka has acknowledged."""
        await transaction.execute("DELETE FROM outbox WHERE id IN %s", ids)
