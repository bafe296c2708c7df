"""The SQL statements of step 1: creating the payment of an order, and idempotency keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from payment_service.domain import FINAL_FAILURES, Attempt, Payment, PayOrder, Status
from payment_service.errors import IdempotencyKeyReused, RequestInProgress
from payment_service.groups import Groups, hasty
from payment_service.rows import get, microseconds
from servicekit.errors import Unavailable
from servicekit.mysql import Connection, Database, DuplicateKey, MissingValue, Row, Statement

# The unique key refuses one of two concurrent orders for a reservation. The next attempt of the
# refused order finds the payment of the other.
CREATE_ATTEMPTS = 5

SOON = "NOW(6) + INTERVAL %s MICROSECOND"

INSERT_FIRST = """
INSERT INTO payment (reservation_id, user_id, room, place_number, driven_until, status)
VALUES {} RETURNING id, reservation_id, user_id, created_at
"""

FIRST = f"(%s, %s, %s, %s, {SOON}, 'INITIATED')"

# If the reservation has a payment of this user there is no status, which is an error. An INSERT of
# a SELECT could have the condition, too, but then it holds the table's lock for new ids until it
# ends: while it waits for the row of another transaction, nobody could create a payment.
FIRST_IF_NONE = f"""
(%s, %s, %s, %s, {SOON},
IF(EXISTS(SELECT 1 FROM payment p WHERE p.reservation_id = %s AND p.user_id = %s LIMIT 1),
    NULL, 'INITIATED'))
"""

WITH_PAYMENT = """
SELECT DISTINCT reservation_id, user_id FROM payment WHERE (reservation_id, user_id) IN ({})
"""

LATEST_ID = """
SELECT id FROM payment WHERE reservation_id = %s AND user_id = %s ORDER BY id DESC LIMIT 1
"""

INSERT = f"""
INSERT INTO payment
    (reservation_id, user_id, room, place_number, failed_payment_id, driven_until)
