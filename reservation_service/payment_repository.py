"""The SQL statements of payments of reservations. See `rows` about times and locks.

Payments that are at the same step travel together: one transaction in one round trip. It waits for
no lock on a header, so that one stuck reservation does not hold up the others; when it fails, each
item is tried alone, so that only the culprit fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TypeVar

from reservation_service.domain import (
    Admission,
    BegunPayment,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
)
from reservation_service.errors import PaymentInProgress, UnknownPayment
from reservation_service.late_payments import (
    ATTEMPTS,
    HOLD_ENDS_AT,
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
    LockTimeout,
    Result,
    Statement,
    StatementRefused,
    TransactionAborted,
)

log = logs.get(__name__)

Item = TypeVar("Item", PaymentOf, PaymentStart)
Answer = TypeVar("Answer")

LOCK_ALL = "SELECT id FROM reservation WHERE id IN %s ORDER BY id FOR UPDATE NOWAIT"

# A row that stays locked for longer is stuck: a transaction takes milliseconds. Payments that
# travel with it wait for its answer.
LOCK_WITH_PATIENCE = "SELECT id FROM reservation WHERE id = %s FOR UPDATE WAIT 1"

# A reservation that is PAYING for a failed payment counts as HELD until its hold ends, or its
# schedule is closed.
BEGIN_PAYMENT = """
UPDATE reservation
SET status = 'PAYING', payment_id = %s, updated_at = NOW(6),
    room = COALESCE(%s, room), place_number = COALESCE(%s, place_number),
    lapses_at = GREATEST(held_until, NOW(6) + INTERVAL %s MICROSECOND)
