"""Every SQL statement of reservation_service.

The database's clock decides whether a hold has expired (NOW(6); the session is UTC), in the
statement that depends on it, because the clocks of the replicas may differ.
"""

import math
from collections.abc import Sequence
from datetime import UTC

from reservation_service.domain import (
    Admission,
    AdmissionEnded,
    HoldTerms,
    IdempotencyKey,
    PaymentInProgress,
    PaymentOutcome,
    Remembered,
    RequestInProgress,
    Reservation,
    ReservationNotFound,
    Seat,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    Status,
    UnknownPayment,
)
from servicekit import logs
from servicekit.mysql import (
    Connection,
    Database,
    DatabaseError,
    DuplicateKey,
    LockTimeout,
    MissingValue,
    Result,
    Row,
    Statement,
    TransactionAborted,
)

log = logs.get(__name__)

# Attempts to take a seat that another request takes between our read and our write.
ATTEMPTS = 3

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

# The reservation of a place that is being paid or paid; the unique index allows one. One whose
# lease has run out is dead.
PAID_OF_PLACE = """
SELECT id, status, COALESCE(payment_id, 0) AS payment_id, lapses_at <= NOW(6) AS lapsed
FROM reservation WHERE paid_place = %s AND room = %s
"""

# The same, for the place of a reservation that is about to be paid. Locks both rows.
LOCK_PAID_OF_SAME_PLACE = """
SELECT p.id, p.status, COALESCE(p.payment_id, 0) AS payment_id, p.lapses_at <= NOW(6) AS lapsed
FROM reservation r STRAIGHT_JOIN reservation p
  ON p.paid_place = COALESCE(%s, r.place_number) AND p.room = COALESCE(%s, r.room)
WHERE r.id = %s AND p.id <> r.id FOR UPDATE
"""

# NOW(6) has the same value throughout a statement.
INSERT = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, held_until, lapses_at,
                         created_at, updated_at, room, place_number, status)
VALUES (%s, %s, %s, %s, %s, NOW(6) + INTERVAL %s MICROSECOND, NOW(6) + INTERVAL %s MICROSECOND,
        NOW(6), NOW(6), %s, %s, {})
RETURNING id, held_until, created_at
"""

# Two conditions without which nothing is inserted: there is no status then, which is an error. In
# the same statement, because a payment may begin, and another hold of the user may end, after any
# earlier read. The inner queries read indexes only, and LIMIT keeps the optimizer from rewriting
# them; both keep them cheap. They lock what they find, so they wait for a payment that begins now.
#
# A reservation of the place is being paid or paid.
IS_PAID = "EXISTS(SELECT 1 FROM reservation p WHERE p.paid_place = %s AND p.room = %s LIMIT 1)"
# The user has held the seat before. The second also names the last reservation that is known; the
# range of ids costs more, so the first attempt does without it.
HAS_HELD = "EXISTS(SELECT 1 FROM reservation o WHERE o.user_id = %s AND o.seat_id = %s LIMIT 1)"
HAS_HELD_SINCE = """
EXISTS(SELECT 1 FROM reservation o WHERE o.user_id = %s AND o.seat_id = %s AND o.id > %s LIMIT 1)
"""

# The user's last reservation of a seat, whether it has ended, how much was left of the hold then,
# and how much is left of its cool-down, in microseconds.
LAST_HOLD = """
SELECT id, ended, TIMESTAMPDIFF(MICROSECOND, ended_at, held_until) AS unused,
       TIMESTAMPDIFF(MICROSECOND, NOW(6), ended_at + INTERVAL %s MICROSECOND) AS cooling
FROM (
    SELECT id, held_until, IF(status = 'CANCELLED', updated_at, lapses_at) AS ended_at,
           status IN ('CANCELLED', 'EXPIRED') AS ended
    FROM reservation WHERE user_id = %s AND seat_id = %s ORDER BY id DESC LIMIT 1
) last
"""

# Does not wait: a locked row belongs to a request that is in progress.
CLAIM_KEY = """
SET STATEMENT innodb_lock_wait_timeout = 0 FOR
INSERT INTO idempotency_key (user_id, idem_key, seat_id, created_at)
VALUES (%s, %s, %s, NOW(6))
"""

FINISH_KEY = "UPDATE idempotency_key SET reservation_id = %s WHERE user_id = %s AND idem_key = %s"

REMEMBERED = f"""
SELECT k.seat_id AS key_seat_id, k.reservation_id IS NULL AS seat_missing, {COLUMNS}
FROM idempotency_key k LEFT JOIN reservation r ON r.id = k.reservation_id
WHERE k.user_id = %s AND k.idem_key = %s AND (k.reservation_id IS NULL OR r.id IS NOT NULL)
"""

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

COUNT_SALE = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, 1 FROM reservation WHERE id = %s
ON DUPLICATE KEY UPDATE sold = sold + 1
"""

