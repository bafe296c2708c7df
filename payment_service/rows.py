"""Rows of the table of payments."""

from datetime import UTC

from payment_service.domain import Admission, Payment, Status
from servicekit.mysql import Connection, Row

# `outcome_told` is the stored name of `Payment.decline_returned`.
COLUMNS = """
id, reservation_id, user_id, status, amount, failure_code, outcome_told, room, place_number,
failed_payment_id, attempts, created_at, amount_due, decline_reason, currency
"""

GET = f"SELECT {COLUMNS} FROM payment WHERE id = %s"


async def get(connection: Connection, payment_id: int) -> Payment | None:
    """Reads a payment."""
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
        decline_reason=row.decline_reason,
        currency=row.currency,
    )


def microseconds(seconds: float) -> int:
    """Returns the number that an INTERVAL of MICROSECOND takes."""
    return int(seconds * 1_000_000)
