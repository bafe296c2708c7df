"""Holds seats in MariaDB, in groups, and keeps the results of idempotency keys."""

from collections.abc import Collection, Sequence
from datetime import UTC
from enum import Enum, auto

from reservation_service import hold_rows, lone_hold
from reservation_service import hold_statements as sql
from reservation_service.domain import (
    Hold,
    HoldTerms,
    IdempotencyKey,
    Remembered,
    Reservation,
    SeatRequest,
    Status,
)
from reservation_service.errors import RequestInProgress, SeatHeld
from reservation_service.hold_decisions import (
    Decisions,
    Facts,
    Granted,
    RepeatOf,
    decide,
    refusals,
)
from reservation_service.ports import GroupFailed, HoldResult
from reservation_service.rows import EXPIRE, microseconds
from servicekit import logs
from servicekit.errors import ServiceError
from servicekit.mysql import (
    Connection,
    Database,
    DatabaseError,
    DuplicateKey,
    LockTimeout,
    MissingValue,
    Result,
    Statement,
    TransactionAborted,
)

log = logs.get(__name__)

# Up to so many items are sent without reading first. Of a larger group one item is too likely to
# need a decision, and its two trips are shared by many.
UNREAD_ITEMS = 8

# Attempts to decide a group, while other requests take what it wants between our read and our
# write.
ATTEMPTS = 3


class _Failure(Enum):
    LOCK_TIMEOUT = auto()
    LOST_RACES = auto()