# Sent before CONFIRM_PAYING, in the same transaction: counts the sale that CONFIRM_PAYING makes.
# Both have the same condition and this one locks the row, so that both take effect or neither
# does. The other order, with ROW_COUNT() as the condition, would lose the count of a sale if the
# connection were lost between the two (docs/adr/0018-statements-travel-together.md).
COUNT_SALE_OF_PAYING = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, 1 FROM reservation
WHERE id = %s AND payment_id = %s AND status = 'PAYING' FOR UPDATE
ON DUPLICATE KEY UPDATE sold = sold + 1
"""

# A reservation that is PAYING for a failed payment counts as HELD until its hold ends.
BEGIN_PAYMENT = """
UPDATE reservation
SET status = 'PAYING', payment_id = %s, updated_at = NOW(6),
    room = COALESCE(%s, room), place_number = COALESCE(%s, place_number),
    lapses_at = GREATEST(held_until, NOW(6) + INTERVAL %s MICROSECOND)
WHERE id = %s AND user_id = %s AND (
    (status = 'HELD' AND held_until > NOW(6))
    OR (status = 'PAYING' AND payment_id = %s AND held_until > NOW(6))
    OR (status = 'PAYING' AND payment_id = %s AND lapses_at > NOW(6)))
"""

# Also after the lease: until another user takes the seat, it is still this user's.
CONFIRM_PAYING = """
UPDATE reservation SET status = 'CONFIRMED', updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

# The reservation is about to name another payment, or none, as its payment_id.
REMEMBER_PAYING = """
INSERT INTO earlier_payment (reservation_id, payment_id)
SELECT id, payment_id FROM reservation
WHERE id = %s AND payment_id = %s AND status = 'PAYING' FOR UPDATE
ON DUPLICATE KEY UPDATE earlier_payment.payment_id = earlier_payment.payment_id
"""

REMEMBER = """
INSERT INTO earlier_payment (reservation_id, payment_id) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE payment_id = payment_id
"""

IS_EARLIER = "SELECT payment_id FROM earlier_payment WHERE reservation_id = %s AND payment_id = %s"

LOCK = "SELECT seat_id, status, payment_id FROM reservation WHERE id = %s FOR UPDATE"

CONFIRM_LATE = """
UPDATE reservation SET status = 'CONFIRMED', payment_id = %s, updated_at = NOW(6) WHERE id = %s
"""

IS_LOST = "SELECT payment_id FROM lost_seat WHERE payment_id = %s AND reservation_id = %s"

LOSE = "INSERT INTO lost_seat (payment_id, reservation_id, lost_at) VALUES (%s, %s, NOW(6))"

