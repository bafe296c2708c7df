"""The SQL statements of what the house does: seats that it has, closed schedules, their buyers.

See `rows` about the order of locks. The house's reservation of a schedule is a header with the
lowest ids, so it is locked before those of users, and then come the claims by seat. The counts of
a schedule (`schedule_sales`) are locked last, as payments do. Whatever else must end first, such as
a hold that has run out, ends in a transaction of its own.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence

from reservation_service.domain import Reservation
from reservation_service.errors import SeatsTaken
from reservation_service.hold_statements import PATIENCE
from reservation_service.house import MAX_LISTED, USER_ID, reservation_of
from reservation_service.rows import CANCEL_HOLDS, EXPIRE, GET, to_reservations
from servicekit.errors import InvalidRequest
from servicekit.mysql import Connection, Database, MissingValue, TransactionAborted

# Seats of one statement: it takes a few milliseconds.
_SEATS_AT_ONCE = 2_000
# Holds that one transaction ends: their seats stay locked until its end.
_HOLDS_AT_ONCE = 200
# Attempts to block seats, while others hold some of them between our read and our write.
_ATTEMPTS = 5

MAKE_HOUSE = f"""
INSERT INTO reservation (
    id, user_id, seat_id, schedule_id, seat_num, price, seats, status, held_until, lapses_at,
    created_at, updated_at)
VALUES (%s, {USER_ID}, 0, %s, '', 0, 0, 'CONFIRMED', NOW(6), NOW(6), NOW(6), NOW(6))
ON DUPLICATE KEY UPDATE updated_at = NOW(6)
"""

LOCK_HOUSE = "SELECT id FROM reservation WHERE id = %s FOR UPDATE"

# Without locks. A claim without a reservation is free.
CLAIMS = """
SELECT c.seat_id, c.schedule_id, c.reservation_id,
       COALESCE(r.status = 'CONFIRMED' OR r.lapses_at > NOW(6), FALSE) AS live
FROM seat_claim c LEFT JOIN reservation r ON r.id = c.reservation_id WHERE c.seat_id IN %s
"""

# In the order of the rows: NULL for a seat that somebody else has is an error.
CLAIM = f"""
{PATIENCE}INSERT INTO seat_claim (seat_id, reservation_id, schedule_id) VALUES {{}}
ON DUPLICATE KEY UPDATE reservation_id = IF(
    reservation_id IN (0, VALUES(reservation_id)), VALUES(reservation_id), NULL)
