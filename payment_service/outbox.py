"""How an event gets into the outbox, in the transaction of its payment, and out to the relay."""

from payment_service.domain import Event
from servicekit.mysql import Statement, Transaction

SHARDS = 16


def put_in_outbox(event: Event, condition: str, *values: object) -> Statement:
    """Puts the event of a change into the outbox, if the statement sent along with it makes the
    change next: both go by the same `condition`, and this one locks the payment.

    The other way round the event would go by ROW_COUNT(), which is wrong once we have gone away
    meanwhile, and then a change is committed without its event.
    """
    # aiomysql 0.3.2 cannot pass bytes with pymysql 1.2, so the payload goes as hex digits.
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
    """The relay's side of the outbox: inside one transaction, `lock_batch`, publish, `delete`."""

    async def lock_batch(self, transaction: Transaction, limit: int) -> list[tuple[int, Event]]:
        """The oldest unsent events of the shards that no other relay is sending."""
        busy = await transaction.fetch_all("SELECT DISTINCT shard FROM outbox")
        if not busy:
            return []
        mine = await transaction.fetch_all(
            """SELECT shard FROM outbox_shard
            WHERE shard IN %s FOR UPDATE SKIP LOCKED""",
            [shard for (shard,) in busy],
        )
        if not mine:
            return []
        rows = await transaction.fetch_all(
            """SELECT id, event_id, reservation_id, payment_id, payload FROM outbox
            WHERE shard IN %s ORDER BY id LIMIT %s""",
            [shard for (shard,) in mine],
            limit,
        )
        return [(row[0], Event(*row[1:])) for row in rows]

    async def delete(self, transaction: Transaction, ids: list[int]) -> None:
        """Drops events that Kafka has acknowledged."""
        await transaction.execute("DELETE FROM outbox WHERE id IN %s", ids)
