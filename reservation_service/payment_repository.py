"""The SQL statements of payments of reservations. See `rows` about times and locks.

Payments that are at the same step travel together: one transaction in one round trip. It waits for
no lock on a header, so that one stuck reservation does not hold up the others; when it fails, each
item is tried alone, so that only the culprit fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

from reservation_service.domain import (
    Admission,
    BegunPayment,
    PaymentInProgress,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
    UnknownPayment,
)
from reservation_service.late_payments import (
    ATTEMPTS,
    IS_EARLIER,
    REMEMBER_PAYING,
    RETURN_TO_HOLD,
    check_removed,
    confirm_late,
    free_place,
)
from reservation_service.rows import GET, microseconds, to_reservation, to_reservations
from servicekit import logs
from servicekit.mysql import (
    Connection,
    Database,
    DatabaseError,
    DuplicateKey,
    Result,
    Statement,
    StatementRefused,
    TransactionAborted,
)

log = logs.get(__name__)

Item = TypeVar("Item", PaymentOf, PaymentStart)
Answer = TypeVar("Answer")

LOCK_ALL = "SELECT id FROM reservation WHERE id IN %s ORDER BY id FOR UPDATE NOWAIT"

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

# Sent before CONFIRM_PAYING, in the same transaction: counts the sale that CONFIRM_PAYING makes.
# Both have the same condition and this one locks the row, so that both take effect or neither
# does. The other order, with ROW_COUNT() as the condition, would lose the count of a sale if the
# connection were lost between the two (docs/adr/0018-statements-travel-together.md).
COUNT_SALE_OF_PAYING = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, seats FROM reservation
WHERE id = %s AND payment_id = %s AND status = 'PAYING' FOR UPDATE
ON DUPLICATE KEY UPDATE sold = sold + VALUES(sold)
"""

# Also after the lease: until another user takes a seat, they are still this user's.
CONFIRM_PAYING = """
UPDATE reservation SET status = 'CONFIRMED', updated_at = NOW(6)
WHERE id = %s AND payment_id = %s AND status = 'PAYING'
"""

# The same for many, behind LOCK_ALL. The first condition makes it a search by the primary key.
_PAYING = "id IN %s AND (id, payment_id) IN %s AND status = 'PAYING'"

COUNT_SALES = f"""
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, SUM(seats) FROM reservation WHERE {_PAYING}
GROUP BY schedule_id ORDER BY schedule_id
ON DUPLICATE KEY UPDATE sold = sold + VALUES(sold)
"""

CONFIRM_ALL = f"UPDATE reservation SET status = 'CONFIRMED', updated_at = NOW(6) WHERE {_PAYING}"

CONFIRMED = "SELECT id, payment_id FROM reservation WHERE id IN %s AND status = 'CONFIRMED'"

REMEMBER_ALL = f"""
INSERT INTO earlier_payment (reservation_id, payment_id)
SELECT id, payment_id FROM reservation WHERE {_PAYING}
ON DUPLICATE KEY UPDATE earlier_payment.payment_id = earlier_payment.payment_id
"""

RETURN_ALL = f"""
UPDATE reservation
SET status = 'HELD', payment_id = NULL, lapses_at = GREATEST(held_until, NOW(6)),
    updated_at = NOW(6)
WHERE {_PAYING}
"""

PAYMENT_OF = "SELECT id, COALESCE(payment_id, 0) AS payment_id FROM reservation WHERE id IN %s"

ARE_EARLIER = """
SELECT reservation_id, payment_id FROM earlier_payment
WHERE reservation_id IN %s AND (reservation_id, payment_id) IN %s
"""


