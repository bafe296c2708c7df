"""Every SQL statement of reservation_service.

Whether a hold has lapsed is decided here, by the database's clock (NOW(6), the session is UTC),
in the statement that depends on it: the clocks of our processes may differ.
"""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from reservation_service.domain import (
    IdempotencyKey,
    PaymentOutcome,
    Remembered,
    RequestInProgress,
    Reservation,
    ReservationNotFound,
    Seat,
    SeatHeld,
    SeatSold,
    Status,
)
from servicekit import logs
from servicekit.mysql import (
    Database,
    DatabaseError,
    DuplicateKey,
    LockTimeout,
    Statement,
    Transaction,
    TransactionAborted,
)

log = logs.get(__name__)

# How often a seat is looked at again that changed hands between look and write.
LOOKS = 3

# `held_until` is the end of the hold that its owner was told. `lapses_at` is when the seat is free
# again: the same, or the end of the lease of a payment under way, if that is later.
COLUMNS = """
r.id, r.user_id, r.seat_id, r.schedule_id, r.seat_num, r.price, r.status, r.held_until,
r.lapses_at, COALESCE(r.payment_id, 0), NOW(6)
"""

GET = f"SELECT {COLUMNS} FROM reservation r WHERE r.id = %s"

LIVE_OF_SEAT = "SELECT id, status, lapses_at <= NOW(6) FROM reservation WHERE live_seat_id = %s"

EXPIRE = """
UPDATE reservation SET status = 'EXPIRED', updated_at = NOW(6)
WHERE id = %s AND status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6)
"""

# NOW(6) is the same throughout a statement.
INSERT = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status, held_until,
                         lapses_at, created_at, updated_at)
VALUES (%s, %s, %s, %s, %s, 'HELD', NOW(6) + INTERVAL %s MICROSECOND,
        NOW(6) + INTERVAL %s MICROSECOND, NOW(6), NOW(6))
RETURNING id, held_until, created_at
"""

# Without waiting: a row that is locked belongs to a request that is in flight.
CLAIM_KEY = """
SET STATEMENT innodb_lock_wait_timeout = 0 FOR
INSERT INTO idempotency_key (user_id, idem_key, seat_id, created_at)
VALUES (%s, %s, %s, NOW(6))
"""

FINISH_KEY = "UPDATE idempotency_key SET reservation_id = %s WHERE user_id = %s AND idem_key = %s"

REMEMBERED = f"""
SELECT k.seat_id, k.reservation_id IS NULL, {COLUMNS}
FROM idempotency_key k LEFT JOIN reservation r ON r.id = k.reservation_id
WHERE k.user_id = %s AND k.idem_key = %s
"""

FORGET_KEYS = "DELETE FROM idempotency_key WHERE created_at < NOW(6) - INTERVAL %s HOUR LIMIT %s"

CANCEL = """
UPDATE reservation SET status = 'CANCELLED', updated_at = NOW(6)
WHERE id = %s AND user_id = %s AND status = 'HELD' AND lapses_at > NOW(6)
"""

TAKEN = """
SELECT seat_id, status = 'CONFIRMED' FROM reservation
WHERE schedule_id = %s AND live_seat_id IS NOT NULL
  AND (status = 'CONFIRMED' OR lapses_at > NOW(6))
ORDER BY live_seat_id
"""

SOLD = "SELECT schedule_id, sold FROM schedule_sales WHERE schedule_id IN (%s)"

COUNT_SALE = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, 1 FROM reservation WHERE id = %s
ON DUPLICATE KEY UPDATE sold = sold + 1
"""

# Sent together with CONFIRM_PAYING and before it: counts the sale that is about to be made. Both go
# by the same condition, and this one locks the row, so that either both change something or neither
# does. To confirm first and count what ROW_COUNT() tells would lose the count of a sale if we went
# away between the two (0018).
COUNT_SALE_OF_PAYING = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, 1 FROM reservation
WHERE id = %s AND payment_id = %s AND status = 'PAYING' FOR UPDATE
ON DUPLICATE KEY UPDATE sold = sold + 1
"""

# A reservation that is PAYING for a payment that failed counts as HELD, by its hold alone.
BEGIN_PAYMENT = """
UPDATE reservation
SET status = 'PAYING', payment_id = %s, updated_at = NOW(6),
    lapses_at = GREATEST(held_until, NOW(6) + INTERVAL %s MICROSECOND)
WHERE id = %s AND user_id = %s AND (
    (status = 'HELD' AND held_until > NOW(6))
    OR (status = 'PAYING' AND payment_id = %s AND held_until > NOW(6))
    OR (status = 'PAYING' AND payment_id = %s AND lapses_at > NOW(6)))
"""

# Lapsed or not: as long as nobody has taken the seat, it is still this user's.
CONFIRM_PAYING = """
UPDATE reservation SET status = 'CONFIRMED', updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

LOCK = "SELECT seat_id, status, payment_id FROM reservation WHERE id = %s FOR UPDATE"

CONFIRM_LATE = """
UPDATE reservation SET status = 'CONFIRMED', payment_id = %s, updated_at = NOW(6) WHERE id = %s
"""

