"""The SQL statements of payments that succeed after their reservation has moved on: its time ran
out, another payment took its place, or it was removed. See `rows` about times and locks."""

from reservation_service.domain import Admission, PaymentOf, PaymentOutcome, Status
from reservation_service.errors import (
    AdmissionEnded,
    PaymentInProgress,
    ReservationNotFound,
    UnknownPayment,
)
from reservation_service.rows import EXPIRE
from servicekit.mysql import (
    Connection,
    Database,
    DuplicateKey,
    MissingValue,
    TransactionAborted,
)

# Attempts at a change that another request makes impossible between our read and our write.
ATTEMPTS = 3

# The reservation that is being paid or paid, and has the place of one that is about to be paid.
# Locks both rows.
LOCK_PAID_OF_SAME_PLACE = """
SELECT p.id, p.status, COALESCE(p.payment_id, 0) AS payment_id, p.lapses_at <= NOW(6) AS lapsed
FROM reservation r STRAIGHT_JOIN reservation p
  ON p.paid_place = COALESCE(%s, r.place_number) AND p.room = COALESCE(%s, r.room)
WHERE r.id = %s AND p.id <> r.id FOR UPDATE
"""

LOCK = "SELECT status, payment_id FROM reservation WHERE id = %s FOR UPDATE"

IS_LOST = "SELECT payment_id FROM lost_seat WHERE payment_id = %s AND reservation_id = %s"

LOSE = "INSERT INTO lost_seat (payment_id, reservation_id, lost_at) VALUES (%s, %s, NOW(6))"

IS_EARLIER = "SELECT payment_id FROM earlier_payment WHERE reservation_id = %s AND payment_id = %s"

REMEMBER = """
INSERT INTO earlier_payment (reservation_id, payment_id) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE payment_id = payment_id
"""

# The other reservations that have a seat of this one. Reads without locks: a lock on a claim before
# those on headers would deadlock. TAKE_SEATS decides.
RIVALS = """
SELECT DISTINCT o.id, o.status = 'CONFIRMED' OR o.lapses_at > NOW(6) AS live
FROM reservation_seat s
JOIN seat_claim c ON c.seat_id = s.seat_id
JOIN reservation o ON o.id = c.reservation_id
WHERE s.reservation_id = %s AND o.id <> s.reservation_id
ORDER BY o.id
"""

IS_CLOSED = """
SELECT c.schedule_id FROM reservation r JOIN closed_schedule c ON c.schedule_id = r.schedule_id
WHERE r.id = %s
"""

# All seats or none: NULL for a seat that another reservation has is an error.
TAKE_SEATS = """
INSERT INTO seat_claim (seat_id, reservation_id, schedule_id)
SELECT s.seat_id, r.id, r.schedule_id
FROM reservation r STRAIGHT_JOIN reservation_seat s ON s.reservation_id = r.id
WHERE r.id = %s ORDER BY s.seat_id
ON DUPLICATE KEY UPDATE reservation_id = IF(
    seat_claim.reservation_id IN (0, VALUES(reservation_id)), VALUES(reservation_id), NULL)
"""

CONFIRM_LATE = """
UPDATE reservation SET status = 'CONFIRMED', payment_id = %s, updated_at = NOW(6) WHERE id = %s
"""

COUNT_SALE = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, seats FROM reservation WHERE id = %s
ON DUPLICATE KEY UPDATE sold = sold + VALUES(sold)
"""

# The reservation is about to name another payment, or none, as its payment_id.
REMEMBER_PAYING = """
INSERT INTO earlier_payment (reservation_id, payment_id)
SELECT id, payment_id FROM reservation
WHERE id = %s AND payment_id = %s AND status = 'PAYING' FOR UPDATE
ON DUPLICATE KEY UPDATE earlier_payment.payment_id = earlier_payment.payment_id
"""

# If the lease has outlasted the hold, the hold ends now: its cool-down counts from here.
#
# The hold of a closed schedule ends, too. The row is locked before it asks whether the schedule is
# closed, so whoever closes it finds the payment still there, or the hold.
HOLD_ENDS_AT = """
    held_until = IF(
        EXISTS(SELECT 1 FROM closed_schedule c WHERE c.schedule_id = reservation.schedule_id),
        LEAST(held_until, NOW(6)), held_until),
    lapses_at = GREATEST(held_until, NOW(6)),
"""
RETURN_TO_HOLD = f"""
UPDATE reservation
SET status = 'HELD', payment_id = NULL, {HOLD_ENDS_AT} updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

# An id that was given out is below the next one, also when no row is left.
WAS_GIVEN_OUT = """
SELECT AUTO_INCREMENT > %s AS given_out FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'reservation'
"""


async def confirm_late(database: Database, payment: PaymentOf) -> PaymentOutcome:
    """Confirms a reservation that is not PAYING for this payment, unless its seats are lost: it
    gets all of them again or none.

    Raises ReservationNotFound, UnknownPayment, and TransactionAborted if other requests took and
    freed its seats at each of three attempts.
    """

    async def work(connection: Connection) -> PaymentOutcome:
        return await _confirm_late(connection, *payment)

    for _ in range(ATTEMPTS):
        try:
            return await database.run(work)
        except (DuplicateKey, MissingValue):
            continue  # another request took a seat, or began a payment of the place
    raise TransactionAborted


async def _confirm_late(
    connection: Connection, reservation_id: int, payment_id: int
) -> PaymentOutcome:
    row = await connection.fetch_one(LOCK, reservation_id)
    if row is None:
        await check_removed(connection, reservation_id)
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
    if row.status != Status.CONFIRMED and await _take_again(connection, reservation_id, payment_id):
        return PaymentOutcome.CONFIRMED
    await connection.execute(LOSE, payment_id, reservation_id)
    return PaymentOutcome.SEAT_LOST


async def _take_again(connection: Connection, reservation_id: int, payment_id: int) -> bool:
    """Confirms a reservation that is not PAYING for this payment. Returns False if one of its seats
    is taken, if another reservation of its place is PAYING or CONFIRMED, or if its schedule is
    closed."""
    if await connection.fetch_one(IS_CLOSED, reservation_id) is not None:
        return False
    try:
        await free_place(connection, reservation_id, 0, None)
    except (PaymentInProgress, AdmissionEnded):
        return False
    rivals = await connection.fetch_all(RIVALS, reservation_id)
    if any(rival.live for rival in rivals):
        return False
    if rivals:
        await connection.execute(EXPIRE, [rival.id for rival in rivals])
    await connection.execute_together(
        (TAKE_SEATS, reservation_id),
        (CONFIRM_LATE, payment_id, reservation_id),
        (COUNT_SALE, reservation_id),
    )
    return True


async def free_place(
    connection: Connection, reservation_id: int, failed_payment_id: int, admission: Admission | None
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
        await connection.execute(EXPIRE, [paid.id])
    elif paid.payment_id == failed_payment_id:
        await connection.execute_together(
            (REMEMBER_PAYING, paid.id, failed_payment_id),
            (RETURN_TO_HOLD, paid.id, failed_payment_id),
        )
    else:
        raise PaymentInProgress(paid.payment_id)


async def check_removed(connection: Connection, reservation_id: int) -> None:
    """Raises ReservationNotFound if a reservation that is not stored has never existed."""
    row = await connection.fetch_one(WAS_GIVEN_OUT, reservation_id)
    if row is None or not row.given_out:
        raise ReservationNotFound(reservation_id)
