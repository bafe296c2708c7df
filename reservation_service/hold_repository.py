"""The SQL statements that hold seats, and idempotency keys. See `rows` about times."""

import math
from datetime import UTC

from reservation_service.domain import (
    Admission,
    AdmissionEnded,
    HoldTerms,
    IdempotencyKey,
    PaymentInProgress,
    Remembered,
    RequestInProgress,
    Reservation,
    Seat,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    Status,
)
from reservation_service.rows import (
    COLUMNS,
    EXPIRE,
    LIVE_OF_SEAT,
    SEATS,
    microseconds,
    to_reservation,
)
from servicekit.mysql import (
    Connection,
    Database,
    DuplicateKey,
    LockTimeout,
    MissingValue,
    Statement,
)

# Attempts to take a seat that another request takes between our read and our write.
ATTEMPTS = 3

# The reservation of a place that is being paid or paid; the unique index allows one. One whose
# lease has run out is dead.
PAID_OF_PLACE = """
SELECT id, status, COALESCE(payment_id, 0) AS payment_id, lapses_at <= NOW(6) AS lapsed
FROM reservation WHERE paid_place = %s AND room = %s
"""

# NOW(6) has the same value throughout a statement.
INSERT = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, held_until, lapses_at,
                         created_at, updated_at, room, place_number, status)
VALUES (%s, %s, %s, %s, %s, NOW(6) + INTERVAL %s MICROSECOND, NOW(6) + INTERVAL %s MICROSECOND,
        NOW(6), NOW(6), %s, %s, {})
RETURNING id, held_until, created_at
"""

ADD_SEAT = """
INSERT INTO reservation_seat (reservation_id, seat_id, seat_num, price) VALUES (%s, %s, %s, %s)
"""

# NULL for a seat that another reservation has is an error.
CLAIM_SEAT = """
INSERT INTO seat_claim (seat_id, reservation_id, schedule_id) VALUES (%s, %s, %s)
ON DUPLICATE KEY UPDATE
    reservation_id = IF(seat_claim.reservation_id = 0, VALUES(reservation_id), NULL)
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
FROM idempotency_key k LEFT JOIN reservation r ON r.id = k.reservation_id {SEATS}
WHERE k.user_id = %s AND k.idem_key = %s AND (k.reservation_id IS NULL OR r.id IS NOT NULL)
ORDER BY s.seat_id
"""


class HoldRepository:
    """Implements `ports.HoldStore` in MariaDB. A method is one transaction."""

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

        return await self._database.run(work)

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        async with self._database.connection() as connection:
            return await _remembered(connection, key)

    async def remember_missing_seat(self, key: IdempotencyKey, seat_id: int) -> Remembered | None:
        return await self._database.run(lambda connection: _claim(connection, key, seat_id))


async def _remembered(connection: Connection, key: IdempotencyKey) -> Remembered | None:
    rows = await connection.fetch_all(REMEMBERED, key.user_id, key.value)
    if not rows:
        return None
    return Remembered(rows[0].key_seat_id, None if rows[0].seat_missing else to_reservation(rows))


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
    length = microseconds(terms.hold_seconds)
    last_id = 0 if terms.cool_down_seconds else None
    for _ in range(ATTEMPTS):
        if lapsed is not None:
            await connection.execute(EXPIRE, [lapsed])
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
        try:
            await connection.execute_together(
                (ADD_SEAT, row.id, seat.id, seat.seat_num, seat.price),
                (CLAIM_SEAT, seat.id, row.id, seat.schedule_id),
            )
        except MissingValue:
            raise SeatHeld(seat.id) from None
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
    full = microseconds(terms.hold_seconds)
    cool_down = microseconds(terms.cool_down_seconds)
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
    await connection.execute(EXPIRE, [paid.id])
