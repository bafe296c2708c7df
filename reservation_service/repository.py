"""The SQL statements that read, cancel, expire and remove reservations. See `rows` about times."""

from collections.abc import Sequence
from itertools import chain

from reservation_service.domain import Admission, Availability, Reservation, SeatCounts, Status
from reservation_service.hold_statements import CLOSED
from reservation_service.ports import LapsedHold
from reservation_service.rows import CANCEL, EXPIRE, GET, change_and_get, to_reservation
from servicekit import logs
from servicekit.mysql import Connection, Database, DatabaseError, Statement, TransactionAborted

log = logs.get(__name__)

DELETE_OLD_KEYS = (
    "DELETE FROM idempotency_key WHERE created_at < NOW(6) - INTERVAL %s HOUR LIMIT %s"
)

# Locked, and cancelled by `rows.CANCEL` in the same transaction.
HOLDS_OF_ADMISSION = """
SELECT id FROM reservation
WHERE user_id = %s AND status = 'HELD' AND lapses_at > NOW(6) AND room = %s AND place_number <= %s
ORDER BY id LIMIT %s FOR UPDATE
"""

# Packed: a row for each schedule, not for each seat. The index gives the claims of a schedule in
# the order of their seats.
TAKEN = """
SET STATEMENT group_concat_max_len = 16777216 FOR
SELECT c.schedule_id,
       GROUP_CONCAT(IF(r.status = 'CONFIRMED', NULL, c.seat_id)) AS held,
       GROUP_CONCAT(IF(r.status = 'CONFIRMED', c.seat_id, NULL)) AS sold
FROM seat_claim c STRAIGHT_JOIN reservation r ON r.id = c.reservation_id
WHERE c.schedule_id IN %s AND (r.status = 'CONFIRMED' OR r.lapses_at > NOW(6))
GROUP BY c.schedule_id
"""

# Skips from schedule to schedule in the index of_schedule, however many claims they have. The index
# does not tell whether a claim is free again.
# DISTINCT would make a temporary table. {} stands for the ranges.
TOUCHED = """
SELECT schedule_id FROM seat_claim WHERE {} GROUP BY schedule_id ORDER BY schedule_id LIMIT %s
"""
CLOSED_IN = "SELECT schedule_id FROM closed_schedule WHERE {} ORDER BY schedule_id LIMIT %s"

SALES = "SELECT schedule_id, sold, blocked FROM schedule_sales WHERE schedule_id IN %s"

# In the order of the index, of one status: any other order would read, and lock, all of them first.
LAPSED = """
SELECT id, lapses_at FROM reservation FORCE INDEX (to_sweep)
WHERE status = %s AND lapses_at BETWEEN %s AND NOW(6) AND (lapses_at > %s OR id > %s)
ORDER BY lapses_at, id LIMIT %s FOR UPDATE SKIP LOCKED
"""

# Rows that another replica removes at this moment are skipped.
ENDED = """
SELECT id, user_id FROM reservation FORCE INDEX (to_sweep)
WHERE status IN ('CANCELLED', 'EXPIRED') AND lapses_at < NOW(6) - INTERVAL %s DAY
LIMIT %s FOR UPDATE SKIP LOCKED
"""

# An ended reservation has no claims: the statement that ended it has freed them.
REMOVE = (
    "DELETE FROM lost_seat WHERE reservation_id IN %s",
    "DELETE FROM earlier_payment WHERE reservation_id IN %s",
    "DELETE FROM reservation_seat WHERE reservation_id IN %s",
    "DELETE FROM reservation WHERE id IN %s",
)

BUYERS = "SELECT user_id FROM buyer WHERE user_id IN %s"

# The buyers among these users that nobody else uses now. Their locks keep others from holding seats
# until they are removed.
LOCK_BUYERS = "SELECT user_id FROM buyer WHERE user_id IN %s FOR UPDATE SKIP LOCKED"

REMOVE_BUYERS = """
DELETE FROM buyer WHERE user_id IN %s
  AND NOT EXISTS (SELECT 1 FROM reservation r WHERE r.user_id = buyer.user_id)
"""