VALUES (%s, %s, %s, %s, %s, {SOON})
RETURNING id, created_at
"""

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


@dataclass(frozen=True)
class _New:
    order: PayOrder
    lease_seconds: float

    @property
    def ids(self) -> tuple[int, int]:
        return self.order.reservation_id, self.order.user_id


class OrderRepository:
    """The part of `ports.PaymentStore` that creates payments, in MariaDB.

    First payments without an idempotency key are created in groups. An order with a key is a
    transaction of its own: its key is locked until its payment exists.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._first = Groups(self._create_first)

    async def create_payment(
        self, order: PayOrder, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        """See `ports.PaymentStore`."""

        async def create_or_find(connection: Connection) -> Attempt:
            return await _create_or_find(connection, order, lease_seconds)

        async def create_with_key(connection: Connection) -> Attempt:
            return await _create_with_key(connection, order, lease_seconds, answer_seconds)

        with_key = bool(order.idempotency_key)
        if not with_key:
            try:
                payment = await self._first.submit(_New(order, lease_seconds))
            except DuplicateKey:
                payment = None
            if payment is not None:
                return Attempt(payment, created=True)
        work = create_with_key if with_key else create_or_find
        for _ in range(CREATE_ATTEMPTS):
            try:
                # Without a key the INSERT alone is the transaction: the read before it takes no
                # lock, and the unique key decides, inside a transaction or not.
                return await self._database.run(work, autocommit=not with_key)
            except DuplicateKey:
                continue
        raise Unavailable("Too many requests for this reservation at once.")

    async def release_key(self, order: PayOrder) -> None:
        """See `ports.PaymentStore`."""
        async with self._database.connection() as connection:
            await connection.execute(RELEASE_KEY, order.user_id, order.idempotency_key)

    async def remember_rejection(self, order: PayOrder, failure_code: str) -> None:
        """See `ports.PaymentStore`."""
        async with self._database.connection() as connection:
            await connection.execute(
                REMEMBER_REJECTION, failure_code, order.user_id, order.idempotency_key
            )

    async def delete_old_keys(self, older_than_hours: float) -> None:
        """See `ports.PaymentStore`."""
        async with self._database.connection() as connection:
            await connection.execute(DELETE_OLD_KEYS, microseconds(older_than_hours * 3600))

    async def _create_first(self, news: Sequence[_New], lock_wait: int) -> Sequence[Payment | None]:
        """Creates the payments of those orders whose reservation has none of their user; None for
        the others."""
        if len(news) == 1:
            rows = await self._insert_if_none(news[0], lock_wait)
        else:
            rows = await self._insert_those_with_none(news, lock_wait)
        created = {(row.reservation_id, row.user_id): row for row in rows}
        payments: list[Payment | None] = []
        for new in news:
            # Of several orders for a reservation, the first has created the payment.
            row = created.pop(new.ids, None)
            payments.append(_initiated(row.id, new.order, row.created_at) if row else None)
        return payments

    async def _insert_if_none(self, new: _New, lock_wait: int) -> Sequence[Row]:
        insert: Statement = (INSERT_FIRST.format(FIRST_IF_NONE), *_values(new), *new.ids)
        try:
            async with self._database.connection() as connection:
                return await connection.fetch_all(*hasty(insert, lock_wait))
        except MissingValue:
            return []

    async def _insert_those_with_none(self, news: Sequence[_New], lock_wait: int) -> Sequence[Row]:
        """The unique key decides between the read and the INSERT, as it does for one."""
        firsts = {new.ids: new for new in reversed(news)}
        pairs = ", ".join(["(%s, %s)"] * len(firsts))
        async with self._database.connection() as connection:
            known = await connection.fetch_all(
                WITH_PAYMENT.format(pairs), *(value for ids in firsts for value in ids)
            )
            for row in known:
                del firsts[row.reservation_id, row.user_id]
            if not firsts:
                return []
            values = ", ".join([FIRST] * len(firsts))
            insert: Statement = (
                INSERT_FIRST.format(values),
                *(value for new in firsts.values() for value in _values(new)),
            )
            return await connection.fetch_all(*hasty(insert, lock_wait))


def _values(new: _New) -> tuple[object, ...]:
    admission = new.order.admission
    return (
        *new.ids,
        admission and admission.room,
        admission and admission.place_number,
        microseconds(new.lease_seconds),
    )


async def _create_with_key(
    connection: Connection, order: PayOrder, lease_seconds: float, answer_seconds: float
) -> Attempt:
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


async def _payment_of_key(connection: Connection, order: PayOrder, key: Row) -> Payment | None:
    """Returns the payment of a key (a row of PAYMENT_OF_KEY), None if it has none any more."""
    if key.reservation_id != order.reservation_id:
        raise IdempotencyKeyReused("This idempotency key was used for another reservation.")
    if not key.failure_code:
        return await get(connection, key.payment_id)
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
    latest = await get(connection, found.id) if found else None
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
        microseconds(lease_seconds),
    )
    assert row is not None, "inserted just now"
    return Attempt(_initiated(row.id, order, row.created_at, failed_payment_id), created=True)


def _initiated(
    payment_id: int, order: PayOrder, created_at: datetime, failed_payment_id: int = 0
) -> Payment:
    return Payment(
        id=payment_id,
        reservation_id=order.reservation_id,
        user_id=order.user_id,
        status=Status.INITIATED,
        amount=None,
        failure_code="",
        decline_returned=False,
        admission=order.admission,
        failed_payment_id=failed_payment_id,
        attempts=0,
        created_at=created_at.replace(tzinfo=UTC),
    )


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
            microseconds(answer_seconds),
            order.reservation_id,
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )
    else:
        await connection.execute(
            UPDATE_KEY,
            microseconds(answer_seconds),
            attempt.payment.id,
            order.user_id,
            order.idempotency_key,
        )