WHERE id = %s AND user_id = %s AND (
    (status = 'HELD' AND held_until > NOW(6))
    OR (status = 'PAYING' AND payment_id = %s AND held_until > NOW(6) AND NOT EXISTS(
        SELECT 1 FROM closed_schedule c WHERE c.schedule_id = reservation.schedule_id))
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

# The same for many, behind LOCK_ALL; {} stands for `_any_of` the payments. By the index of the
# status they would wait for the locks of other payments.
COUNT_SALES = """
INSERT INTO schedule_sales (schedule_id, sold)
SELECT schedule_id, SUM(seats) FROM reservation FORCE INDEX (PRIMARY)
WHERE status = 'PAYING' AND {}
GROUP BY schedule_id ORDER BY schedule_id
ON DUPLICATE KEY UPDATE sold = sold + VALUES(sold)
"""

CONFIRM_ALL = """
UPDATE reservation FORCE INDEX (PRIMARY) SET status = 'CONFIRMED', updated_at = NOW(6)
WHERE status = 'PAYING' AND {}
"""

CONFIRMED = "SELECT id, payment_id FROM reservation WHERE id IN %s AND status = 'CONFIRMED'"

REMEMBER_ALL = """
INSERT INTO earlier_payment (reservation_id, payment_id)
SELECT id, payment_id FROM reservation FORCE INDEX (PRIMARY) WHERE status = 'PAYING' AND {}
ON DUPLICATE KEY UPDATE earlier_payment.payment_id = earlier_payment.payment_id
"""

RETURN_ALL = f"""
UPDATE reservation FORCE INDEX (PRIMARY)
SET status = 'HELD', payment_id = NULL, {HOLD_ENDS_AT} updated_at = NOW(6)
WHERE status = 'PAYING' AND {{}}
"""

PAYMENT_OF = "SELECT id, COALESCE(payment_id, 0) AS payment_id FROM reservation WHERE id IN %s"

ARE_EARLIER = """
SELECT reservation_id, payment_id FROM earlier_payment WHERE reservation_id IN %s
"""


# Of the connections, those that one call takes for items that failed together.
_ALONE_AT_ONCE = 4


class _Locked(Exception):
    """Another transaction has locked the reservation."""


class PaymentRepository:
    """Implements `ports.PaymentStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_group(
        self, starts: Sequence[PaymentStart], lease_seconds: float
    ) -> Sequence[BegunPayment | None]:
        lease = microseconds(lease_seconds)
        begun: dict[int, BegunPayment] = {}
        for group in _groups(starts):
            decided = await self._decide(group, lambda each: self._begin_together(each, lease))
            begun |= {n: decided[start] for n, start in group if start in decided}
        return [begun.get(n) for n in range(len(starts))]

    async def _begin_together(
        self, starts: Sequence[PaymentStart], lease: int
    ) -> dict[PaymentStart, BegunPayment]:
        if len(starts) == 1 and not starts[0].failed_payment_id:
            # Two transactions in one round trip: the change is a compare-and-set, complete in
            # itself, and the read after it may show what other requests did since.
            [change] = _begin(starts[0], lease)
            get: Statement = (GET, [starts[0].reservation_id])
            async with self._database.connection() as connection:
                results = await connection.execute_together(_at_once(change), get)
            return {starts[0]: _begun(results)}
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

    async def begin_alone(self, start: PaymentStart, lease_seconds: float) -> BegunPayment:
        begin = _begin(start, microseconds(lease_seconds))

        async def work(connection: Connection, free: bool) -> BegunPayment:
            try:
                await connection.execute(LOCK_WITH_PATIENCE, start.reservation_id)
            except LockTimeout:
                raise _Locked from None
            if free:
                await free_place(
                    connection, start.reservation_id, start.failed_payment_id, start.admission
                )
            return _begun(await connection.execute_together(*begin, (GET, [start.reservation_id])))

        for attempt in range(1 + ATTEMPTS):
            try:
                return await self._database.run(partial(work, free=attempt > 0))
            except DuplicateKey:
                continue  # another reservation of the place is PAYING or CONFIRMED
            except _Locked:
                raise TransactionAborted from None
        raise PaymentInProgress

    async def confirm(self, payments: Sequence[PaymentOf]) -> Sequence[PaymentOutcome | Exception]:
        return await self._apply(payments, self._confirm_together, self._confirm_alone)

    async def _confirm_together(
        self, payments: Sequence[PaymentOf]
    ) -> dict[PaymentOf, PaymentOutcome]:
        ids = [payment.reservation_id for payment in payments]
        *_, found = await self._together(
            (LOCK_ALL, ids),
            _any_of(payments, COUNT_SALES),
            _any_of(payments, CONFIRM_ALL),
            (CONFIRMED, ids),
        )
        confirmed = {PaymentOf(row.id, row.payment_id) for row in found.rows}
        return dict.fromkeys(confirmed.intersection(payments), PaymentOutcome.CONFIRMED)

    async def _confirm_alone(self, payment: PaymentOf) -> PaymentOutcome:
        _, confirmed = await self._change_alone(
            payment, (COUNT_SALE_OF_PAYING, *payment), (CONFIRM_PAYING, *payment)
        )
        if confirmed.matched:
            return PaymentOutcome.CONFIRMED
        return await confirm_late(self._database, payment)

    async def return_to_hold(self, payments: Sequence[PaymentOf]) -> Sequence[Exception | None]:
        return await self._apply(payments, self._return_together, self._return_alone)

    async def _return_together(self, payments: Sequence[PaymentOf]) -> dict[PaymentOf, None]:
        ids = [payment.reservation_id for payment in payments]
        *_, current, earlier = await self._together(
            (LOCK_ALL, ids),
            _any_of(payments, REMEMBER_ALL),
            _any_of(payments, RETURN_ALL),
            (PAYMENT_OF, ids),
            (ARE_EARLIER, ids),
        )
        known = {PaymentOf(*row) for result in (current, earlier) for row in result.rows}
        return dict.fromkeys(known.intersection(payments))

    async def _return_alone(self, payment: PaymentOf) -> None:
        _, returned, current, earlier = await self._change_alone(
            payment,
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

    async def _apply(
        self,
        payments: Sequence[PaymentOf],
        together: Callable[[Sequence[PaymentOf]], Awaitable[Mapping[PaymentOf, Answer]]],
        alone: Callable[[PaymentOf], Awaitable[Answer]],
    ) -> list[Answer | Exception]:
        """Returns an answer or an error for each payment, in order. Those that `together` does not
        decide are tried alone, a few at once."""
        few = asyncio.Semaphore(_ALONE_AT_ONCE)
        answers: dict[int, Answer | Exception] = {}
        for group in _groups(payments):
            decided: Mapping[PaymentOf, Answer] = {}
            if len(group) > 1:
                decided = await self._decide(group, together)
            rest = [(n, payment) for n, payment in group if payment not in decided]
            outcomes = await asyncio.gather(*(_attempt(few, alone, each) for _, each in rest))
            answers |= {n: decided[payment] for n, payment in group if payment in decided}
            answers |= {n: outcome for (n, _), outcome in zip(rest, outcomes, strict=True)}
        return [answers[n] for n in range(len(payments))]

    async def _decide(
        self,
        group: Sequence[tuple[int, Item]],
        together: Callable[[Sequence[Item]], Awaitable[Mapping[Item, Answer]]],
    ) -> Mapping[Item, Answer]:
        """Returns the answers that `together` has, none if it fails because of an item."""
        # In the order of the locks.
        items = sorted((item for _, item in group), key=attrgetter("reservation_id"))
        try:
            return await together(items)
        except (DuplicateKey, TransactionAborted, StatementRefused):
            return {}
        except DatabaseError as error:
            log.warning("payment_group_failed", payments=len(items), number=error.number)
            return {}

    async def _change_alone(self, payment: PaymentOf, *statements: Statement) -> list[Result]:
        """Runs a transaction in one round trip, with the retries of `Database.run`. Raises
        TransactionAborted if another one has locked the reservation for a second."""

        async def work(connection: Connection) -> list[Result]:
            lock: Statement = (LOCK_WITH_PATIENCE, payment.reservation_id)
            try:
                results = await connection.execute_together(
                    ("BEGIN",), lock, *statements, ("COMMIT",)
                )
            except LockTimeout:
                raise _Locked from None
            return results[2:-1]

        try:
            return await self._database.run(work, autocommit=True)
        except _Locked:
            raise TransactionAborted from None

    async def _together(self, *statements: Statement) -> list[Result]:
        """Runs a transaction in one round trip, once."""
        async with self._database.connection() as connection:
            return (await connection.execute_together(("BEGIN",), *statements, ("COMMIT",)))[1:-1]


def _groups(items: Sequence[Item]) -> Iterator[list[tuple[int, Item]]]:
    """Splits items into groups in which no two concern the same reservation or admission: such a
    one comes in a later group than the earlier one. Each with its index."""
    waiting = list(enumerate(items))
    while waiting:
        seen: set[int | Admission] = set()
        group: list[tuple[int, Item]] = []
        later: list[tuple[int, Item]] = []
        for n, item in waiting:
            parts: set[int | Admission] = {item.reservation_id}
            if isinstance(item, PaymentStart) and item.admission is not None:
                parts.add(item.admission)
            (group if seen.isdisjoint(parts) else later).append((n, item))
            seen |= parts
        yield group
        waiting = later


def _any_of(payments: Sequence[PaymentOf], sql: str) -> Statement:
    """Returns a statement for the reservations that name one of these payments as theirs."""
    condition = " OR ".join(["id = %s AND payment_id = %s"] * len(payments))
    return sql.format(f"({condition})"), *(id for payment in payments for id in payment)


async def _attempt(
    few: asyncio.Semaphore, call: Callable[[PaymentOf], Awaitable[Answer]], payment: PaymentOf
) -> Answer | Exception:
    async with few:
        try:
            return await call(payment)
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


def _at_once(statement: Statement) -> Statement:
    """Returns a statement that waits for no lock."""
    sql, *values = statement
    return f"SET STATEMENT innodb_lock_wait_timeout = 0 FOR {sql}", *values


def _begun(results: Sequence[Result]) -> BegunPayment:
    """The outcome of one item, whose last statements were its BEGIN_PAYMENT and its GET."""
    *_, change, found = results
    return BegunPayment(change.matched > 0, to_reservation(found.rows) if found.rows else None)