class ReservationRepository:
    """Implements `ports.ReservationStore` in MariaDB. A method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, reservation_id: int) -> Reservation | None:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(GET, [reservation_id])
        return to_reservation(rows) if rows else None

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        return await change_and_get(
            self._database, reservation_id, (CANCEL, [reservation_id], user_id)
        )

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        async def work(connection: Connection) -> int:
            holds = await connection.fetch_all(
                HOLDS_OF_ADMISSION, user_id, admission.room, admission.place_number, limit
            )
            ids = [row.id for row in holds]
            if ids:
                await connection.execute(CANCEL, ids, user_id)
            return len(ids)

        return await self._database.run(work)

    async def taken_seats(self, schedule_ids: Sequence[int]) -> Sequence[Availability]:
        if not schedule_ids:
            return []
        ids = list(schedule_ids)
        async with self._database.connection() as connection:
            found, closed = await connection.execute_together((TAKEN, ids), (CLOSED, ids))
        taken = {row.schedule_id: (_ids(row.held), _ids(row.sold)) for row in found.rows}
        are_closed = {row.schedule_id for row in closed.rows}
        nothing: tuple[list[int], list[int]] = ([], [])
        return [Availability(*taken.get(id, nothing), id in are_closed) for id in ids]

    async def touched_schedules(
        self, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[int] | None:
        if not ranges:
            return []
        among = " OR ".join(["schedule_id BETWEEN %s AND %s"] * len(ranges))
        async with self._database.connection() as connection:
            results = await connection.execute_together(
                *(
                    (sql.format(among), *chain.from_iterable(ranges), limit + 1)
                    for sql in (TOUCHED, CLOSED_IN)
                )
            )
        touched = sorted({row.schedule_id for result in results for row in result.rows})
        return touched if len(touched) <= limit else None

    async def count_seats(self, schedule_ids: Sequence[int]) -> SeatCounts:
        if not schedule_ids:
            return SeatCounts({}, {}, [])
        ids = list(schedule_ids)
        async with self._database.connection() as connection:
            sales, closed = await connection.execute_together((SALES, ids), (CLOSED, ids))
        return SeatCounts(
            {row.schedule_id: row.sold for row in sales.rows if row.sold},
            {row.schedule_id: row.blocked for row in sales.rows if row.blocked},
            sorted(row.schedule_id for row in closed.rows),
        )

    async def expire_lapsed(
        self, status: Status, after: LapsedHold, limit: int
    ) -> tuple[int, LapsedHold | None]:
        found: list[int] = []
        last = after

        async def work(connection: Connection) -> int:
            nonlocal last
            rows = await connection.fetch_all(
                LAPSED, status.value, after.lapses_at, after.lapses_at, after.id, limit
            )
            found[:] = [row.id for row in rows]
            if found:
                last = LapsedHold(rows[-1].lapses_at, rows[-1].id)
                await connection.execute(EXPIRE, found)
            return len(found)

        try:
            expired = await self._database.run(work)
        except DatabaseError:
            log.exception("expire_batch_failed", holds=len(found))
            expired = await self._expire_one_by_one(found)
        return expired, last if len(found) == limit else None

    async def _expire_one_by_one(self, ids: Sequence[int]) -> int:
        expired = 0
        for id in ids:
            try:
                async with self._database.connection() as connection:
                    expired += await connection.execute(EXPIRE, [id]) > 0
            except (DatabaseError, TransactionAborted):
                log.exception("expire_failed", reservation_id=id)
        return expired

    async def delete_old_keys(self, older_than_hours: int, limit: int) -> int:
        async with self._database.connection() as connection:
            return await connection.execute(DELETE_OLD_KEYS, older_than_hours, limit)

    async def remove_ended(self, older_than_days: int, limit: int) -> int:
        async def work(connection: Connection) -> int:
            rows = await connection.fetch_all(ENDED, older_than_days, limit)
            if not rows:
                return 0
            users = sorted({row.user_id for row in rows})
            all, locked = await connection.execute_together((BUYERS, users), (LOCK_BUYERS, users))
            buyers = [row.user_id for row in locked.rows]
            # Their reservations wait for the next time: nothing else leads to a buyer's row.
            busy = {row.user_id for row in all.rows}.difference(buyers)
            ids = [row.id for row in rows if row.user_id not in busy]
            removals: list[Statement] = [(remove, ids) for remove in REMOVE] if ids else []
            if buyers:
                removals.append((REMOVE_BUYERS, buyers))
            if removals:
                await connection.execute_together(*removals)
            return len(ids)

        return await self._database.run(work)


def _ids(packed: str | None) -> list[int]:
    return sorted(map(int, packed.split(","))) if packed else []
