"""A provider that moves no money: approves everything, except for magic users.

The millions of the user id decide (user 99402000007 is a 99402):

    99402   declined (CARD_DECLINED)
    99200   approved after 2 seconds
    99503   the provider fails at the first 2 calls, then approves
    99504   never answers in time, but the charge settles: approved after 2 seconds
    99505   the same, but declined

It keeps its own durable book, as a real provider would: the table sandbox_charge, through
connections of its own, so that what was charged can be told after any crash of the service.
"""

import asyncio
from decimal import Decimal

from payment_service.domain import Charge, ChargeStatus, ProviderUnavailable
from servicekit.mysql import Database, Transaction

MAGIC = 1_000_000
DECLINED = 99402
SLOW = 99200
FAILING = 99503
SILENT_APPROVED = 99504
SILENT_DECLINED = 99505

SLOW_SECONDS = 2.0
SETTLING_SECONDS = 2.0
FAILING_CALLS = 2
DECLINE_REASON = "CARD_DECLINED"


class SandboxProvider:
    """See `ports.PaymentProvider` and above. A silent charge waits until it is cancelled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def charge(self, payment_id: int, user_id: int, amount: Decimal) -> Charge:
        kind = user_id // MAGIC

        async def decide(transaction: Transaction) -> Charge | None:
            await transaction.execute(
                """INSERT INTO sandbox_charge (payment_id, user_id, amount, status, calls)
                VALUES (%s, %s, %s, 'UNKNOWN', 1)
                ON DUPLICATE KEY UPDATE calls = calls + 1""",
                payment_id,
                user_id,
                amount,
            )
            row = await transaction.fetch_one(
                "SELECT calls FROM sandbox_charge WHERE payment_id = %s", payment_id
            )
            known = await _read(transaction, payment_id)
            if known.status is not ChargeStatus.UNKNOWN:
                return known
            if kind == FAILING and row and row[0] <= FAILING_CALLS:
                return None
            declined = kind in (DECLINED, SILENT_DECLINED)
            silent = kind in (SILENT_APPROVED, SILENT_DECLINED)
            await transaction.execute(
                """UPDATE sandbox_charge
                SET status = %s, decided_at = NOW(6) + INTERVAL %s SECOND
                WHERE payment_id = %s""",
                "DECLINED" if declined else "APPROVED",
                SETTLING_SECONDS if silent else 0,
                payment_id,
            )
            return await _read(transaction, payment_id)

        charge = await self._database.run(decide)
        if charge is None:
            raise ProviderUnavailable("The sandbox fails, as this user wants it.")
        if kind == SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        if charge.status is ChargeStatus.PENDING:
            await asyncio.Event().wait()
        if charge.status is ChargeStatus.REFUNDED:
            return Charge(ChargeStatus.DECLINED, charge.amount, "BARRED")
        return charge

    async def get_charge(self, payment_id: int) -> Charge:
        async with self._database.reading() as reading:
            return await _read(reading, payment_id)

    async def refund(self, payment_id: int) -> None:
        async with self._database.transaction() as transaction:
            await transaction.execute(
                """INSERT INTO sandbox_charge (payment_id, user_id, status, refunded_at)
                VALUES (%s, 0, 'REFUNDED', NOW(6))
                ON DUPLICATE KEY UPDATE status = 'REFUNDED',
                    refunded_at = COALESCE(refunded_at, NOW(6))""",
                payment_id,
            )


async def _read(transaction: Transaction, payment_id: int) -> Charge:
    row = await transaction.fetch_one(
        """SELECT status, amount, COALESCE(decided_at > NOW(6), FALSE)
        FROM sandbox_charge WHERE payment_id = %s""",
        payment_id,
    )
    if row is None:
        return Charge(ChargeStatus.UNKNOWN)
    status, amount, settling = row
    if status == ChargeStatus.UNKNOWN:
        # Asked for, and failed.
        return Charge(ChargeStatus.UNKNOWN)
    if settling and status != ChargeStatus.REFUNDED:
        return Charge(ChargeStatus.PENDING)
    reason = DECLINE_REASON if status == ChargeStatus.DECLINED else ""
    return Charge(ChargeStatus(status), amount, reason)
