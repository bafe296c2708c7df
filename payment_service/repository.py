"""The SQL statements on payments after their creation, which `orders.py` has.

Those of the relay are in `outbox.py`, those that republish outcomes after a restore in
`republish_repository.py`. All times are the database's, so that replicas need no common clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from payment_service.domain import DECLINES, Attempt, Event, EventKind, Outcome, Payment, PayOrder
from payment_service.errors import ChargeAmountDiffers
from payment_service.groups import Groups, hasty
from payment_service.orders import SOON, OrderRepository
from payment_service.outbox import CommittedEvents, shard_of
from payment_service.rows import COLUMNS, get, microseconds, payment_from
from servicekit.mysql import Connection, Database, Row, Statement

# A driver that paused for longer than its lease no longer matches: `attempts` has increased.
DRIVEN_BY_US = "id = %s AND status = 'INITIATED' AND attempts = %s"

LATEST_TO_REPORT = f"""
SELECT {COLUMNS} FROM payment
WHERE reservation_id = %s AND user_id = %s
  AND (status <> 'FAILED' OR (failure_code IN %s AND NOT outcome_told))
ORDER BY id DESC LIMIT 1
"""

PAID_BY_ANOTHER = """
SELECT id FROM payment
WHERE reservation_id = %s AND user_id <> %s AND amount IS NOT NULL LIMIT 1
"""

RECORD_OUTCOME = f"""
UPDATE payment SET status = %s, amount = %s, failure_code = %s, decline_reason = %s,
    amount_due = %s, currency = %s, unsent = %s, unsent_shard = %s
WHERE {DRIVEN_BY_US}
"""

GIVE_UP = (
    f"UPDATE payment SET failure_code = %s, amount_due = %s, currency = %s WHERE {DRIVEN_BY_US}"
)

RECORD_REFUND = f"""
UPDATE payment SET status = 'REFUNDED', unsent = unsent | {EventKind.REFUND.value},
    unsent_shard = %s
WHERE id = %s AND status = 'SUCCEEDED'
"""

MARK_DECLINE_RETURNED = "UPDATE payment SET outcome_told = TRUE WHERE id = %s"

PARK = f"""
UPDATE payment SET driven_until = {SOON}, amount_due = %s, currency = %s WHERE {DRIVEN_BY_US}
"""

UNFINISHED = f"""
SELECT {COLUMNS} FROM payment
WHERE status = 'INITIATED' AND driven_until <= NOW(6)
ORDER BY driven_until LIMIT %s FOR UPDATE SKIP LOCKED
"""

# Few payments have an unsent event, while their number only grows.
UNPUBLISHED = """
SELECT id FROM payment FORCE INDEX (unsent)
WHERE unsent_shard IS NOT NULL AND updated_at <= NOW(6) - INTERVAL %s MICROSECOND
  AND status = 'SUCCEEDED' AND driven_until <= NOW(6)
ORDER BY driven_until LIMIT %s
"""

LOCK_UNCLAIMED = f"""
SELECT {COLUMNS} FROM payment
WHERE id IN %s AND driven_until <= NOW(6)
FOR UPDATE SKIP LOCKED
"""

# The time of the last change is that of an event that may be unsent.
CLAIM = f"""
UPDATE payment SET driven_until = {SOON}, attempts = attempts + 1, updated_at = updated_at
WHERE id IN %s
"""

DISCARD_REJECTED = f"DELETE FROM payment WHERE {DRIVEN_BY_US}"

# Payments that moved money, or have an unsent event, stay. `driven_until` is at most minutes after
# the end of a payment and has an index; `updated_at` changes when a decline is returned, which may
# be with a new key.
REMOVE_FAILED = """
DELETE FROM payment
WHERE status = 'FAILED' AND driven_until < NOW(6) - INTERVAL %s DAY
  AND updated_at < NOW(6) - INTERVAL %s DAY AND failure_code <> %s AND unsent_shard IS NULL
