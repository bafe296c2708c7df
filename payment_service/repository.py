"""The SQL statements on payments and idempotency keys.

Those on the outbox are in `outbox.py`, those that republish outcomes after a restore in
`republish_repository.py`. All times are the database's, so that replicas need no common clock.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

from payment_service.domain import (
    DECLINES,
    FINAL_FAILURES,
    Admission,
    Attempt,
    ChargeAmountDiffers,
    Event,
    IdempotencyKeyReused,
    Outcome,
    Payment,
    PayOrder,
    RequestInProgress,
    Status,
)
from payment_service.outbox import put_in_outbox
from servicekit.errors import Unavailable
from servicekit.mysql import Connection, Database, DuplicateKey, Row

# The unique key refuses one of two concurrent orders for a reservation. The next attempt of the
# refused order finds the payment of the other.
CREATE_ATTEMPTS = 5

# `outcome_told` is the stored name of `Payment.decline_returned`.
COLUMNS = """
id, reservation_id, user_id, status, amount, failure_code, outcome_told, room, place_number,
failed_payment_id, attempts, created_at, amount_due
"""

SOON = "NOW(6) + INTERVAL %s MICROSECOND"

# A driver that paused for longer than its lease no longer matches: `attempts` has increased.
DRIVEN_BY_US = "id = %s AND status = 'INITIATED' AND attempts = %s"

CHARGED = "id = %s AND status = 'SUCCEEDED'"

GET = f"SELECT {COLUMNS} FROM payment WHERE id = %s"

LATEST_ID = """
SELECT id FROM payment WHERE reservation_id = %s AND user_id = %s ORDER BY id DESC LIMIT 1
"""

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

INSERT = f"""
INSERT INTO payment
    (reservation_id, user_id, room, place_number, failed_payment_id, driven_until)
VALUES (%s, %s, %s, %s, %s, {SOON})
RETURNING id, created_at
"""

RECORD_OUTCOME = f"""
UPDATE payment SET status = %s, amount = %s, failure_code = %s, amount_due = %s
WHERE {DRIVEN_BY_US}
"""

GIVE_UP = f"UPDATE payment SET failure_code = %s, amount_due = %s WHERE {DRIVEN_BY_US}"

RECORD_REFUND = f"UPDATE payment SET status = 'REFUNDED' WHERE {CHARGED}"

MARK_DECLINE_RETURNED = "UPDATE payment SET outcome_told = TRUE WHERE id = %s"

PARK = f"UPDATE payment SET driven_until = {SOON}, amount_due = %s WHERE {DRIVEN_BY_US}"

UNFINISHED = f"""
SELECT {COLUMNS} FROM payment
WHERE status = 'INITIATED' AND driven_until <= NOW(6)
ORDER BY driven_until LIMIT %s FOR UPDATE SKIP LOCKED
"""

# From the outbox, which is short, to the payments, whose number only grows.
UNPUBLISHED = """
SELECT DISTINCT p.id, p.driven_until
FROM outbox o STRAIGHT_JOIN payment p ON p.id = o.payment_id
WHERE o.created_at <= NOW(6) - INTERVAL %s MICROSECOND
  AND p.status = 'SUCCEEDED' AND p.driven_until <= NOW(6)
ORDER BY p.driven_until LIMIT %s
"""

LOCK_UNCLAIMED = f"""
SELECT {COLUMNS} FROM payment
WHERE id IN %s AND driven_until <= NOW(6)
FOR UPDATE SKIP LOCKED
"""

CLAIM = f"UPDATE payment SET driven_until = {SOON}, attempts = attempts + 1 WHERE id IN %s"

DISCARD_REJECTED = f"DELETE FROM payment WHERE {DRIVEN_BY_US}"

PAYMENT_OF_KEY = """
SELECT reservation_id, payment_id, failure_code, created_at,
       COALESCE(in_flight_until > NOW(6), FALSE) AS in_flight
