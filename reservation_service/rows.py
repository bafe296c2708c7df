"""The columns of a reservation with its seats, and the statements that several repositories need.

The database's clock decides whether a hold has expired (NOW(6); the session is UTC), in the
statement that depends on it, because the clocks of the replicas may differ.

A statement that ends a reservation frees all of its seats: nobody ever sees a part of it. Locks are
taken in one order everywhere, or transactions on neighbouring seats deadlock: buyers by id, then
headers by id, then claims by seat. Nobody waits for a row of idempotency_key, so its place does not
matter; the triggers of revision 0003 lock no buyer, and a claim after its header. A hold that
expires others frees their claims before it takes its own, which is another order: a deadlock there
is ended by MariaDB, and `Database.run` repeats the transaction.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC
from itertools import groupby

from reservation_service.domain import Reservation, Seat, Status
from servicekit.mysql import Connection, Database, Result, Row, Statement

# `held_until` is the end of the hold, as its owner sees it. At `lapses_at` the seats are free
# again: at the same time, or at the end of a payment's lease if that is later.
#
# One row for each seat. The header alone describes the only seat of a reservation.
COLUMNS = """
r.id, r.user_id, r.schedule_id, r.status, r.held_until, r.lapses_at,
COALESCE(r.payment_id, 0) AS payment_id, NOW(6) AS read_at, r.currency,
COALESCE(s.seat_id, r.seat_id) AS seat_id, COALESCE(s.seat_num, r.seat_num) AS seat_num,
COALESCE(s.price, r.price) AS price
"""
SEATS = "LEFT JOIN reservation_seat s ON s.reservation_id = r.id AND r.seats > 1"

GET = f"SELECT {COLUMNS} FROM reservation r {SEATS} WHERE r.id IN %s ORDER BY r.id, s.seat_id"

# Ends reservations and frees their seats. One statement, so that it is right without a transaction,
# too. The outer joins fix the order of the locks.
_END = """
UPDATE reservation r
    LEFT JOIN reservation_seat s ON s.reservation_id = r.id
    LEFT JOIN seat_claim c ON c.seat_id = s.seat_id AND c.reservation_id = r.id
SET r.status = '{status}', r.updated_at = NOW(6), c.reservation_id = 0
WHERE r.id IN %s AND {condition}
"""
EXPIRE = _END.format(
    status="EXPIRED", condition="r.status IN ('HELD', 'PAYING') AND r.lapses_at <= NOW(6)"
)
CANCEL = _END.format(
    status="CANCELLED", condition="r.user_id = %s AND r.status = 'HELD' AND r.lapses_at > NOW(6)"
)
# Of any user.
CANCEL_HOLDS = _END.format(
    status="CANCELLED", condition="r.status = 'HELD' AND r.lapses_at > NOW(6)"
)


def changed(change: Result, found: Result) -> tuple[bool, Reservation | None]:
    """Returns whether a statement changed anything, and the reservation that GET found after it."""
    return change.matched > 0, to_reservation(found.rows) if found.rows else None


async def change_and_get(
    database: Database, reservation_id: int, change: Statement
) -> tuple[bool, Reservation | None]:
    """Returns whether the change was made, and the reservation after it.

    One round trip, two transactions: the change is a compare-and-set, complete in itself, and
    the read after it may show what other requests did since.
    """

    async def work(connection: Connection) -> tuple[bool, Reservation | None]:
        return changed(*await connection.execute_together(change, (GET, [reservation_id])))

    return await database.run(work, autocommit=True)


def to_reservation(rows: Sequence[Row]) -> Reservation:
    """Maps COLUMNS: the rows of one reservation, in the order of its seats. The database's times
    are in UTC, without a zone."""
    header = rows[0]
    return Reservation(
        id=header.id,
        user_id=header.user_id,
        seats=tuple(Seat(row.seat_id, row.schedule_id, row.seat_num, row.price) for row in rows),
        stored_status=Status(header.status),
        held_until=header.held_until.replace(tzinfo=UTC),
        lapses_at=header.lapses_at.replace(tzinfo=UTC),
        payment_id=header.payment_id,
        read_at=header.read_at.replace(tzinfo=UTC),
        currency=header.currency,
    )


def to_reservations(rows: Iterable[Row]) -> dict[int, Reservation]:
    """Maps the rows of several reservations, those of one together; by id."""
    return {id: to_reservation(list(seats)) for id, seats in groupby(rows, key=lambda row: row.id)}


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
