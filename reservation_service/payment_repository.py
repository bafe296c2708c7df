"""The SQL statements of payments of reservations. See `rows` about times."""

from reservation_service.domain import (
    Admission,
    AdmissionEnded,
    PaymentInProgress,
    PaymentOutcome,
    Reservation,
    ReservationNotFound,
    Status,
    UnknownPayment,
)
from reservation_service.rows import (
    EXPIRE,
    GET,
    LIVE_OF_SEAT,
    change_and_get,
    changed,
    microseconds,
)
from servicekit.mysql import Connection, Database, DuplicateKey, Statement

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

# An id that was given out is below the next one, also when no row is left.
WAS_GIVEN_OUT = """
SELECT AUTO_INCREMENT > %s AS given_out FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'reservation'
"""


class PaymentRepository:
    """Implements `ports.PaymentStore` in MariaDB. A method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        lease = microseconds(lease_seconds)
        values = (payment_id, *place, lease, reservation_id, user_id, failed_payment_id, payment_id)
        begin: Statement = (BEGIN_PAYMENT, *values)
        get: Statement = (GET, reservation_id)
        try:
            if not failed_payment_id:
                return await change_and_get(self._database, reservation_id, begin)
            _, begun, found = await self._database.execute_transaction(
                (REMEMBER_PAYING, reservation_id, failed_payment_id), begin, get
            )
            return changed(begun, found)
        except DuplicateKey:
            pass  # another reservation of the place is PAYING or CONFIRMED

        async def work(connection: Connection) -> tuple[bool, Reservation | None]:
            await _free_place(connection, reservation_id, failed_payment_id, admission)
            *_, begun, found = await connection.execute_together(
                (REMEMBER_PAYING, reservation_id, failed_payment_id), begin, get
            )
            return changed(begun, found)

        for _ in range(ATTEMPTS):
            try:
                return await self._database.run(work)
            except DuplicateKey:
                continue  # yet another one was faster
        raise PaymentInProgress

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


async def _check_removed(connection: Connection, reservation_id: int) -> None:
    """Raises ReservationNotFound if a reservation that is not stored has never existed."""
    row = await connection.fetch_one(WAS_GIVEN_OUT, reservation_id)
    if row is None or not row.given_out:
        raise ReservationNotFound(reservation_id)


async def _free_place(
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