"""

HAS = """
SELECT COUNT(*) AS seats FROM seat_claim WHERE seat_id IN %s AND reservation_id = %s
"""

FREE = "UPDATE seat_claim SET reservation_id = 0 WHERE seat_id IN %s AND reservation_id = %s"

COUNT = """
INSERT INTO schedule_sales (schedule_id, sold, blocked) VALUES (%s, 0, %s)
ON DUPLICATE KEY UPDATE blocked = blocked + VALUES(blocked)
"""

CLOSE = """
INSERT INTO closed_schedule (schedule_id, closed_at) VALUES {}
ON DUPLICATE KEY UPDATE schedule_id = VALUES(schedule_id)
"""

REOPEN = "DELETE FROM closed_schedule WHERE schedule_id IN %s"

# The reservations that have seats of a schedule, also those that are not committed yet: a hold that
# did not see that the schedule is closed has claimed its seats by now, see
# `hold_statements.CHECK_OPEN`. A read that waited for them would lock claims before headers.
DIRTY = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"
CLAIMANTS = """
SELECT DISTINCT reservation_id FROM seat_claim WHERE schedule_id = %s AND reservation_id > 0
"""

LOCK_HOLDS = f"""
{PATIENCE}SELECT id FROM reservation WHERE id IN %s AND status = 'HELD' AND lapses_at > NOW(6)
ORDER BY id FOR UPDATE
"""

_PAYING = "r.status = 'PAYING' AND r.lapses_at > NOW(6)"

# The claims lead to the reservations of a schedule: of these are few beside those that have ended.
PAYING = f"""
SELECT DISTINCT r.id FROM seat_claim c STRAIGHT_JOIN reservation r ON r.id = c.reservation_id
WHERE c.schedule_id IN %s AND {_PAYING} ORDER BY r.id LIMIT %s
"""

PAID = """
SELECT COUNT(DISTINCT r.id) AS paid
FROM seat_claim c STRAIGHT_JOIN reservation r ON r.id = c.reservation_id
WHERE c.schedule_id IN %s AND c.reservation_id > 0 AND r.status = 'CONFIRMED'
"""

BUYERS = f"""
SELECT DISTINCT r.id FROM seat_claim c STRAIGHT_JOIN reservation r ON r.id = c.reservation_id
WHERE c.schedule_id = %s AND c.reservation_id > %s AND (r.status = 'CONFIRMED' OR {_PAYING})
ORDER BY r.id LIMIT %s
"""


class HouseRepository:
    """Implements `ports.HouseStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def block(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        ids = sorted(set(seat_ids))
        for _ in range(_ATTEMPTS):
            # Those that have run out end first, as the sweep would end them: their headers are
            # locked before any claim.
            lapsed = await self._check_free(schedule_id, ids)
            for some in _batches(lapsed, _HOLDS_AT_ONCE):
                await self._database.run(_expiring(some), autocommit=True)
            try:
                return await self._database.run(lambda each: _block(each, schedule_id, ids))
            except MissingValue:
                continue  # somebody was faster
        raise TransactionAborted

    async def _check_free(self, schedule_id: int, ids: Sequence[int]) -> list[int]:
        """Returns the reservations that have run out and still claim some of the seats. Raises
        SeatsTaken, and InvalidRequest for a seat that is known as one of another schedule."""
        taken: list[int] = []
        lapsed: set[int] = set()
        async with self._database.connection() as connection:
            for some in _batches(ids, _SEATS_AT_ONCE):
                for row in await connection.fetch_all(CLAIMS, some):
                    if row.schedule_id != schedule_id:
                        raise InvalidRequest("All seats must be of the schedule.")
                    if row.reservation_id <= 0:
                        continue
                    if row.live:
                        taken.append(row.seat_id)
                    else:
                        lapsed.add(row.reservation_id)
        if taken:
            raise SeatsTaken(sorted(taken)[:MAX_LISTED])
        return sorted(lapsed)

    async def release(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        house = reservation_of(schedule_id)

        async def work(connection: Connection) -> int:
            if await connection.fetch_one(LOCK_HOUSE, house) is None:
                return 0
            released = 0
            for some in _batches(sorted(set(seat_ids)), _SEATS_AT_ONCE):
                released += await connection.execute(FREE, some, house)
            if released:
                await connection.execute(COUNT, schedule_id, -released)
            return released

        return await self._database.run(work)

    async def close(self, schedule_ids: Sequence[int]) -> None:
        ids = sorted(schedule_ids)
        if ids:
            rows = ",".join(["(%s, NOW(6))"] * len(ids))
            async with self._database.connection() as connection:
                await connection.execute(CLOSE.format(rows), *ids)

    async def reopen(self, schedule_ids: Sequence[int]) -> None:
        if schedule_ids:
            async with self._database.connection() as connection:
                await connection.execute(REOPEN, sorted(schedule_ids))

    async def end_holds(self, schedule_id: int) -> int:
        async with self._database.connection() as connection:
            _, claimants = await connection.execute_together((DIRTY,), (CLAIMANTS, schedule_id))
        ended = 0
        for some in _batches(sorted(row.reservation_id for row in claimants.rows), _HOLDS_AT_ONCE):
            ended += await self._database.run(_ending(some))
        return ended

    async def paying(self, schedule_ids: Sequence[int], limit: int) -> Sequence[int]:
        if not schedule_ids:
            return []
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(PAYING, sorted(schedule_ids), limit)
        return [row.id for row in rows]

    async def paid(self, schedule_ids: Sequence[int]) -> int:
        if not schedule_ids:
            return 0
        async with self._database.connection() as connection:
            row = await connection.fetch_one(PAID, sorted(schedule_ids))
        assert row is not None
        return int(row.paid)

    async def buyers(
        self, schedule_id: int, after_reservation_id: int, limit: int
    ) -> Sequence[Reservation]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(BUYERS, schedule_id, after_reservation_id, limit)
            ids = [row.id for row in rows]
            found = to_reservations(await connection.fetch_all(GET, ids) if ids else ())
        # Rows that were read a moment later: a payment may have failed meanwhile.
        return [found[id] for id in ids if id in found]


async def _block(connection: Connection, schedule_id: int, ids: Sequence[int]) -> int:
    """Claims seats for the house in a transaction. Returns how many it did not have."""
    house = reservation_of(schedule_id)
    # Until the end nobody else changes which seats the house has.
    await connection.execute(MAKE_HOUSE, house, schedule_id)
    blocked = 0
    for some in _batches(ids, _SEATS_AT_ONCE):
        rows = ",".join(["(%s, %s, %s)"] * len(some))
        values = [value for id in some for value in (id, house, schedule_id)]
        had, _ = await connection.execute_together(
            (HAS, some, house), (CLAIM.format(rows), *values)
        )
        blocked += len(some) - had.rows[0].seats
    if blocked:
        await connection.execute(COUNT, schedule_id, blocked)
    return blocked


def _expiring(ids: Sequence[int]) -> Callable[[Connection], Awaitable[int]]:
    async def work(connection: Connection) -> int:
        return await connection.execute(f"{PATIENCE}{EXPIRE}", ids)

    return work


def _ending(ids: Sequence[int]) -> Callable[[Connection], Awaitable[int]]:
    async def work(connection: Connection) -> int:
        holds = [row.id for row in await connection.fetch_all(LOCK_HOLDS, ids)]
        if holds:
            await connection.execute(CANCEL_HOLDS, holds)
        return len(holds)

    return work


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