ORDER BY driven_until LIMIT %s
"""

# Bounded, because it is asked again and again while Kafka is unavailable, and reads each row.
COUNT_UNSENT = """
SELECT COUNT(*) + COALESCE(SUM(unsent = 3), 0) AS unsent FROM (
    SELECT unsent FROM payment FORCE INDEX (unsent) WHERE unsent_shard IS NOT NULL LIMIT %s
) some
"""

COUNT_UNREFUNDED = """
SELECT COUNT(*) AS unrefunded FROM payment WHERE status = 'INITIATED' AND failure_code = %s
"""


# Payments. To count them takes some 20 ms.
MOST_COUNTED = 20_000


@dataclass(frozen=True)
class _End:
    payment: Payment
    outcome: Outcome
    event: Event | None

    @property
    def statement(self) -> Statement:
        outcome, event, payment = self.outcome, self.event, self.payment
        return (
            RECORD_OUTCOME,
            outcome.status,
            outcome.amount,
            outcome.failure_code,
            outcome.decline_reason,
            payment.amount_due,
            payment.currency,
            0 if event is None else event.kind.value,
            None if event is None else shard_of(event.reservation_id),
            payment.id,
            payment.attempts,
        )


class PaymentRepository:
    """Implements `ports.PaymentStore` in MariaDB. Hands each event to `committed` after its commit,
    so that the relay sends it at once. Outcomes are recorded in groups."""

    def __init__(self, database: Database, committed: CommittedEvents) -> None:
        self._database = database
        self._committed = committed
        self._orders = OrderRepository(database)
        self._ends = Groups(self._end)

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        return await self._orders.create_payment(order, lease_seconds, answer_seconds)

    async def release_key(self, order: PayOrder) -> None:
        await self._orders.release_key(order)

    async def remember_rejection(self, order: PayOrder, failure_code: str) -> None:
        await self._orders.remember_rejection(order, failure_code)

    async def delete_old_keys(self, older_than_hours: float) -> None:
        await self._orders.delete_old_keys(older_than_hours)

    async def get_payment(self, payment_id: int) -> Payment | None:
        async with self._database.connection() as connection:
            return await get(connection, payment_id)

    async def latest_payment(self, reservation_id: int, user_id: int) -> Payment | None:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(
                LATEST_TO_REPORT, reservation_id, user_id, list(DECLINES)
            )
        return payment_from(row) if row else None

    async def paid_by_another(self, reservation_id: int, user_id: int) -> bool:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(PAID_BY_ANOTHER, reservation_id, user_id)
        return row is not None

    async def record_outcome(
        self, payment: Payment, outcome: Outcome, event: Event | None
    ) -> Payment:
        if await self._ends.submit(_End(payment, outcome, event)):
            return replace(
                payment,
                status=outcome.status,
                amount=outcome.amount,
                failure_code=outcome.failure_code,
                decline_reason=outcome.decline_reason,
            )
        now = await self.get_payment(payment.id)
        assert now is not None, "only its driver could have deleted it"
        return now

    async def discard_rejected(self, payment: Payment) -> bool:
        async def discard(connection: Connection) -> int:
            return await connection.execute(DISCARD_REJECTED, payment.id, payment.attempts)

        return await self._database.run(discard, autocommit=True) > 0

    async def give_up(self, payment: Payment, failure_code: str) -> bool:
        async with self._database.connection() as connection:
            matched = await connection.execute(
                GIVE_UP,
                failure_code,
                payment.amount_due,
                payment.currency,
                payment.id,
                payment.attempts,
            )
        return matched > 0

    async def record_refund(self, payment_id: int, event: Event) -> None:
        async def refund(connection: Connection) -> int:
            shard = shard_of(event.reservation_id)
            return await connection.execute(RECORD_REFUND, shard, payment_id)

        if await self._database.run(refund, autocommit=True):
            self._committed.add(event)

    async def mark_decline_returned(self, payment_id: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute(MARK_DECLINE_RETURNED, payment_id)

    async def park(self, payment: Payment, seconds: float) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                PARK,
                microseconds(seconds),
                payment.amount_due,
                payment.currency,
                payment.id,
                payment.attempts,
            )

    async def claim_unfinished(self, *, lease_seconds: float, limit: int) -> Sequence[Payment]:
        async def claim(connection: Connection) -> Sequence[Payment]:
            rows = await connection.fetch_all(UNFINISHED, limit)
            return await _take(connection, rows, lease_seconds)

        return await self._database.run(claim)

    async def claim_unpublished(
        self, *, older_than: float, lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        async def claim(connection: Connection) -> Sequence[Payment]:
            waiting = await connection.fetch_all(UNPUBLISHED, microseconds(older_than), limit)
            if not waiting:
                return []
            rows = await connection.fetch_all(LOCK_UNCLAIMED, [row.id for row in waiting])
            return await _take(connection, rows, lease_seconds)

        return await self._database.run(claim)

    async def remove_failed(self, older_than_days: int, limit: int) -> int:
        async with self._database.connection() as connection:
            return await connection.execute(
                REMOVE_FAILED, older_than_days, older_than_days, ChargeAmountDiffers.code, limit
            )

    async def count_unsent(self) -> int:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(COUNT_UNSENT, MOST_COUNTED)
        return int(row.unsent) if row else 0

    async def count_unrefunded(self) -> int:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(COUNT_UNREFUNDED, ChargeAmountDiffers.code)
        return int(row.unrefunded) if row else 0

    async def _end(self, ends: Sequence[_End], lock_wait: int) -> Sequence[bool]:
        """Records outcomes in one transaction; returns for each whether its payment was unfinished
        and its driver's."""
        if len(ends) == 1:
            # One statement commits by itself.
            async with self._database.connection() as connection:
                results = await connection.execute_together(hasty(ends[0].statement, lock_wait))
            matched = [bool(result.matched) for result in results]
        else:
            # In one order, so that two groups do not wait for each other.
            order = sorted(range(len(ends)), key=lambda index: ends[index].payment.id)
            async with self._database.connection() as connection:
                _, *results, _ = await connection.execute_together(
                    ("BEGIN",),
                    *(hasty(ends[index].statement, lock_wait) for index in order),
                    ("COMMIT",),
                )
            by_index = dict(zip(order, results, strict=True))
            matched = [bool(by_index[index].matched) for index in range(len(ends))]
        for end, recorded in zip(ends, matched, strict=True):
            if recorded and end.event is not None:
                self._committed.add(end.event)
        return matched


async def _take(connection: Connection, rows: Sequence[Row], lease_seconds: float) -> list[Payment]:
    payments = [payment_from(row) for row in rows]
    if payments:
        ids = [payment.id for payment in payments]
        await connection.execute(CLAIM, microseconds(lease_seconds), ids)
    return [replace(payment, attempts=payment.attempts + 1) for payment in payments]