# If the lease has outlasted the hold, the hold ends now: its cool-down counts from here.
RETURN_TO_HOLD = """
UPDATE reservation
SET status = 'HELD', payment_id = NULL, lapses_at = GREATEST(held_until, NOW(6)),
    updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

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

# An id that was given out is below the next one, also when no row is left.
WAS_GIVEN_OUT = """
SELECT AUTO_INCREMENT > %s AS given_out FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'reservation'
"""


class ReservationRepository:
    """Implements `ports.ReservationStore` in MariaDB. A method is one transaction, or statements
    that are each correct alone (`hold` without a key)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(
        self,
        user_id: int,
        seat: Seat,
        terms: HoldTerms,
        key: IdempotencyKey | None,
        admission: Admission | None,
    ) -> Reservation | Remembered:
        async def work(connection: Connection) -> Reservation | Remembered:
            if key is not None and (known := await _claim(connection, key, seat.id)) is not None:
                return known
            lapsed = await _lapsed_or_none(connection, seat.id)
            reservation = await _take(connection, user_id, seat, terms, admission, lapsed)
            if key is not None:
                await connection.execute(FINISH_KEY, reservation.id, key.user_id, key.value)
            return reservation

        # Without a key the INSERT alone is the transaction, which saves two of four round trips.
        # Expiring a lapsed hold is correct even if another request takes the seat.
        return await self._database.run(work, autocommit=key is None)

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        async with self._database.connection() as connection:
            return await _remembered(connection, key)

    async def remember_missing_seat(self, key: IdempotencyKey, seat_id: int) -> Remembered | None:
        return await self._database.run(lambda connection: _claim(connection, key, seat_id))

    async def get(self, reservation_id: int) -> Reservation | None:
        async with self._database.connection() as connection:
            return await _get(connection, reservation_id)

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        return await self._change_and_get(reservation_id, (CANCEL, reservation_id, user_id))

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        cancel = (CANCEL_ALL, user_id, admission.room, admission.place_number, limit)
        return await self._database.run(
            lambda connection: connection.execute(*cancel), autocommit=True
        )

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        admission: Admission | None,
        lease_seconds: float,
    ) -> tuple[bool, Reservation | None]:
        place = (admission.room, admission.place_number) if admission else (None, None)
        lease = _microseconds(lease_seconds)
        values = (payment_id, *place, lease, reservation_id, user_id, failed_payment_id, payment_id)
        begin: Statement = (BEGIN_PAYMENT, *values)
        get: Statement = (GET, reservation_id)
        try:
            if not failed_payment_id:
                return await self._change_and_get(reservation_id, begin)
            _, begun, found = await self._database.execute_transaction(
                (REMEMBER_PAYING, reservation_id, failed_payment_id), begin, get
            )
            return _changed(begun, found)
        except DuplicateKey:
            pass  # another reservation of the place is PAYING or CONFIRMED

        async def work(connection: Connection) -> tuple[bool, Reservation | None]:
            await _free_place(connection, reservation_id, failed_payment_id, admission)
            *_, begun, found = await connection.execute_together(
                (REMEMBER_PAYING, reservation_id, failed_payment_id), begin, get
            )
            return _changed(begun, found)

        for _ in range(ATTEMPTS):
            try:
                return await self._database.run(work)
            except DuplicateKey:
                continue  # yet another one was faster
        raise PaymentInProgress

    async def _change_and_get(
        self, reservation_id: int, change: Statement
    ) -> tuple[bool, Reservation | None]:
        """Returns whether the change was made, and the reservation after it.

        One round trip, two transactions: the change is a compare-and-set, complete in itself, and
        the read after it may show what other requests did since.
        """

        async def work(connection: Connection) -> tuple[bool, Reservation | None]:
            return _changed(*await connection.execute_together(change, (GET, reservation_id)))

        return await self._database.run(work, autocommit=True)

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

    async def confirm(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        _, confirmed = await self._database.execute_transaction(
            (COUNT_SALE_OF_PAYING, reservation_id, payment_id),
            (CONFIRM_PAYING, reservation_id, payment_id),
        )
        if confirmed.matched:
            return PaymentOutcome.CONFIRMED
        return await self._confirm_late(reservation_id, payment_id)

    async def _confirm_late(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        """Confirms a reservation that is not PAYING for this payment, unless its seat is lost."""

        async def work(connection: Connection) -> PaymentOutcome:
            row = await connection.fetch_one(LOCK, reservation_id)
            if row is None:
                await _check_removed(connection, reservation_id)
                return PaymentOutcome.SEAT_LOST
            if row.status == Status.CONFIRMED and row.payment_id == payment_id:
                return PaymentOutcome.CONFIRMED
            # The outcome of a payment is final: the refund has begun.
            if await connection.fetch_one(IS_LOST, payment_id, reservation_id) is not None:
                return PaymentOutcome.SEAT_LOST
            if row.payment_id != payment_id:
                if await connection.fetch_one(IS_EARLIER, reservation_id, payment_id) is None:
                    raise UnknownPayment(reservation_id, payment_id)
                if row.payment_id is not None and row.status != Status.CONFIRMED:
                    await connection.execute(REMEMBER, reservation_id, row.payment_id)
            if row.status != Status.CONFIRMED and await _take_again(
                connection, reservation_id, payment_id, row.seat_id
            ):
                return PaymentOutcome.CONFIRMED
            await connection.execute(LOSE, payment_id, reservation_id)
            return PaymentOutcome.SEAT_LOST

        return await self._database.run(work)

    async def return_to_hold(self, reservation_id: int, payment_id: int) -> None:
        _, returned = await self._database.execute_transaction(
            (REMEMBER_PAYING, reservation_id, payment_id),
            (RETURN_TO_HOLD, reservation_id, payment_id),
        )
        if returned.matched:
            return
        async with self._database.connection() as connection:
            found, earlier = await connection.execute_together(
                (GET, reservation_id), (IS_EARLIER, reservation_id, payment_id)
            )
            if not found.rows:
                await _check_removed(connection, reservation_id)
                return
        if found.rows[0].payment_id != payment_id and not earlier.rows:
            raise UnknownPayment(reservation_id, payment_id)

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


async def _check_removed(connection: Connection, reservation_id: int) -> None:
    """Raises ReservationNotFound if a reservation that is not stored has never existed."""
    row = await connection.fetch_one(WAS_GIVEN_OUT, reservation_id)
    if row is None or not row.given_out:
        raise ReservationNotFound(reservation_id)


def _changed(change: Result, found: Result) -> tuple[bool, Reservation | None]:
    return change.matched == 1, _reservation(found.rows[0]) if found.rows else None


async def _get(connection: Connection, reservation_id: int) -> Reservation | None:
    row = await connection.fetch_one(GET, reservation_id)
    return _reservation(row) if row is not None else None


async def _remembered(connection: Connection, key: IdempotencyKey) -> Remembered | None:
    row = await connection.fetch_one(REMEMBERED, key.user_id, key.value)
    if row is None:
        return None
    return Remembered(row.key_seat_id, None if row.seat_missing else _reservation(row))


async def _claim(connection: Connection, key: IdempotencyKey, seat_id: int) -> Remembered | None:
    """Claims a key, with "seat not found" as its result until there is another one. Returns the
    stored result if the key has one. Raises RequestInProgress."""
    try:
        await connection.execute(CLAIM_KEY, key.user_id, key.value, seat_id)
    except LockTimeout:
        raise RequestInProgress from None
    except DuplicateKey:
        remembered = await _remembered(connection, key)
    else:
        return None
    if remembered is None:  # deleted since the INSERT, for its age
        raise RequestInProgress
    return remembered


async def _lapsed_or_none(connection: Connection, seat_id: int) -> int | None:
    """Returns the id of the seat's live reservation if that has lapsed, None if the seat has no
    live reservation. Raises SeatHeld, SeatSold."""
    row = await connection.fetch_one(LIVE_OF_SEAT, seat_id)
    if row is None:
        return None
    if row.status == Status.CONFIRMED:
        raise SeatSold(seat_id)
    if not row.lapsed:
        raise SeatHeld(seat_id)
    return int(row.id)


async def _take(
    connection: Connection,
    user_id: int,
    seat: Seat,
    terms: HoldTerms,
    admission: Admission | None,
    lapsed: int | None,
) -> Reservation:
    """Holds a seat whose only live reservation, if any, is `lapsed`. Raises SeatHeld, SeatSold,
    SeatCoolsDown, PaymentInProgress, AdmissionEnded."""
    length = _microseconds(terms.hold_seconds)
    last_id = 0 if terms.cool_down_seconds else None
    for _ in range(ATTEMPTS):
        if lapsed is not None:
            await connection.execute(EXPIRE, lapsed)
        try:
            row = await connection.fetch_one(*_insert(user_id, seat, length, admission, last_id))
        except MissingValue:
            if admission is not None:
                await _check_unpaid(connection, admission)
            if last_id is not None:
                last_id, length = await _after_last_hold(connection, user_id, seat, terms)
            continue
        except DuplicateKey:
            # Another request was faster.
            lapsed = await _lapsed_or_none(connection, seat.id)
            continue
        assert row is not None
        return Reservation(
            id=row.id,
            user_id=user_id,
            seats=(seat,),
            stored_status=Status.HELD,
            held_until=row.held_until.replace(tzinfo=UTC),
            lapses_at=row.held_until.replace(tzinfo=UTC),
            payment_id=0,
            read_at=row.created_at.replace(tzinfo=UTC),
        )
    raise SeatHeld(seat.id)


def _insert(
    user_id: int, seat: Seat, length: int, admission: Admission | None, last_id: int | None
) -> Statement:
    """Returns the INSERT of a hold of `length` microseconds; with `last_id`, unless the user has
    held the seat after that reservation (0: at all)."""
    values = [user_id, seat.id, seat.schedule_id, seat.seat_num, seat.price, length, length]
    values += (admission.room, admission.place_number) if admission else (None, None)
    refusals = []
    if admission is not None:
        refusals.append(IS_PAID)
        values += (admission.place_number, admission.room)
    if last_id == 0:
        refusals.append(HAS_HELD)
        values += (user_id, seat.id)
    elif last_id is not None:
        refusals.append(HAS_HELD_SINCE)
        values += (user_id, seat.id, last_id)
    status = f"IF({' OR '.join(refusals)}, NULL, 'HELD')" if refusals else "'HELD'"
    return (INSERT.format(status), *values)


async def _after_last_hold(
    connection: Connection, user_id: int, seat: Seat, terms: HoldTerms
) -> tuple[int, int]:
    """Returns the id of the user's last reservation of a seat, and how many microseconds the next
    hold may last. Raises SeatCoolsDown if that is none."""
    full = _microseconds(terms.hold_seconds)
    cool_down = _microseconds(terms.cool_down_seconds)
    last = await connection.fetch_one(LAST_HOLD, cool_down, user_id, seat.id)
    if last is None:  # removed since
        return 0, full
    if not last.ended or last.cooling <= 0:  # of one that has not ended, the seat is not free
        return last.id, full
    if last.unused <= 0:
        raise SeatCoolsDown(seat.id, math.ceil(last.cooling / 1_000_000))
    return last.id, min(full, last.unused)


async def _check_unpaid(connection: Connection, admission: Admission) -> None:
    """Expires a payment of the place whose lease has run out. Raises PaymentInProgress or
    AdmissionEnded if there is another one."""
    paid = await connection.fetch_one(PAID_OF_PLACE, admission.place_number, admission.room)
    if paid is None:
        return
    if paid.status == Status.CONFIRMED:
        raise AdmissionEnded
    if not paid.lapsed:
        raise PaymentInProgress(paid.payment_id)
    await connection.execute(EXPIRE, paid.id)


async def _free_place(
    connection: Connection,
    reservation_id: int,
    failed_payment_id: int,
    admission: Admission | None,
) -> None:
    """Ends a payment of another reservation of the place that has failed, or whose lease has run
    out. Raises PaymentInProgress or AdmissionEnded if there is a payment that has not."""
    place = (admission.place_number, admission.room) if admission else (None, None)
    paid = await connection.fetch_one(LOCK_PAID_OF_SAME_PLACE, *place, reservation_id)
    if paid is None:
        return
    if paid.status == Status.CONFIRMED:
        raise AdmissionEnded
    if paid.lapsed:
        await connection.execute(EXPIRE, paid.id)
    elif paid.payment_id == failed_payment_id:
        await connection.execute_together(
            (REMEMBER_PAYING, paid.id, failed_payment_id),
            (RETURN_TO_HOLD, paid.id, failed_payment_id),
        )
    else:
        raise PaymentInProgress(paid.payment_id)


async def _take_again(
    connection: Connection, reservation_id: int, payment_id: int, seat_id: int
) -> bool:
    """Confirms a reservation that is not PAYING for this payment. Returns False if its seat is
    taken, or if another reservation of its place is PAYING or CONFIRMED."""
    for _ in range(ATTEMPTS):
        try:
            await _free_place(connection, reservation_id, 0, None)
        except (PaymentInProgress, AdmissionEnded):
            return False
        live = await connection.fetch_one(LIVE_OF_SEAT, seat_id)
        if live is not None and live.id != reservation_id:
            if live.status == Status.CONFIRMED or not live.lapsed:
                return False
            await connection.execute(EXPIRE, live.id)
        try:
            await connection.execute_together(
                (CONFIRM_LATE, payment_id, reservation_id), (COUNT_SALE, reservation_id)
            )
        except DuplicateKey:
            continue
        return True
    return False


def _reservation(row: Row) -> Reservation:
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


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
