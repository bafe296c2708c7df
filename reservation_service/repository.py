"""The SQL statements that read, cancel, expire and remove reservations. See `rows` about times."""

from collections.abc import Sequence

from reservation_service.domain import Admission, Reservation
from reservation_service.rows import EXPIRE, GET, change_and_get, to_reservation
from servicekit import logs
from servicekit.mysql import Connection, Database, DatabaseError, TransactionAborted

log = logs.get(__name__)

DELETE_OLD_KEYS = (
    "DELETE FROM idempotency_key WHERE created_at < NOW(6) - INTERVAL %s HOUR LIMIT %s"
)

CANCEL = """
UPDATE reservation SET status = 'CANCELLED', updated_at = NOW(6)
WHERE id = %s AND user_id = %s AND status = 'HELD' AND lapses_at > NOW(6)
"""

CANCEL_ALL = """
UPDATE reservation SET status = 'CANCELLED', updated_at = NOW(6)
WHERE user_id = %s AND status = 'HELD' AND lapses_at > NOW(6)
  AND room = %s AND place_number <= %s
LIMIT %s
"""

TAKEN = """
SELECT seat_id, status = 'CONFIRMED' AS sold FROM reservation
WHERE schedule_id = %s AND live_seat_id IS NOT NULL
  AND (status = 'CONFIRMED' OR lapses_at > NOW(6))
ORDER BY live_seat_id
"""

SOLD = "SELECT schedule_id, sold FROM schedule_sales WHERE schedule_id IN %s"

LAPSED = """
SELECT id FROM reservation FORCE INDEX (to_sweep)
WHERE status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6) AND id > %s
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""

EXPIRE_ALL = """
UPDATE reservation SET status = 'EXPIRED', updated_at = NOW(6)
WHERE id IN %s AND status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6)
"""

# Rows that another replica removes at this moment are skipped.
ENDED = """
SELECT id FROM reservation FORCE INDEX (to_sweep)
WHERE status IN ('CANCELLED', 'EXPIRED') AND lapses_at < NOW(6) - INTERVAL %s DAY
LIMIT %s FOR UPDATE SKIP LOCKED
"""

REMOVE = (
    "DELETE FROM lost_seat WHERE reservation_id IN %s",
    "DELETE FROM earlier_payment WHERE reservation_id IN %s",
    "DELETE FROM reservation WHERE id IN %s",
)


class ReservationRepository:
    """Implements `ports.ReservationStore` in MariaDB. A method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, reservation_id: int) -> Reservation | None:
        async with self._database.connection() as connection:
            return await _get(connection, reservation_id)

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        return await change_and_get(
            self._database, reservation_id, (CANCEL, reservation_id, user_id)
        )

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        cancel = (CANCEL_ALL, user_id, admission.room, admission.place_number, limit)
        return await self._database.run(
            lambda connection: connection.execute(*cancel), autocommit=True
        )

    async def taken_seats(self, schedule_id: int) -> tuple[Sequence[int], Sequence[int]]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(TAKEN, schedule_id)
        return (
            [row.seat_id for row in rows if not row.sold],
            [row.seat_id for row in rows if row.sold],
        )

    async def sold_by_schedule(self, schedule_ids: Sequence[int]) -> dict[int, int]:
        if not schedule_ids:
            return {}
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(SOLD, list(schedule_ids))
        return {row.schedule_id: row.sold for row in rows}

    async def expire_lapsed(self, after_id: int, limit: int) -> tuple[int, int]:
        found: list[int] = []

        async def work(connection: Connection) -> int:
            found[:] = [row.id for row in await connection.fetch_all(LAPSED, after_id, limit)]
            if not found:
                return 0
            return await connection.execute(EXPIRE_ALL, found)

        try:
            expired = await self._database.run(work)
        except DatabaseError:
            log.exception("expire_batch_failed", holds=len(found))
            expired = await self._expire_one_by_one(found)
        return expired, found[-1] if len(found) == limit else 0

    async def _expire_one_by_one(self, ids: Sequence[int]) -> int:
        expired = 0
        for id in ids:
            try:
                async with self._database.connection() as connection:
                    expired += await connection.execute(EXPIRE, id)
            except (DatabaseError, TransactionAborted):
                log.exception("expire_failed", reservation_id=id)
        return expired

    async def delete_old_keys(self, older_than_hours: int, limit: int) -> int:
        async with self._database.connection() as connection:
            return await connection.execute(DELETE_OLD_KEYS, older_than_hours, limit)

    async def remove_ended(self, older_than_days: int, limit: int) -> int:
        async def work(connection: Connection) -> int:
            rows = await connection.fetch_all(ENDED, older_than_days, limit)
            ids = [row.id for row in rows]
            if ids:
                await connection.execute_together(*((remove, ids) for remove in REMOVE))
            return len(ids)

        return await self._database.run(work)


async def _get(connection: Connection, reservation_id: int) -> Reservation | None:
    row = await connection.fetch_one(GET, reservation_id)
    return to_reservation(row) if row is not None else None