FROM idempotency_key WHERE user_id = %s AND idem_key = %s FOR UPDATE
"""

INSERT_KEY = f"""
INSERT INTO idempotency_key (in_flight_until, reservation_id, payment_id, user_id, idem_key)
VALUES ({SOON}, %s, %s, %s, %s)
"""

UPDATE_KEY = f"""
UPDATE idempotency_key SET in_flight_until = {SOON}, payment_id = %s
WHERE user_id = %s AND idem_key = %s
"""

RELEASE_KEY = """
UPDATE idempotency_key SET in_flight_until = NULL WHERE user_id = %s AND idem_key = %s
"""

REMEMBER_REJECTION = """
UPDATE idempotency_key SET in_flight_until = NULL, failure_code = %s
WHERE user_id = %s AND idem_key = %s
"""

DELETE_OLD_KEYS = """
DELETE FROM idempotency_key WHERE created_at < NOW(6) - INTERVAL %s MICROSECOND LIMIT 1000
"""

# Payments that moved money stay. `driven_until` is at most minutes after the end of a payment and
# has an index; `updated_at` changes when a decline is returned, which may be with a new key.
REMOVE_FAILED = """
DELETE FROM payment
WHERE status = 'FAILED' AND driven_until < NOW(6) - INTERVAL %s DAY
  AND updated_at < NOW(6) - INTERVAL %s DAY AND failure_code <> %s