class PaymentRepository:
    """Implements `ports.PaymentStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_payments(
        self, starts: Sequence[PaymentStart], lease_seconds: float
    ) -> Sequence[BegunPayment | Exception]:
        lease = microseconds(lease_seconds)
        return await _in_groups(
            starts,
            lambda group: self._begin_together(group, lease),
            lambda start: self._begin_alone(start, lease),
        )

    async def _begin_together(
        self, starts: Sequence[PaymentStart], lease: int
    ) -> dict[PaymentStart, BegunPayment]:
        ids = [start.reservation_id for start in starts]
        begins = [_begin(start, lease) for start in starts]
        changes = [statement for begin in begins for statement in begin]
        _, *changed, found = await self._together((LOCK_ALL, ids), *changes, (GET, ids))
        reservations = to_reservations(found.rows)
        begun: dict[PaymentStart, BegunPayment] = {}
        last = -1
        for start, begin in zip(starts, begins, strict=True):
            last += len(begin)
            reservation = reservations.get(start.reservation_id)
            begun[start] = BegunPayment(changed[last].matched > 0, reservation)
        return begun

    async def _begin_alone(self, start: PaymentStart, lease: int) -> BegunPayment:
        begin = _begin(start, lease)
        get: Statement = (GET, [start.reservation_id])

        async def begin_and_get(connection: Connection) -> BegunPayment:
            return _begun(await connection.execute_together(*begin, get))

        try:
            if len(begin) > 1:
                return _begun(await self._database.execute_transaction(*begin, get))
            # Two transactions in one round trip: the change is a compare-and-set, complete in
            # itself, and the read after it may show what other requests did since.
            return await self._database.run(begin_and_get, autocommit=True)
        except DuplicateKey:
            pass  # another reservation of the place is PAYING or CONFIRMED

        async def work(connection: Connection) -> BegunPayment:
            await free_place(
                connection, start.reservation_id, start.failed_payment_id, start.admission
            )
            return await begin_and_get(connection)

        for _ in range(ATTEMPTS):
            try:
                return await self._database.run(work)
            except DuplicateKey:
                continue  # yet another one was faster
        raise PaymentInProgress

    async def confirm(self, payments: Sequence[PaymentOf]) -> Sequence[PaymentOutcome | Exception]:
        return await _in_groups(payments, self._confirm_together, self._confirm_alone)

    async def _confirm_together(
        self, payments: Sequence[PaymentOf]
    ) -> dict[PaymentOf, PaymentOutcome]:
        ids = [payment.reservation_id for payment in payments]
        *_, found = await self._together(
            (LOCK_ALL, ids),
            (COUNT_SALES, ids, payments),
            (CONFIRM_ALL, ids, payments),
            (CONFIRMED, ids),
        )
        confirmed = {PaymentOf(row.id, row.payment_id) for row in found.rows}
        return dict.fromkeys(confirmed.intersection(payments), PaymentOutcome.CONFIRMED)

    async def _confirm_alone(self, payment: PaymentOf) -> PaymentOutcome:
        _, confirmed = await self._database.execute_transaction(
            (COUNT_SALE_OF_PAYING, *payment), (CONFIRM_PAYING, *payment)
        )
        if confirmed.matched:
            return PaymentOutcome.CONFIRMED
        return await confirm_late(self._database, payment)

    async def return_to_hold(self, payments: Sequence[PaymentOf]) -> Sequence[Exception | None]:
        return await _in_groups(payments, self._return_together, self._return_alone)

    async def _return_together(self, payments: Sequence[PaymentOf]) -> dict[PaymentOf, None]:
        ids = [payment.reservation_id for payment in payments]
        *_, current, earlier = await self._together(
            (LOCK_ALL, ids),
            (REMEMBER_ALL, ids, payments),
            (RETURN_ALL, ids, payments),
            (PAYMENT_OF, ids),
            (ARE_EARLIER, ids, payments),
        )
        known = {PaymentOf(*row) for result in (current, earlier) for row in result.rows}
        return dict.fromkeys(known.intersection(payments))

    async def _return_alone(self, payment: PaymentOf) -> None:
        _, returned, current, earlier = await self._database.execute_transaction(
            (REMEMBER_PAYING, *payment),
            (RETURN_TO_HOLD, *payment),
            (PAYMENT_OF, [payment.reservation_id]),
            (IS_EARLIER, *payment),
        )
        if returned.matched or earlier.rows:
            return
        if not current.rows:
            async with self._database.connection() as connection:
                await check_removed(connection, payment.reservation_id)
        elif current.rows[0].payment_id != payment.payment_id:
            raise UnknownPayment(*payment)

    async def _together(self, *statements: Statement) -> list[Result]:
        """Runs a transaction in one round trip, once."""
        async with self._database.connection() as connection:
            return (await connection.execute_together(("BEGIN",), *statements, ("COMMIT",)))[1:-1]


async def _in_groups(
    items: Sequence[Item],
    together: Callable[[Sequence[Item]], Awaitable[Mapping[Item, Answer]]],
    alone: Callable[[Item], Awaitable[Answer]],
) -> list[Answer | Exception]:
    """Returns an answer or an error for each item, in order.

    `together` answers those items of a group that it has decided; the others, and all of a group
    that fails, are tried alone, at once. An item that overlaps an earlier one waits for the next
    group.
    """
    answers: dict[int, Answer | Exception] = {}
    waiting = list(enumerate(items))
    while waiting:
        group, waiting = _first_of_each(waiting)
        decided: Mapping[Item, Answer] = {}
        if len(group) > 1:
            try:
                # In the order of their ids, for the order of locks.
                decided = await together(
                    sorted((item for _, item in group), key=attrgetter("reservation_id"))
                )
            except (DatabaseError, TransactionAborted, StatementRefused) as error:
                log.info("payment_group_failed", items=len(group), error=type(error).__name__)
        answers |= {n: decided[item] for n, item in group if item in decided}
        rest = [(n, item) for n, item in group if item not in decided]
        outcomes = await asyncio.gather(*(_attempt(alone(item)) for _, item in rest))
        answers |= {n: outcome for (n, _), outcome in zip(rest, outcomes, strict=True)}
    return [answers[n] for n in range(len(items))]


def _first_of_each(
    items: Sequence[tuple[int, Item]],
) -> tuple[list[tuple[int, Item]], list[tuple[int, Item]]]:
    """Splits off the first item of each reservation and of each admission, in order."""
    seen: set[int | Admission] = set()
    first: list[tuple[int, Item]] = []
    rest: list[tuple[int, Item]] = []
    for n, item in items:
        parts: set[int | Admission] = {item.reservation_id}
        if isinstance(item, PaymentStart) and item.admission is not None:
            parts.add(item.admission)
        (first if seen.isdisjoint(parts) else rest).append((n, item))
        seen |= parts
    return first, rest


async def _attempt(call: Awaitable[Answer]) -> Answer | Exception:
    try:
        return await call
    except Exception as error:
        return error


def _begin(start: PaymentStart, lease: int) -> list[Statement]:
    """Returns the statements that begin a payment; the last one matches a row if it began."""
    place = (
        (start.admission.room, start.admission.place_number) if start.admission else (None, None)
    )
    begin: Statement = (
        BEGIN_PAYMENT,
        start.payment_id,
        *place,
        lease,
        start.reservation_id,
        start.user_id,
        start.failed_payment_id,
        start.payment_id,
    )
    if not start.failed_payment_id:
        return [begin]
    return [(REMEMBER_PAYING, start.reservation_id, start.failed_payment_id), begin]


def _begun(results: Sequence[Result]) -> BegunPayment:
    """The outcome of one item, whose last statements were its BEGIN_PAYMENT and its GET."""
    *_, change, found = results
    return BegunPayment(change.matched > 0, to_reservation(found.rows) if found.rows else None)
