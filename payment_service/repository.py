"""Every SQL statement on payments and idempotency keys, but those after a restore.

Those are in `announcements.py`; how events get into the outbox and out again is in `outbox.py`.

All times are the database's, so that replicas need no common clock.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from payment_service.domain import (
    FINAL_FAILURES,
    Admission,
    Attempt,
    Event,
    IdempotencyKeyReused,
    InProgress,
    Outcome,
    Payment,
    PaymentDeclined,
    PayOrder,
    Status,
)
from payment_service.outbox import put_in_outbox
from servicekit.errors import Unavailable
from servicekit.mysql import Database, DuplicateKey, Row, Transaction

COLUMNS = """id, reservation_id, user_id, status, amount, failure_code, outcome_told, room,
    place_number, failed_payment_id, attempts, created_at"""
_SOON = "NOW(6) + INTERVAL %s MICROSECOND"
# A driver that was paused beyond its lease finds that `attempts` has moved on.
_DRIVEN_BY_US = "id = %s AND status = 'INITIATED' AND attempts = %s"
_CHARGED = "id = %s AND status = 'SUCCEEDED'"

# Two orders for one reservation meet at the unique key; the loser looks again, and finds it.
_CREATE_TRIES = 5


class PaymentRepository:
    """The payments in MariaDB; see `ports.Payments`. `committed` is set whenever an event was
    committed, so that the relay sends it at once."""

    def __init__(self, database: Database, committed: asyncio.Event) -> None:
        self._database = database
        self._committed = committed

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        async def create(transaction: Transaction) -> Attempt:
            if not order.idempotency_key:
                return await _create_or_find(transaction, order, lease_seconds)
            known = await _payment_of_key(transaction, order)
            if known is not None:
                payment, in_flight = known
                if not payment.finished and in_flight:
                    raise InProgress("A request with this idempotency key is under way.")
                attempt = (
                    await _create_or_find(transaction, order, lease_seconds)
                    if payment.status is Status.FAILED
                    and payment.failure_code not in FINAL_FAILURES
                    else Attempt(payment, created=False)
                )
            else:
                attempt = await _create_or_find(transaction, order, lease_seconds)
            if not (known and attempt.payment.finished):
                await _use_key(transaction, order, attempt, answer_seconds, insert=not known)
            return attempt

        for _ in range(_CREATE_TRIES):
            try:
                # Without a key the INSERT alone is the transaction: what was there before is
                # looked up without a lock, and the unique key decides, in a transaction or not.
                return await self._database.run(create, autocommit=not order.idempotency_key)
            except DuplicateKey:
                continue
        raise Unavailable("Too many requests for this reservation at once.")

    async def release_key(self, order: PayOrder) -> None:
        async with self._database.reading() as connection:
            await connection.execute(
                """UPDATE idempotency_key SET in_flight_until = NULL
                WHERE user_id = %s AND idem_key = %s""",
                order.user_id,
                order.idempotency_key,
            )

    async def get_payment(self, payment_id: int) -> Payment | None:
        async with self._database.reading() as reading:
            return await _get(reading, payment_id)

    async def latest_payment(self, reservation_id: int, user_id: int) -> Payment | None:
        async with self._database.reading() as reading:
            row = await reading.fetch_one(
                f"""SELECT {COLUMNS} FROM payment
                WHERE reservation_id = %s AND user_id = %s
                    AND (status <> 'FAILED' OR (failure_code = %s AND NOT outcome_told))
                ORDER BY id DESC LIMIT 1""",
                reservation_id,
                user_id,
                PaymentDeclined.code,
            )
        return payment_from(row) if row else None

    async def paid_by_another(self, reservation_id: int, user_id: int) -> bool:
        async with self._database.reading() as reading:
            row = await reading.fetch_one(
                """SELECT 1 FROM payment
                WHERE reservation_id = %s AND user_id <> %s AND amount IS NOT NULL LIMIT 1""",
                reservation_id,
                user_id,
            )
        return row is not None

    async def record_outcome(
        self, payment: Payment, outcome: Outcome, event: Event | None
    ) -> Payment:
        driven_by_us = (payment.id, payment.attempts)
        end = (
            f"""UPDATE payment SET status = %s, amount = %s, failure_code = %s
            WHERE {_DRIVEN_BY_US}""",
            outcome.status,
            outcome.amount,
            outcome.failure_code,
            *driven_by_us,
        )
        announce = [put_in_outbox(event, _DRIVEN_BY_US, *driven_by_us)] if event is not None else []
        *_, ended = await self._database.run_together(*announce, end)
        self._committed.set()
        if ended.matched:
            return replace(
                payment,
                status=outcome.status,
                amount=outcome.amount,
                failure_code=outcome.failure_code,
            )
        now = await self.get_payment(payment.id)
        assert now is not None, "payments are never deleted"
        return now

    async def give_up(self, payment: Payment, failure_code: str) -> bool:
        async with self._database.reading() as connection:
            matched = await connection.execute(
                f"UPDATE payment SET failure_code = %s WHERE {_DRIVEN_BY_US}",
                failure_code,
                payment.id,
                payment.attempts,
            )
        return matched > 0

    async def record_refund(self, payment_id: int, event: Event) -> None:
        await self._database.run_together(
            put_in_outbox(event, _CHARGED, payment_id),
            (f"UPDATE payment SET status = 'REFUNDED' WHERE {_CHARGED}", payment_id),
        )
        self._committed.set()

    async def mark_told(self, payment_id: int) -> None:
        async with self._database.reading() as connection:
            await connection.execute(
                "UPDATE payment SET outcome_told = TRUE WHERE id = %s", payment_id
            )

    async def park(self, payment: Payment, seconds: float) -> None:
        async with self._database.reading() as connection:
            await connection.execute(
                f"UPDATE payment SET driven_until = {_SOON} WHERE {_DRIVEN_BY_US}",
                _microseconds(seconds),
                payment.id,
                payment.attempts,
            )

    async def claim_unfinished(self, *, lease_seconds: float, limit: int) -> Sequence[Payment]:
        async def claim(transaction: Transaction) -> Sequence[Payment]:
            rows = await transaction.fetch_all(
                f"""SELECT {COLUMNS} FROM payment
                WHERE status = 'INITIATED' AND driven_until <= NOW(6)
                ORDER BY driven_until LIMIT %s FOR UPDATE SKIP LOCKED""",
                limit,
            )
            return await _take(transaction, rows, lease_seconds)

        return await self._database.run(claim)

    async def claim_unannounced(
        self, *, older_than: float, lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        async def claim(transaction: Transaction) -> Sequence[Payment]:
            waiting = await transaction.fetch_all(
                # From the outbox, which is short, to the payments, of which there are ever more.
                """SELECT DISTINCT p.id, p.driven_until
                FROM outbox o STRAIGHT_JOIN payment p ON p.id = o.payment_id
                WHERE o.created_at <= NOW(6) - INTERVAL %s MICROSECOND
                    AND p.status = 'SUCCEEDED' AND p.driven_until <= NOW(6)
                ORDER BY p.driven_until LIMIT %s""",
                _microseconds(older_than),
                limit,
            )
            if not waiting:
                return []
            rows = await transaction.fetch_all(
                f"""SELECT {COLUMNS} FROM payment
                WHERE id IN %s AND driven_until <= NOW(6)
                FOR UPDATE SKIP LOCKED""",
                [payment_id for payment_id, _ in waiting],
            )
            return await _take(transaction, rows, lease_seconds)

        return await self._database.run(claim)

    async def forget_keys(self, older_than_hours: float) -> None:
        async with self._database.transaction() as transaction:
            await transaction.execute(
                """DELETE FROM idempotency_key
                WHERE created_at < NOW(6) - INTERVAL %s MICROSECOND LIMIT 1000""",
                _microseconds(older_than_hours * 3600),
            )

    async def count_unsent(self) -> int:
        async with self._database.reading() as reading:
            row = await reading.fetch_one("SELECT COUNT(*) FROM outbox")
        return int(row[0]) if row else 0


async def _payment_of_key(transaction: Transaction, order: PayOrder) -> tuple[Payment, bool] | None:
    """The payment a key stands for, and whether the call that uses the key may still answer."""
    if not order.idempotency_key:
        return None
    row = await transaction.fetch_one(
        """SELECT reservation_id, payment_id, COALESCE(in_flight_until > NOW(6), FALSE)
        FROM idempotency_key WHERE user_id = %s AND idem_key = %s FOR UPDATE""",
        order.user_id,
        order.idempotency_key,
    )
    if row is None:
        return None
    reservation_id, payment_id, in_flight = row
    if reservation_id != order.reservation_id:
        raise IdempotencyKeyReused("This idempotency key was used for another reservation.")
    payment = await _get(transaction, payment_id)
    assert payment is not None, "payments are never deleted"
    return payment, bool(in_flight)


async def _create_or_find(
    transaction: Transaction, order: PayOrder, lease_seconds: float
) -> Attempt:
    found = await transaction.fetch_one(
        """SELECT id FROM payment WHERE reservation_id = %s AND user_id = %s
        ORDER BY id DESC LIMIT 1""",
        order.reservation_id,
        order.user_id,
    )
    latest = await _get(transaction, found[0]) if found else None
    if latest is not None:
        untold = latest.declined and not latest.outcome_told
        if latest.status is not Status.FAILED or untold:
            return Attempt(latest, created=False)
    failed_payment_id = _last_failed(latest)
    admission = order.admission
    row = await transaction.fetch_one(
        f"""INSERT INTO payment
            (reservation_id, user_id, room, place_number, failed_payment_id, driven_until)
        VALUES (%s, %s, %s, %s, %s, {_SOON})
        RETURNING id, created_at""",
        order.reservation_id,
        order.user_id,
        admission and admission.room,
        admission and admission.place_number,
        failed_payment_id,
        _microseconds(lease_seconds),
    )
    assert row is not None, "inserted just now"
    payment_id, created_at = row
    payment = Payment(
        id=payment_id,
        reservation_id=order.reservation_id,
        user_id=order.user_id,
        status=Status.INITIATED,
        amount=None,
        failure_code="",
        outcome_told=False,
        admission=admission,
        failed_payment_id=failed_payment_id,
        attempts=0,
        created_at=created_at.replace(tzinfo=UTC),
    )
    return Attempt(payment, created=True)


def _last_failed(latest: Payment | None) -> int:
    """The failed payment that the reservation may still be PAYING for."""
    if latest is None:
        return 0
    # The others never got as far as their reservation: the one before them counts.
    reached = latest.failure_code in (PaymentDeclined.code, Unavailable.code)
    return latest.id if reached else latest.failed_payment_id


async def _use_key(
    transaction: Transaction,
    order: PayOrder,
    attempt: Attempt,
    answer_seconds: float,
    *,
    insert: bool,
) -> None:
    if insert:
        await transaction.insert(
            f"""INSERT INTO idempotency_key
                (in_flight_until, reservation_id, payment_id, user_id, idem_key)
            VALUES ({_SOON}, %s, %s, %s, %s)""",
            _microseconds(answer_seconds),
            order.reservation_id,
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )
    else:
        await transaction.execute(
            f"""UPDATE idempotency_key SET in_flight_until = {_SOON}, payment_id = %s
            WHERE user_id = %s AND idem_key = %s""",
            _microseconds(answer_seconds),
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )


async def _take(
    transaction: Transaction, rows: Sequence[Row], lease_seconds: float
) -> list[Payment]:
    payments = [payment_from(row) for row in rows]
    if payments:
        await transaction.execute(
            f"""UPDATE payment SET driven_until = {_SOON}, attempts = attempts + 1
            WHERE id IN %s""",
            _microseconds(lease_seconds),
            [payment.id for payment in payments],
        )
    return [replace(payment, attempts=payment.attempts + 1) for payment in payments]


async def _get(transaction: Transaction, payment_id: int) -> Payment | None:
    row = await transaction.fetch_one(f"SELECT {COLUMNS} FROM payment WHERE id = %s", payment_id)
    return payment_from(row) if row else None


def payment_from(row: Row) -> Payment:
    values: list[Any] = list(row)
    return Payment(
        id=values[0],
        reservation_id=values[1],
        user_id=values[2],
        status=Status(values[3]),
        amount=values[4],
        failure_code=values[5],
        outcome_told=bool(values[6]),
        admission=None if values[7] is None else Admission(values[7], values[8]),
        failed_payment_id=values[9],
        attempts=values[10],
        created_at=values[11].replace(tzinfo=UTC),
    )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
