"""The columns of a reservation, and the statements on it that several repositories need.

The database's clock decides whether a hold has expired (NOW(6); the session is UTC), in the
statement that depends on it, because the clocks of the replicas may differ.
"""

from datetime import UTC

from reservation_service.domain import Reservation, Seat, Status
from servicekit.mysql import Connection, Database, Result, Row, Statement

# `held_until` is the end of the hold, as its owner sees it. At `lapses_at` the seat is free again:
# at the same time, or at the end of a payment's lease if that is later.
COLUMNS = """
r.id, r.user_id, r.seat_id, r.schedule_id, r.seat_num, r.price, r.status, r.held_until,
r.lapses_at, COALESCE(r.payment_id, 0) AS payment_id, NOW(6) AS read_at
"""

GET = f"SELECT {COLUMNS} FROM reservation r WHERE r.id = %s"

LIVE_OF_SEAT = """
SELECT id, status, lapses_at <= NOW(6) AS lapsed FROM reservation WHERE live_seat_id = %s
"""

EXPIRE = """
UPDATE reservation SET status = 'EXPIRED', updated_at = NOW(6)
WHERE id = %s AND status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6)
"""


def changed(change: Result, found: Result) -> tuple[bool, Reservation | None]:
    return change.matched == 1, to_reservation(found.rows[0]) if found.rows else None


async def change_and_get(
    database: Database, reservation_id: int, change: Statement
) -> tuple[bool, Reservation | None]:
    """Returns whether the change was made, and the reservation after it.

    One round trip, two transactions: the change is a compare-and-set, complete in itself, and
    the read after it may show what other requests did since.
    """

    async def work(connection: Connection) -> tuple[bool, Reservation | None]:
        return changed(*await connection.execute_together(change, (GET, reservation_id)))

    return await database.run(work, autocommit=True)


def to_reservation(row: Row) -> Reservation:
    """Maps COLUMNS. The database's times are in UTC, without a zone."""
    return Reservation(
        id=row.id,
        user_id=row.user_id,
        seats=(Seat(row.seat_id, row.schedule_id, row.seat_num, row.price),),
        stored_status=Status(row.status),
        held_until=row.held_until.replace(tzinfo=UTC),
        lapses_at=row.lapses_at.replace(tzinfo=UTC),
        payment_id=row.payment_id,
        read_at=row.read_at.replace(tzinfo=UTC),
    )


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