class HoldRepository:
    """Implements `ports.HoldStore`: see docs/adr/0043 for the tables, 0044 for the groups."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold_group(
        self, holds: Sequence[Hold], terms: HoldTerms, *, contended: bool = False
    ) -> Sequence[HoldResult]:
        unread = not contended and len(holds) <= UNREAD_ITEMS and not _overlap(holds)
        try:
            results = await self._database.run(
                lambda connection: _hold(
                    connection, holds, terms, unread=unread, refuse_first=contended
                ),
                autocommit=True,
            )
        except TransactionAborted as error:
            raise GroupFailed("abort") from error
        except DatabaseError as error:
            # Not its text, which may quote values.
            log.warning("hold_group_failed", holds=len(holds), number=error.number)
            raise GroupFailed("defect") from error
        if not isinstance(results, _Failure):
            return results
        if results is _Failure.LOCK_TIMEOUT:
            in_progress = await self._in_progress(_keys(holds))
            if in_progress:
                return await self._hold_others(holds, terms, in_progress, contended=contended)
        raise GroupFailed("lock" if results is _Failure.LOCK_TIMEOUT else "races")

    async def _hold_others(
        self,
        holds: Sequence[Hold],
        terms: HoldTerms,
        in_progress: Collection[IdempotencyKey],
        *,
        contended: bool,
    ) -> Sequence[HoldResult]:
        """Holds a group without the items whose keys are in progress."""
        rest = [hold for hold in holds if hold.key not in in_progress]
        held = iter(await self.hold_group(rest, terms, contended=contended) if rest else ())
        return [RequestInProgress() if hold.key in in_progress else next(held) for hold in holds]

    async def hold_alone(self, hold: Hold, terms: HoldTerms, *, patient: bool = True) -> HoldResult:
        results: Sequence[HoldResult] | _Failure = _Failure.LOCK_TIMEOUT
        if patient or not await self.is_locked(hold):
            results = await self._database.run(
                lambda connection: _hold(connection, [hold], terms), autocommit=True
            )
        if not isinstance(results, _Failure):
            return results[0]
        if results is _Failure.LOST_RACES:
            return SeatHeld(*(seat.id for seat in hold.seats))
        if await self._in_progress(_keys([hold])):
            return RequestInProgress()
        raise TransactionAborted

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        async with self._database.connection() as connection:
            return await _find_key(connection, key)

    async def remember_missing_seat(
        self, key: IdempotencyKey, request: SeatRequest, seat_id: int
    ) -> Remembered | None:
        async def work(connection: Connection) -> Remembered | None:
            try:
                await connection.execute(*sql.insert_key_of_missing_seat(key, request, seat_id))
            except LockTimeout:
                raise RequestInProgress from None
            except DuplicateKey:
                if (remembered := await _find_key(connection, key)) is None:  # deleted since
                    raise RequestInProgress from None
                return remembered
            return None

        return await self._database.run(work, autocommit=True)

    async def _in_progress(self, keys: Sequence[IdempotencyKey]) -> set[IdempotencyKey]:
        """Those of the keys that other transactions have locked. Few are: halves with none cost one
        trip."""
        if not keys:
            return set()
        async with self._database.connection() as connection:
            try:
                await connection.execute_together(*map(sql.lock_key, keys))
            except LockTimeout:
                pass  # one of them: which one is found below
            else:
                return set()
        if len(keys) == 1:
            return set(keys)
        half = len(keys) // 2
        return await self._in_progress(keys[:half]) | await self._in_progress(keys[half:])

    async def is_locked(self, hold: Hold) -> bool:
        async with self._database.connection() as connection:
            try:
                await connection.execute_together(*sql.probe(hold))
            except LockTimeout:
                return True
        return False


async def _find_key(connection: Connection, key: IdempotencyKey) -> Remembered | None:
    rows = await connection.fetch_all(*sql.find_keys([key]))
    return hold_rows.remembered(rows) if rows else None


async def _hold(
    connection: Connection,
    holds: Sequence[Hold],
    terms: HoldTerms,
    *,
    unread: bool = False,
    refuse_first: bool = False,
) -> Sequence[HoldResult] | _Failure:
    """Decides a group in one transaction, or in less if all of it is refused. Leaves no
    transaction open unless it raises."""
    before: list[Statement] = []  # what ends an earlier attempt travels with the next
    try:
        if unread:
            try:
                return await _hold_unread(connection, holds, terms)
            except (MissingValue, DuplicateKey):
                before = [("ROLLBACK",)]
        if not unread and not refuse_first:
            return await _hold_read(connection, holds, terms)
        results: list[HoldResult | None] = list(await _refuse(connection, holds, before))
        rest = [index for index, result in enumerate(results) if result is None]
        if rest:
            decided = await _hold_read(connection, [holds[index] for index in rest], terms)
            if isinstance(decided, _Failure):
                return decided
            for index, result in zip(rest, decided, strict=True):
                results[index] = result
        return [result for result in results if result is not None]
    except LockTimeout:
        # Of the statement alone; the transaction goes on.
        await connection.execute("ROLLBACK")
        return _Failure.LOCK_TIMEOUT


async def _hold_unread(
    connection: Connection, holds: Sequence[Hold], terms: HoldTerms
) -> list[HoldResult]:
    """Holds all seats in one trip. Raises MissingValue or DuplicateKey, inside a transaction, if
    an item needs a decision."""
    granted = [Granted(index, hold, terms.hold_seconds) for index, hold in enumerate(holds)]
    if len(holds) == 1 and len(holds[0].seats) <= lone_hold.MAX_SEATS:
        (header,) = await connection.run_program(
            *lone_hold.hold_alone(holds[0], terms), lock_wait_seconds=sql.PATIENCE_SECONDS
        )
        return list(_made(granted, header).values())
    write = _write(granted, if_decided=True)
    done = await connection.execute_together(
        ("BEGIN",),
        sql.lock_or_insert_buyers(holds),
        sql.check_all(holds, terms),
        *write,
        ("COMMIT",),
    )
    return list(_made(granted, done[3]).values())


async def _refuse(
    connection: Connection, holds: Sequence[Hold], before: Sequence[Statement]
) -> Sequence[Remembered | ServiceError | None]:
    """Returns the results of the items whose keys are used or whose seats are taken, None for the
    others. Locks nothing: most of a crowd ends here."""
    keys = _keys(holds)
    *_, closed, claims = done = await connection.execute_together(
        *before,
        *([sql.find_keys(keys)] if keys else []),
        (sql.CLOSED, _schedules(holds)),
        (sql.CLAIMS, _seat_ids(holds)),
    )
    known = hold_rows.known_keys(done[-3].rows) if keys else {}
    return refusals(
        holds,
        Facts(
            claims=hold_rows.claims(claims.rows), keys=known, closed=hold_rows.closed(closed.rows)
        ),
    )


async def _hold_read(
    connection: Connection, holds: Sequence[Hold], terms: HoldTerms
) -> Sequence[HoldResult] | _Failure:
    """Reads all that decides the items, decides, and writes."""
    before: list[Statement] = []
    for _ in range(ATTEMPTS):
        buyers, facts = await _read(connection, holds, terms, before)
        decisions = decide(holds, facts, terms)
        granted = decisions.granted
        if not granted:
            await connection.execute("ROLLBACK")
            return _results(holds, decisions, {})
        try:
            made = await _write_decided(connection, buyers, decisions)
        except (MissingValue, DuplicateKey):  # another request was faster
            before = [("ROLLBACK",)]
            continue
        return _results(holds, decisions, made)
    await connection.execute("ROLLBACK")
    return _Failure.LOST_RACES


async def _read(
    connection: Connection, holds: Sequence[Hold], terms: HoldTerms, before: Sequence[Statement]
) -> tuple[set[int], Facts]:
    """Begins a transaction in which the buyers are locked. Returns those that are stored, and the
    facts.

    The claims are read before the users' holds: when a seat is free, the hold that had it has
    ended, and is seen to have.
    """
    users, seats, keys = sorted({hold.user_id for hold in holds}), _seat_ids(holds), _keys(holds)
    places = list({hold.admission: None for hold in holds if hold.admission is not None})
    cool_down = microseconds(terms.cool_down_seconds)
    statements: list[Statement] = [*before, ("BEGIN",), (sql.LOCK_BUYERS, users)]
    first = len(statements)
    statements += [(sql.CLAIMS, seats), (sql.SEATS_OF_USERS, users)]
    statements.append((sql.CLOSED, _schedules(holds)))
    if cool_down:
        statements.append((sql.LAST_HOLDS, cool_down, seats, users, cool_down))
    if keys:
        statements.append(sql.find_keys(keys))
    if places:
        statements.append(sql.find_paid(places))
    done = await connection.execute_together(*statements)
    read = iter(done[first:])
    claims, seats_of_users = next(read).rows, next(read).rows
    facts = Facts(
        closed=hold_rows.closed(next(read).rows),
        claims=hold_rows.claims(claims),
        unpaid=hold_rows.unpaid(seats_of_users),
        of_schedule={(row.user_id, row.schedule_id): int(row.seats) for row in seats_of_users},
        last_holds=hold_rows.last_holds(next(read).rows) if cool_down else {},
        keys=hold_rows.known_keys(next(read).rows) if keys else {},
        paid=hold_rows.paid(next(read).rows) if places else {},
    )
    return {row.user_id for row in done[first - 1].rows}, facts


async def _write_decided(
    connection: Connection, buyers: set[int], decisions: Decisions
) -> dict[int, Reservation]:
    granted = decisions.granted
    new = {item.hold.user_id for item in granted} - buyers
    before: list[Statement] = []
    if new:
        before.append(sql.insert_buyers(new))
    if decisions.lapsed:
        before.append((f"{sql.PATIENCE}{EXPIRE}", list(decisions.lapsed)))
    done = await connection.execute_together(*before, *_write(granted), ("COMMIT",))
    return _made(granted, done[len(before)])


def _write(granted: Sequence[Granted], *, if_decided: bool = False) -> list[Statement]:
    """The headers first: the ids of the others come from them."""
    return [
        sql.insert_reservations(granted, if_decided=if_decided),
        sql.insert_seats(granted),
        *sql.insert_keys(granted),
        sql.claim_seats(granted),
        sql.check_open(granted),
    ]


def _made(granted: Sequence[Granted], headers: Result) -> dict[int, Reservation]:
    """By the index of the item."""
    return {
        item.index: Reservation(
            id=row.id,
            user_id=item.hold.user_id,
            seats=item.hold.seats,
            stored_status=Status.HELD,
            held_until=row.held_until.replace(tzinfo=UTC),
            lapses_at=row.held_until.replace(tzinfo=UTC),
            payment_id=0,
            read_at=row.created_at.replace(tzinfo=UTC),
            currency=item.hold.currency,
        )
        for item, row in zip(granted, headers.rows, strict=True)
    }


def _results(
    holds: Sequence[Hold], decisions: Decisions, made: dict[int, Reservation]
) -> list[HoldResult]:
    results: list[HoldResult] = []
    for index, decision in enumerate(decisions.of_items):
        match decision:
            case Granted():
                results.append(made[index])
            case RepeatOf(first):
                results.append(Remembered(holds[first].request, made[first]))
            case _:
                results.append(decision)
    return results


def _overlap(holds: Sequence[Hold]) -> bool:
    """Whether two items have a seat, a user or with it a key in common."""
    users = {hold.user_id for hold in holds}
    seats = {seat.id for hold in holds for seat in hold.seats}
    return len(users) < len(holds) or len(seats) < sum(len(hold.seats) for hold in holds)


def _seat_ids(holds: Sequence[Hold]) -> list[int]:
    return sorted({seat.id for hold in holds for seat in hold.seats})


def _schedules(holds: Sequence[Hold]) -> list[int]:
    return sorted({hold.schedule_id for hold in holds})


def _keys(holds: Sequence[Hold]) -> list[IdempotencyKey]:
    return list({hold.key: None for hold in holds if hold.key is not None})