IS_LOST = "SELECT 1 FROM lost_seat WHERE payment_id = %s"

LOSE = "INSERT INTO lost_seat (payment_id, reservation_id, lost_at) VALUES (%s, %s, NOW(6))"

BACK_TO_HOLD = """
UPDATE reservation
SET status = 'HELD', payment_id = NULL, lapses_at = held_until, updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

LAPSED = """
SELECT id FROM reservation FORCE INDEX (to_sweep)
WHERE status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6) AND id > %s
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""

EXPIRE_ALL = """
UPDATE reservation SET status = 'EXPIRED', updated_at = NOW(6)
WHERE id IN (%s) AND status IN ('HELD', 'PAYING') AND lapses_at <= NOW(6)
"""


class ReservationRepository:
    """The store of reservations in MariaDB. A method is one transaction, or statements that are
    each true by themselves (`hold` without a key)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(
        self, user_id: int, seat: Seat, hold_seconds: float, key: IdempotencyKey | None
    ) -> Reservation | Remembered:
        async def work(transaction: Transaction) -> Reservation | Remembered:
            if key is not None and (known := await _claim(transaction, key, seat.id)) is not None:
                return known
            lapsed = await _lapsed_or_none(transaction, seat.id)
            reservation = await _take(transaction, user_id, seat, hold_seconds, lapsed)
            if key is not None:
                await transaction.execute(FINISH_KEY, reservation.id, key.user_id, key.value)
            return reservation

        # Without a key the INSERT alone is the transaction, which saves two round trips of
        # four: that a hold has lapsed is true, and may be written down, whoever gets the seat.
        return await self._database.run(work, autocommit=key is None)

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        async with self._database.reading() as connection:
            return await _remembered(connection, key)

    async def remember_missing_seat(self, key: IdempotencyKey, seat_id: int) -> Remembered | None:
        return await self._database.run(lambda transaction: _claim(transaction, key, seat_id))

    async def get(self, reservation_id: int) -> Reservation | None:
        async with self._database.reading() as connection:
            return await _get(connection, reservation_id)

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        return await self._change_and_get(reservation_id, (CANCEL, reservation_id, user_id))

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        lease_seconds: float,
    ) -> tuple[bool, Reservation | None]:
        lease = _microseconds(lease_seconds)
        values = (payment_id, lease, reservation_id, user_id, failed_payment_id, payment_id)

        return await self._change_and_get(reservation_id, (BEGIN_PAYMENT, *values))

    async def _change_and_get(
        self, reservation_id: int, change: Statement
    ) -> tuple[bool, Reservation | None]:
        """Whether the change was made, and the reservation after it. In one round trip, and each
        statement by itself: the change is a compare-and-set that is whole, and the look behind it
        may already tell what others did next, as it may whenever the change was not made."""

        async def work(connection: Transaction) -> tuple[bool, Reservation | None]:
            changed, found = await connection.together(change, (GET, reservation_id))
            return changed.matched == 1, _reservation(found.rows[0]) if found.rows else None

        return await self._database.run(work, autocommit=True)

    async def taken_seats(self, schedule_id: int) -> tuple[Sequence[int], Sequence[int]]:
        async with self._database.reading() as connection:
            rows = await connection.fetch_all(TAKEN, schedule_id)
        return [id for id, sold in rows if not sold], [id for id, sold in rows if sold]

    async def sold_by_schedule(self, schedule_ids: Sequence[int]) -> dict[int, int]:
        if not schedule_ids:
            return {}
        async with self._database.reading() as connection:
            return dict(await connection.fetch_all(_listing(SOLD, schedule_ids), *schedule_ids))

    async def confirm(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        _, confirmed = await self._database.run_together(
            (COUNT_SALE_OF_PAYING, reservation_id, payment_id),
            (CONFIRM_PAYING, reservation_id, payment_id),
        )
        if confirmed.matched:
            return PaymentOutcome.CONFIRMED
        return await self._confirm_late(reservation_id, payment_id)

    async def _confirm_late(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        """Confirms whatever has become of the reservation meanwhile, or finds its seat lost."""

        async def work(transaction: Transaction) -> PaymentOutcome:
            row = await transaction.fetch_one(LOCK, reservation_id)
            if row is None:
                raise ReservationNotFound(reservation_id)
            seat_id, status, paid_by = row
            if status == Status.CONFIRMED and paid_by == payment_id:
                return PaymentOutcome.CONFIRMED
            # Once lost is lost for ever: the money is on its way back.
            if await transaction.fetch_one(IS_LOST, payment_id) is not None:
                return PaymentOutcome.SEAT_LOST
            if status != Status.CONFIRMED and await _take_again(
                transaction, reservation_id, payment_id, seat_id
            ):
                return PaymentOutcome.CONFIRMED
            await transaction.execute(LOSE, payment_id, reservation_id)
            return PaymentOutcome.SEAT_LOST

        return await self._database.run(work)

    async def back_to_hold(self, reservation_id: int, payment_id: int) -> None:
        async def work(transaction: Transaction) -> None:
            returned = await transaction.execute(BACK_TO_HOLD, reservation_id, payment_id)
            if not returned and await _get(transaction, reservation_id) is None:
                raise ReservationNotFound(reservation_id)

        await self._database.run(work)

    async def expire_lapsed(self, after_id: int, limit: int) -> tuple[int, int]:
        found: list[int] = []

        async def work(transaction: Transaction) -> int:
            found[:] = [id for (id,) in await transaction.fetch_all(LAPSED, after_id, limit)]
            if not found:
                return 0
            return await transaction.execute(_listing(EXPIRE_ALL, found), *found)

        try:
            expired = await self._database.run(work)
        except DatabaseError:
            log.exception("a batch of lapsed holds failed; going on one by one")
            expired = await self._expire_one_by_one(found)
        return expired, found[-1] if len(found) == limit else 0

    async def _expire_one_by_one(self, ids: Sequence[int]) -> int:
        expired = 0
        for id in ids:
            try:
                async with self._database.reading() as connection:
                    expired += await connection.execute(EXPIRE, id)
            except (DatabaseError, TransactionAborted):
                log.exception("a lapsed hold cannot be expired", reservation_id=id)
        return expired

    async def forget_keys(self, older_than_hours: int, limit: int) -> int:
        async with self._database.reading() as connection:
            return await connection.execute(FORGET_KEYS, older_than_hours, limit)


async def _get(transaction: Transaction, reservation_id: int) -> Reservation | None:
    row = await transaction.fetch_one(GET, reservation_id)
    return _reservation(row) if row is not None else None


async def _remembered(transaction: Transaction, key: IdempotencyKey) -> Remembered | None:
    row = await transaction.fetch_one(REMEMBERED, key.user_id, key.value)
    if row is None:
        return None
    seat_id, missing, *columns = row
    return Remembered(seat_id, None if missing else _reservation(columns))


async def _claim(transaction: Transaction, key: IdempotencyKey, seat_id: int) -> Remembered | None:
    """Makes the key ours, with "no such seat" as its answer until there is another. Returns the
    answer it has already. Raises RequestInProgress."""
    try:
        await transaction.execute(CLAIM_KEY, key.user_id, key.value, seat_id)
    except LockTimeout:
        raise RequestInProgress from None
    except DuplicateKey:
        pass
    else:
        return None
    remembered = await _remembered(transaction, key)
    if remembered is None:  # forgotten this instant, after a day
        raise RequestInProgress
    return remembered


async def _lapsed_or_none(transaction: Transaction, seat_id: int) -> int | None:
    """The live reservation of this seat that has lapsed, None if there is no live one. Raises
    SeatHeld or SeatSold."""
    row = await transaction.fetch_one(LIVE_OF_SEAT, seat_id)
    if row is None:
        return None
    id, status, lapsed = row
    if status == Status.CONFIRMED:
        raise SeatSold(seat_id)
    if not lapsed:
        raise SeatHeld(seat_id)
    return int(id)


async def _take(
    transaction: Transaction, user_id: int, seat: Seat, hold_seconds: float, lapsed: int | None
) -> Reservation:
    """Holds a seat whose only live reservation, if any, is `lapsed`. Raises SeatHeld, SeatSold."""
    hold = _microseconds(hold_seconds)
    facts = (user_id, seat.id, seat.schedule_id, seat.seat_num, seat.price)
    for _ in range(LOOKS):
        if lapsed is not None:
            await transaction.execute(EXPIRE, lapsed)
        try:
            row = await transaction.fetch_one(INSERT, *facts, hold, hold)
        except DuplicateKey:
            # Somebody was faster.
            lapsed = await _lapsed_or_none(transaction, seat.id)
            continue
        assert row is not None
        id, held_until, now = row
        return _reservation((id, *facts, Status.HELD, held_until, held_until, 0, now))
    raise SeatHeld(seat.id)


async def _take_again(
    transaction: Transaction, reservation_id: int, payment_id: int, seat_id: int
) -> bool:
    """Confirms a reservation that is not PAYING for this payment; False if the seat is gone."""
    for _ in range(LOOKS):
        live = await transaction.fetch_one(LIVE_OF_SEAT, seat_id)
        if live is not None and live[0] != reservation_id:
            other, status, lapsed = live
            if status == Status.CONFIRMED or not lapsed:
                return False
            await transaction.execute(EXPIRE, other)
        try:
            await transaction.together(
                (CONFIRM_LATE, payment_id, reservation_id), (COUNT_SALE, reservation_id)
            )
        except DuplicateKey:
            continue
        return True
    return False


def _reservation(row: Sequence[Any]) -> Reservation:
    """A reservation from COLUMNS; the database's times are UTC without saying so."""
    values = list(row)
    values[6] = Status(values[6])
    for time in (7, 8, 10):
        values[time] = values[time].replace(tzinfo=UTC)
    return Reservation(*values)


def _listing(sql: str, values: Sequence[int]) -> str:
    """The statement with as many placeholders in its one list as there are values."""
    return sql % ", ".join(["%s"] * len(values))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