ORDER BY driven_until LIMIT %s
"""

COUNT_UNSENT = "SELECT COUNT(*) AS unsent FROM outbox"

COUNT_UNREFUNDED = """
SELECT COUNT(*) AS unrefunded FROM payment WHERE status = 'INITIATED' AND failure_code = %s
"""


class PaymentRepository:
    """Implements `ports.PaymentStore` in MariaDB. Sets `committed` after each commit of an event,
    so that the relay sends it at once."""

    def __init__(self, database: Database, committed: asyncio.Event) -> None:
        self._database = database
        self._committed = committed

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        async def create(connection: Connection) -> Attempt:
            if not order.idempotency_key:
                return await _create_or_find(connection, order, lease_seconds)
            key = await connection.fetch_one(PAYMENT_OF_KEY, order.user_id, order.idempotency_key)
            known = await _payment_of_key(connection, order, key) if key else None
            # Without a payment: it was rejected a moment ago, or with a failure that is not final.
            if key and key.in_flight and (known is None or not known.finished):
                raise RequestInProgress("A request with this idempotency key is in progress.")
            if known is None or (
                known.status is Status.FAILED and known.failure_code not in FINAL_FAILURES
            ):
                attempt = await _create_or_find(connection, order, lease_seconds)
            else:
                attempt = Attempt(known, created=False)
            if not (known and attempt.payment.finished):
                await _use_key(connection, order, attempt, answer_seconds, insert=key is None)
            return attempt

        for _ in range(CREATE_ATTEMPTS):
            try:
                # Without a key the INSERT alone is the transaction: the read before it takes no
                # lock, and the unique key decides, inside a transaction or not.
                return await self._database.run(create, autocommit=not order.idempotency_key)
            except DuplicateKey:
                continue
        raise Unavailable("Too many requests for this reservation at once.")

    async def release_key(self, order: PayOrder) -> None:
        async with self._database.connection() as connection:
            await connection.execute(RELEASE_KEY, order.user_id, order.idempotency_key)

    async def remember_rejection(self, order: PayOrder, failure_code: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                REMEMBER_REJECTION, failure_code, order.user_id, order.idempotency_key
            )

    async def get_payment(self, payment_id: int) -> Payment | None:
        async with self._database.connection() as connection:
            return await _get(connection, payment_id)

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
        driven_by_us = (payment.id, payment.attempts)
        end = (
            RECORD_OUTCOME,
            outcome.status,
            outcome.amount,
            outcome.failure_code,
            payment.amount_due,
            *driven_by_us,
        )
        publish = [put_in_outbox(event, DRIVEN_BY_US, *driven_by_us)] if event is not None else []
        *_, ended = await self._database.execute_transaction(*publish, end)
        self._committed.set()
        if ended.matched:
            return replace(
                payment,
                status=outcome.status,
                amount=outcome.amount,
                failure_code=outcome.failure_code,
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
                GIVE_UP, failure_code, payment.amount_due, payment.id, payment.attempts
            )
        return matched > 0

    async def record_refund(self, payment_id: int, event: Event) -> None:
        await self._database.execute_transaction(
            put_in_outbox(event, CHARGED, payment_id),
            (RECORD_REFUND, payment_id),
        )
        self._committed.set()

    async def mark_decline_returned(self, payment_id: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute(MARK_DECLINE_RETURNED, payment_id)

    async def park(self, payment: Payment, seconds: float) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                PARK,
                _microseconds(seconds),
                payment.amount_due,
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
            waiting = await connection.fetch_all(UNPUBLISHED, _microseconds(older_than), limit)
            if not waiting:
                return []
            rows = await connection.fetch_all(LOCK_UNCLAIMED, [row.id for row in waiting])
            return await _take(connection, rows, lease_seconds)

        return await self._database.run(claim)

    async def delete_old_keys(self, older_than_hours: float) -> None:
        async with self._database.connection() as connection:
            await connection.execute(DELETE_OLD_KEYS, _microseconds(older_than_hours * 3600))

    async def remove_failed(self, older_than_days: int, limit: int) -> int:
        async with self._database.connection() as connection:
            return await connection.execute(
                REMOVE_FAILED, older_than_days, older_than_days, ChargeAmountDiffers.code, limit
            )

    async def count_unsent(self) -> int:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(COUNT_UNSENT)
        return int(row.unsent) if row else 0

    async def count_unrefunded(self) -> int:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(COUNT_UNREFUNDED, ChargeAmountDiffers.code)
        return int(row.unrefunded) if row else 0


async def _payment_of_key(connection: Connection, order: PayOrder, key: Row) -> Payment | None:
    """Returns the payment of a key (a row of PAYMENT_OF_KEY), None if it has none any more."""
    if key.reservation_id != order.reservation_id:
        raise IdempotencyKeyReused("This idempotency key was used for another reservation.")
    if not key.failure_code:
        return await _get(connection, key.payment_id)
    return Payment(
        id=key.payment_id,
        reservation_id=key.reservation_id,
        user_id=order.user_id,
        status=Status.FAILED,
        amount=None,
        failure_code=key.failure_code,
        decline_returned=False,
        admission=None,
        failed_payment_id=0,
        attempts=0,
        created_at=key.created_at.replace(tzinfo=UTC),
    )


async def _create_or_find(connection: Connection, order: PayOrder, lease_seconds: float) -> Attempt:
    found = await connection.fetch_one(LATEST_ID, order.reservation_id, order.user_id)
    latest = await _get(connection, found.id) if found else None
    if latest is not None:
        decline_pending = latest.declined and not latest.decline_returned
        if latest.status is not Status.FAILED or decline_pending:
            return Attempt(latest, created=False)
    failed_payment_id = _last_failed(latest)
    admission = order.admission
    row = await connection.fetch_one(
        INSERT,
        order.reservation_id,
        order.user_id,
        admission and admission.room,
        admission and admission.place_number,
        failed_payment_id,
        _microseconds(lease_seconds),
    )
    assert row is not None, "inserted just now"
    payment = Payment(
        id=row.id,
        reservation_id=order.reservation_id,
        user_id=order.user_id,
        status=Status.INITIATED,
        amount=None,
        failure_code="",
        decline_returned=False,
        admission=admission,
        failed_payment_id=failed_payment_id,
        attempts=0,
        created_at=row.created_at.replace(tzinfo=UTC),
    )
    return Attempt(payment, created=True)


def _last_failed(latest: Payment | None) -> int:
    """Returns the id of the failed payment that the reservation may still be PAYING for, or 0."""
    if latest is None:
        return 0
    # A payment with another failure never reached its reservation: the one before it counts.
    reached = latest.declined or latest.failure_code == Unavailable.code
    return latest.id if reached else latest.failed_payment_id


async def _use_key(
    connection: Connection,
    order: PayOrder,
    attempt: Attempt,
    answer_seconds: float,
    *,
    insert: bool,
) -> None:
    if insert:
        await connection.insert(
            INSERT_KEY,
            _microseconds(answer_seconds),
            order.reservation_id,
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )
    else:
        await connection.execute(
            UPDATE_KEY,
            _microseconds(answer_seconds),
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )


async def _take(connection: Connection, rows: Sequence[Row], lease_seconds: float) -> list[Payment]:
    payments = [payment_from(row) for row in rows]
    if payments:
        ids = [payment.id for payment in payments]
        await connection.execute(CLAIM, _microseconds(lease_seconds), ids)
    return [replace(payment, attempts=payment.attempts + 1) for payment in payments]


async def _get(connection: Connection, payment_id: int) -> Payment | None:
    row = await connection.fetch_one(GET, payment_id)
    return payment_from(row) if row else None


def payment_from(row: Row) -> Payment:
    """Maps COLUMNS. The database's times are in UTC, without a zone."""
    admission = None if row.room is None else Admission(row.room, row.place_number)
    return Payment(
        id=row.id,
        reservation_id=row.reservation_id,
        user_id=row.user_id,
        status=Status(row.status),
        amount=row.amount,
        failure_code=row.failure_code,
        decline_returned=bool(row.outcome_told),
        admission=admission,
        failed_payment_id=row.failed_payment_id,
        attempts=row.attempts,
        created_at=row.created_at.replace(tzinfo=UTC),
        amount_due=row.amount_due,
    )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
