"""A provider that moves no money. It approves every charge, except those of magic users.

The millions of the user id decide (user 99402000007 is a 99402):

    99402   declined (CARD_DECLINED)
    99200   approved after 2 seconds
    99503   the provider fails at the first 2 calls, then approves
    99504   never answers in time, but the charge settles: approved after 2 seconds
    99505   the same, but declined
    99409   approved, but for 1.00 more than asked
    99410   approved, but in another currency
    99509   never answers in time, but the charge settles: as 99409, after 2 seconds

It keeps its charges in a table of its own, sandbox_charge, through its own connections, so that
they survive a crash of the service, as at a real provider.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from payment_service.domain import Charge, ChargeStatus, Money
from payment_service.errors import ProviderUnavailable
from payment_service.groups import Groups, hasty
from servicekit.mysql import Database, Row, Statement

MAGIC = 1_000_000
DECLINED = 99402
SLOW = 99200
FAILING = 99503
SILENT_APPROVED = 99504
SILENT_DECLINED = 99505
OTHER_AMOUNT = 99409
OTHER_CURRENCY = 99410
SILENT_OTHER_AMOUNT = 99509

SLOW_SECONDS = 2.0
SETTLING_SECONDS = 2.0
FAILING_CALLS = 2
DECLINE_REASON = "CARD_DECLINED"

# The first call decides, and a repeat returns the same decision. A charge of a failing user is
# decided by a later call. MariaDB makes the assignments from left to right.
# SYSDATE, because NOW is the start of the statement. If a statement waits for the lock of another,
# the other decides after that start, and NOW would report the decided charge as still settling.
CHARGE = """
INSERT INTO sandbox_charge (payment_id, user_id, amount, currency, status, decided_at, calls)
VALUES {}
ON DUPLICATE KEY UPDATE calls = calls + 1,
    decided_at = IF(status = 'UNKNOWN' AND calls > %s, NOW(6), decided_at),
    status = IF(status = 'UNKNOWN' AND calls > %s, 'APPROVED', status)
RETURNING payment_id, status, amount, currency, COALESCE(decided_at > SYSDATE(6), FALSE) AS settling
"""

NEW_CHARGE = "(%s, %s, %s, %s, %s, NOW(6) + INTERVAL %s SECOND, 1)"

KNOWN = """
SELECT status, amount, currency, COALESCE(decided_at > SYSDATE(6), FALSE) AS settling
FROM sandbox_charge WHERE payment_id = %s
"""

REFUND = """
INSERT INTO sandbox_charge (payment_id, user_id, status, refunded_at)
VALUES (%s, 0, 'REFUNDED', NOW(6))
ON DUPLICATE KEY UPDATE status = 'REFUNDED', refunded_at = COALESCE(refunded_at, NOW(6))
"""


REMOVE_CHARGES = """
DELETE FROM sandbox_charge WHERE created_at < NOW(6) - INTERVAL %s DAY
ORDER BY created_at LIMIT %s
"""


class SandboxBook:
    """The provider's own records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remove_charges(self, older_than_days: int, limit: int) -> int:
        """Removes at most `limit` charges of that age; returns how many."""
        async with self._database.connection() as connection:
            return await connection.execute(REMOVE_CHARGES, older_than_days, limit)


@dataclass(frozen=True)
class _Order:
    """A charge to write into the book, with the decision that it gets if it is the first."""

    payment_id: int
    user_id: int
    amount: Money
    decision: ChargeStatus
    settling_seconds: float

    @property
    def values(self) -> tuple[object, ...]:
        """The values of NEW_CHARGE."""
        return self.payment_id, self.user_id, *self.amount, self.decision, self.settling_seconds


class SandboxProvider:
    """Implements `ports.PaymentProvider`. A silent charge waits until it is cancelled.

    The charges that arrive together are written together; each then takes its own time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._book = Groups(self._write)

    async def charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        kind = user_id // MAGIC
        if kind == FAILING:
            decision = ChargeStatus.UNKNOWN
        elif kind in (DECLINED, SILENT_DECLINED):
            decision = ChargeStatus.DECLINED
        else:
            decision = ChargeStatus.APPROVED
        silent = kind in (SILENT_APPROVED, SILENT_DECLINED, SILENT_OTHER_AMOUNT)
        settling = SETTLING_SECONDS if silent else 0
        charged = amount
        if kind in (OTHER_AMOUNT, SILENT_OTHER_AMOUNT):
            charged = amount._replace(amount=amount.amount + 1)
        elif kind == OTHER_CURRENCY:
            charged = amount._replace(currency="EUR" if amount.currency != "EUR" else "USD")
        charge = await self._book.submit(_Order(payment_id, user_id, charged, decision, settling))
        if charge.status is ChargeStatus.UNKNOWN:
            raise ProviderUnavailable("The sandbox fails the charges of this user.")
        if kind == SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        if charge.status is ChargeStatus.PENDING:
            await asyncio.Event().wait()
        if charge.status is ChargeStatus.REFUNDED:
            return Charge(ChargeStatus.DECLINED, charge.amount, "BARRED")
        return charge

    async def _write(self, orders: Sequence[_Order], lock_wait: int) -> Sequence[Charge]:
        """Writes charges in one statement; returns the charges that the book has then."""
        # In one order, so that two groups do not wait for each other.
        by_id = sorted(orders, key=lambda order: order.payment_id)
        statement: Statement = (
            CHARGE.format(", ".join([NEW_CHARGE] * len(by_id))),
            *(value for order in by_id for value in order.values),
            FAILING_CALLS,
            FAILING_CALLS,
        )
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(*hasty(statement, lock_wait))
        charges = {row.payment_id: _charge(row) for row in rows}
        return [charges[order.payment_id] for order in orders]

    async def get_charge(self, payment_id: int) -> Charge:
        async with self._database.connection() as connection:
            return _charge(await connection.fetch_one(KNOWN, payment_id))

    async def refund(self, payment_id: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute(REFUND, payment_id)


def _charge(row: Row | None) -> Charge:
    if row is None:
        return Charge(ChargeStatus.UNKNOWN)
    if row.status == ChargeStatus.UNKNOWN:
        # The call failed, and no charge was made.
        return Charge(ChargeStatus.UNKNOWN)
    if row.settling and row.status != ChargeStatus.REFUNDED:
        return Charge(ChargeStatus.PENDING)
    reason = DECLINE_REASON if row.status == ChargeStatus.DECLINED else ""
    # Barred before it was charged, it has no amount.
    amount = None if row.amount is None else Money(row.amount, row.currency)
    return Charge(ChargeStatus(row.status), amount, reason)
