"""Groups of holds: when they use locks, how often they use MariaDB, and what fails alone."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from reservation_service import hold_rows, lone_hold
from reservation_service.domain import (
    Hold,
    HoldTerms,
    IdempotencyKey,
    Remembered,
    Reservation,
    Seat,
    SeatRequest,
)
from reservation_service.errors import RequestInProgress, SeatHeld
from reservation_service.hold_groups import GROUP_SECONDS, HoldGroups
from reservation_service.ports import GroupFailed, HoldResult
from reservation_service.settings import Settings
from servicekit.errors import ServiceError, Unavailable
from servicekit.mysql import Connection, Database, DatabaseError, Statement, TransactionAborted
from servicekit.mysql_protocol import MysqlConnection, Result
from tests.fakes.reservation import FakeReservationStore, UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    ids,
    new_admission,
    new_seats,
    schedule_of,
)

TERMS = HoldTerms(300.0, 300.0, max_unpaid_seats=8, max_seats_per_schedule=8)


def hold_of(*seat_ids: int, user: int = 0, key: str = "", price: int = 100) -> Hold:
    """A hold by a new user, unless one is given."""
    user = user or next(ids)
    return Hold(
        user,
        tuple(Seat(id, schedule_of(id), f"A{id % 100}", Decimal(price)) for id in sorted(seat_ids)),
        SeatRequest.of_seats(seat_ids),
        IdempotencyKey(user, key) if key else None,
        new_admission(),
    )


def codes(results: Sequence[object]) -> list[str]:
    return [r.code if isinstance(r, ServiceError) else type(r).__name__ for r in results]


class RecordingLocks:
    """Locks that remember what was locked; `elsewhere` are locked by others."""

    def __init__(self) -> None:
        self.locked: list[list[int]] = []
        self.elsewhere: set[int] = set()

    @contextlib.asynccontextmanager
    async def seats(self, seat_ids: Sequence[int]) -> AsyncIterator[Collection[int]]:
        self.locked.append(list(seat_ids))
        yield self.elsewhere.intersection(seat_ids)


# Locks.


@pytest.fixture
def locks() -> RecordingLocks:
    return RecordingLocks()


@pytest.fixture
def fake() -> FakeReservationStore:
    return FakeReservationStore()


@pytest.fixture
def groups(fake: FakeReservationStore, locks: RecordingLocks) -> HoldGroups:
    return HoldGroups(fake, locks, TERMS)


async def test_only_seats_that_were_refused_lately_are_locked(
    groups: HoldGroups, locks: RecordingLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three, four = new_seats(4)
    await groups.hold(hold_of(one, two))
    assert locks.locked == []
    with pytest.raises(SeatHeld):
        await groups.hold(hold_of(two, three))
    assert locks.locked == []
    results = await asyncio.gather(
        groups.hold(hold_of(four)),
        groups.hold(hold_of(two)),
        groups.hold(hold_of(two, three)),
        groups.hold(hold_of(three)),
        return_exceptions=True,
    )
    assert codes(results) == ["Reservation", "SEAT_HELD", "SEAT_HELD", "Reservation"]
    assert locks.locked == [[two]]


async def test_a_seat_that_another_process_takes_now_is_refused_without_the_store(
    groups: HoldGroups, locks: RecordingLocks, fake: FakeReservationStore
) -> None:
    one, two, three = new_seats(3)
    held = await groups.hold(hold_of(one))
    with pytest.raises(SeatHeld):
        await groups.hold(hold_of(one))
    await fake.cancel(held.id, held.user_id)
    locks.elsewhere = {one}
    results = await asyncio.gather(
        groups.hold(hold_of(three)),
        groups.hold(hold_of(one, two)),
        # The first request with its key may be the one that has the lock.
        groups.hold(hold_of(one, key="key")),
        groups.hold(hold_of(two)),
        return_exceptions=True,
    )
    assert codes(results) == ["Reservation", "SEAT_HELD", "Reservation", "Reservation"]
    assert results[1].metadata["conflicts"] == str(one)  # type: ignore[union-attr]


# What fails alone.


class FailingStore(FakeReservationStore):
    """A store whose groups fail, and one of whose seats is poison."""

    def __init__(self, poison: int) -> None:
        super().__init__()
        self.poison = poison
        self.groups: list[int] = []

    async def hold_group(
        self, holds: Sequence[Hold], terms: HoldTerms, *, contended: bool = False
    ) -> Sequence[HoldResult]:
        self.groups.append(len(holds))
        if any(hold.seats[0].id == self.poison for hold in holds):
            raise GroupFailed("defect")
        return await super().hold_group(holds, terms, contended=contended)

    async def hold_alone(self, hold: Hold, terms: HoldTerms, *, patient: bool = True) -> HoldResult:
        if hold.seats[0].id == self.poison:
            raise DatabaseError("CONSTRAINT failed", 4025)
        return await super().hold_alone(hold, terms)


async def test_only_the_culprit_of_a_group_fails() -> None:
    first, *seats, poison = new_seats(8)
    store = FailingStore(poison)
    groups = HoldGroups(store, UselessLocks(), TERMS)
    failed = REGISTRY.get_sample_value("hold_groups_failed_total", {"reason": "defect"}) or 0
    results = await asyncio.gather(
        *(groups.hold(hold_of(seat)) for seat in (first, *seats, poison)), return_exceptions=True
    )
    assert codes(results) == ["Reservation"] * 7 + ["DatabaseError"]
    again = REGISTRY.get_sample_value("hold_groups_failed_total", {"reason": "defect"})
    assert again == failed + 1
    assert store.groups == [8]


async def test_a_store_that_is_unavailable_is_asked_once_for_a_group() -> None:
    class Down(FakeReservationStore):
        calls = 0

        async def hold_group(self, *_: Any, **__: Any) -> Sequence[HoldResult]:
            self.calls += 1
            raise Unavailable("The database is unavailable.")

    store = Down()
    groups = HoldGroups(store, UselessLocks(), TERMS)
    results = await asyncio.gather(
        *(groups.hold(hold_of(seat)) for seat in new_seats(9)), return_exceptions=True
    )
    assert set(codes(results)) == {"UNAVAILABLE"}
    assert store.calls == 1


async def test_a_caller_that_gives_up_does_not_stop_its_group(fake: FakeReservationStore) -> None:
    began, go = asyncio.Event(), asyncio.Event()
    hold_group = fake.hold_group

    async def slow(*values: Any, **named: Any) -> Sequence[HoldResult]:
        began.set()
        await go.wait()
        return await hold_group(*values, **named)

    fake.hold_group = slow  # type: ignore[method-assign]
    groups = HoldGroups(fake, UselessLocks(), TERMS)
    seats = new_seats(4)
    calls = [asyncio.create_task(groups.hold(hold_of(seat))) for seat in seats[:2]]
    await began.wait()
    calls += [asyncio.create_task(groups.hold(hold_of(seat))) for seat in seats[2:]]
    await asyncio.sleep(0)
    calls[0].cancel()  # its group is under way
    calls[2].cancel()  # its group waits
    go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert codes(results) == ["CancelledError", "Reservation", "CancelledError", "Reservation"]
    assert len(fake.rows) == 3


# The statements, on MariaDB.


class Trips:
    """Counts what is sent to MariaDB."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __len__(self) -> int:
        return len(self.sent)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    trips = Trips()
    query = MysqlConnection.query

    async def counted(self: MysqlConnection, sql: str) -> list[Result]:
        trips.sent.append(sql)
        return await query(self, sql)

    monkeypatch.setattr(MysqlConnection, "query", counted)
    return trips


@pytest.mark.parametrize("seats", [1, 4])
@pytest.mark.parametrize("key", ["", "key"])
async def test_a_hold_without_contention_is_one_trip(
    real_store: RealReservationStore, trips: Trips, seats: int, key: str
) -> None:
    # The first one of a connection also sends the program.
    await real_store.hold_group([hold_of(*new_seats(seats), key=key)], TERMS)
    user = next(ids)
    trips.sent.clear()
    for keys in (key, key and "another"):  # of a new user, then of a known one
        hold = hold_of(*new_seats(seats), user=user, key=keys)
        (held,) = await real_store.hold_group([hold], TERMS)
        assert len(trips) == 1
        assert "EXECUTE" in trips.sent[0]
        assert isinstance(held, Reservation)
        read = await real_store.get(held.id)
        assert read is not None
        assert replace(read, read_at=held.read_at) == held
        trips.sent.clear()


async def test_the_largest_set_is_held_without_a_program(
    real_store: RealReservationStore, trips: Trips
) -> None:
    seats = lone_hold.MAX_SEATS + 1
    terms = replace(TERMS, max_unpaid_seats=seats, max_seats_per_schedule=0)
    (held,) = await real_store.hold_group([hold_of(*new_seats(seats))], terms)
    assert isinstance(held, Reservation)
    assert len(trips) == 1
    assert trips.sent[0].count("COMMIT") == 1


async def test_groups_take_few_trips(real_store: RealReservationStore, trips: Trips) -> None:
    seats = new_seats(150)
    small = [hold_of(seat) for seat in seats[:8]]
    assert set(codes(await real_store.hold_group(small, TERMS))) == {"Reservation"}
    assert len(trips) == 1
    large = [hold_of(seat, seat + 1) for seat in seats[8:136:2]]
    assert codes(await real_store.hold_group(large, TERMS)) == ["Reservation"] * 64
    # What decides them, and the writes with the commit.
    assert len(trips) == 3
    # A crowd that is refused costs one trip, and no lock.
    crowd = [hold_of(seats[n]) for n in range(64)]
    assert codes(await real_store.hold_group(crowd, TERMS, contended=True)) == ["SEAT_HELD"] * 64
    assert len(trips) == 4
    # One that expects to succeed learns of it in a second.
    assert codes(await real_store.hold_group(crowd[:2], TERMS)) == ["SEAT_HELD"] * 2
    assert len(trips) == 6


async def test_a_group_gets_its_ids_whatever_their_steps(
    mysql_urls: dict[str, str], real_store: RealReservationStore
) -> None:
    """As in a cluster, whose servers give out every n-th id."""
    session = {"auto_increment_increment": 3}
    async with Database(mysql_urls["reservation"], session=session) as database:
        store = RealReservationStore(database)
        for contended in (False, True):
            holds = [hold_of(seat, seat + 1, key="key") for seat in new_seats(16)[::2]]
            held = await store.hold_group(holds, TERMS, contended=contended)
            for hold, reservation in zip(holds, held, strict=True):
                assert isinstance(reservation, Reservation)
                read = await real_store.get(reservation.id)
                assert read is not None
                assert (read.user_id, read.seats) == (hold.user_id, hold.seats)
                assert hold.key is not None
                remembered = await real_store.remembered(hold.key)
                assert remembered is not None
                assert remembered.result(hold.request).id == reservation.id


async def test_a_row_that_mariadb_rejects_fails_alone(
    real_store: RealReservationStore, database: Database
) -> None:
    seats = new_seats(10)
    holds = [hold_of(seat, price=-1 if seat == seats[5] else 100) for seat in seats]
    groups = HoldGroups(real_store, UselessLocks(), TERMS)
    results = await asyncio.gather(*map(groups.hold, holds), return_exceptions=True)
    assert codes(results) == ["Reservation"] * 5 + ["DatabaseError"] + ["Reservation"] * 4
    assert await free(database, seats) == [seats[5]]


async def test_a_seat_that_stays_locked_delays_its_own_hold_only(
    real_store: RealReservationStore, database: Database
) -> None:
    seats = new_seats(10)
    for seat in seats:
        (held,) = await real_store.hold_group([hold_of(seat)], TERMS)
        assert isinstance(held, Reservation)
        await real_store.cancel(held.id, held.user_id)
    groups = HoldGroups(real_store, UselessLocks(), TERMS)
    async with database.transaction() as transaction:
        await transaction.execute(
            "UPDATE seat_claim SET schedule_id = schedule_id + 1 WHERE seat_id = %s", seats[5]
        )
        results = await asyncio.gather(
            *(groups.hold(hold_of(seat)) for seat in seats), return_exceptions=True
        )
        assert codes(results) == ["Reservation"] * 5 + ["UNAVAILABLE"] + ["Reservation"] * 4
    assert isinstance(await groups.hold(hold_of(seats[5])), Reservation)


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT * FROM seat_claim WHERE seat_id = %s FOR UPDATE",
        "SELECT * FROM buyer WHERE user_id = %s FOR UPDATE",
    ],
)
async def test_a_row_that_stays_locked_delays_few_groups(
    real_store: RealReservationStore, database: Database, lock: str
) -> None:
    """Requests for it go on coming, as they do for the best seat, or from an impatient user."""
    user, (hot, *seats) = next(ids), new_seats(61)
    (held,) = await real_store.hold_group([hold_of(hot, user=user)], TERMS)
    assert isinstance(held, Reservation)
    await real_store.cancel(held.id, user)
    groups = HoldGroups(real_store, UselessLocks(), TERMS)
    took: list[float] = []

    async def hold(seat: int) -> None:
        began = time.monotonic()
        await groups.hold(hold_of(seat))
        took.append(time.monotonic() - began)

    async with database.transaction() as transaction:
        await transaction.fetch_all(lock, user if "buyer" in lock else hot)
        async with asyncio.TaskGroup() as others:
            in_vain = []
            for number, seat in enumerate(seats):
                if number % 5 == 0:
                    in_vain.append(others.create_task(refusal(groups, hold_of(hot, user=user))))
                others.create_task(hold(seat))
                await asyncio.sleep(0.05)
        assert {await each for each in in_vain} == {"UNAVAILABLE"}
    # The first request holds up one group for a second, and with it a third of the others.
    assert sorted(took)[35] < 0.5, took
    assert isinstance(await groups.hold(hold_of(hot, user=user)), Reservation)


async def refusal(groups: HoldGroups, hold: Hold) -> str:
    with pytest.raises(ServiceError) as caught:
        await groups.hold(hold)
    return caught.value.code


async def test_a_key_in_progress_leaves_the_rest_of_its_group_a_group(
    real_store: RealReservationStore, database: Database, trips: Trips
) -> None:
    holds = [hold_of(seat, key="key") for seat in new_seats(64)]
    async with database.transaction() as transaction:
        await transaction.execute(
            "INSERT INTO idempotency_key (user_id, idem_key, seat_id, created_at)"
            " VALUES (%s, 'key', 1, NOW(6))",
            holds[40].user_id,
        )
        trips.sent.clear()
        results = await real_store.hold_group(holds, TERMS)
        # Two of the group, its end, 13 that look for the key, two of the rest.
        assert len(trips) == 18
    assert codes(results) == ["Reservation"] * 40 + ["IN_PROGRESS"] + ["Reservation"] * 23


async def test_a_statement_that_is_refused_is_logged_without_its_values(
    real_store: RealReservationStore,
) -> None:
    with capture_logs() as logs, pytest.raises(GroupFailed):
        await real_store.hold_group([hold_of(seat, price=-1) for seat in new_seats(2)], TERMS)
    assert [(entry["event"], entry["number"]) for entry in logs] == [("hold_group_failed", 4025)]
    assert "error" not in logs[0]


def test_a_seat_lock_outlasts_a_group() -> None:
    assert Settings.model_fields["lock_seconds"].default > GROUP_SECONDS


async def test_a_key_that_stays_locked_is_in_progress(
    real_store: RealReservationStore, database: Database
) -> None:
    first, *seats = [hold_of(seat, key="key") for seat in new_seats(4)]
    groups = HoldGroups(real_store, UselessLocks(), TERMS)
    async with database.transaction() as transaction:
        # What the version before does first.
        await transaction.execute(
            "INSERT INTO idempotency_key (user_id, idem_key, seat_id, created_at)"
            " VALUES (%s, 'key', 1, NOW(6))",
            first.user_id,
        )
        results = await asyncio.gather(*map(groups.hold, (*seats, first)), return_exceptions=True)
    assert codes(results) == ["Reservation"] * 3 + ["IN_PROGRESS"]
    assert isinstance(results[3], RequestInProgress)


@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("error", [TransactionAborted, Unavailable, DatabaseError])
async def test_a_group_that_the_server_aborts_is_tried_again_as_a_whole(
    real_store: RealReservationStore,
    monkeypatch: pytest.MonkeyPatch,
    read_first: bool,
    error: type[Exception],
) -> None:
    """A deadlock leads to another attempt; anything else leaves nothing behind."""
    writes = 0
    execute_together = Connection.execute_together

    async def failing(self: Connection, *statements: Statement) -> list[Result]:
        nonlocal writes
        if any("INSERT INTO seat_claim" in sql for sql, *_ in statements):
            writes += 1
            if writes == 1:
                await execute_together(self, *statements[:-1])  # all but the COMMIT
                raise {
                    TransactionAborted: TransactionAborted(),
                    Unavailable: Unavailable("The database is unavailable."),
                    DatabaseError: DatabaseError("Data too long", 1406),
                }[error]
        return await execute_together(self, *statements)

    monkeypatch.setattr(Connection, "execute_together", failing)
    holds = [hold_of(seat, seat + 1) for seat in new_seats(8)[::2]]
    if error is TransactionAborted:
        results = await real_store.hold_group(holds, TERMS, contended=read_first)
        assert codes(results) == ["Reservation"] * 4
        return
    with pytest.raises(GroupFailed if error is DatabaseError else Unavailable):
        await real_store.hold_group(holds, TERMS, contended=read_first)
    again = await real_store.hold_group(holds, TERMS, contended=read_first)
    assert codes(again) == ["Reservation"] * 4


@pytest.mark.parametrize("contended", [False, True])
async def test_a_group_whose_reply_is_lost_is_whole_or_not_there(
    real_store: RealReservationStore, monkeypatch: pytest.MonkeyPatch, contended: bool
) -> None:
    """MariaDB has committed, and the caller learns of a failure only. With a key it gets the
    result from a repeat; nothing is held twice."""
    execute_together = Connection.execute_together
    lost = False

    async def losing(self: Connection, *statements: Statement) -> list[Result]:
        nonlocal lost
        results = await execute_together(self, *statements)
        if not lost and statements[-1] == ("COMMIT",):
            lost = True
            raise Unavailable("The database is unavailable.")
        return results

    monkeypatch.setattr(Connection, "execute_together", losing)
    holds = [hold_of(seat, seat + 1, key=f"key {seat}") for seat in new_seats(16)[::2]]
    with pytest.raises(Unavailable):
        await real_store.hold_group(holds, TERMS, contended=contended)
    assert lost
    again = await real_store.hold_group(holds, TERMS, contended=contended)
    assert codes(again) == ["Remembered"] * 8
    for hold, remembered in zip(holds, again, strict=True):
        assert isinstance(remembered, Remembered)
        assert remembered.result(hold.request).seats == hold.seats
    assert codes(await real_store.hold_group([hold_of(holds[0].seats[0].id)], TERMS)) == [
        "SEAT_HELD"
    ]


async def test_a_group_that_loses_every_race_is_refused_item_by_item(
    real_store: RealReservationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt finds the seat free and writes after another request has taken it."""
    seat, elsewhere = new_seats(2)
    (rival,) = await real_store.hold_group([hold_of(seat)], TERMS)
    assert isinstance(rival, Reservation)
    monkeypatch.setattr(hold_rows, "claims", lambda rows: {})
    groups = HoldGroups(real_store, UselessLocks(), TERMS)
    results = await asyncio.gather(
        groups.hold(hold_of(elsewhere + 10)),
        groups.hold(hold_of(seat)),
        groups.hold(hold_of(elsewhere)),
        return_exceptions=True,
    )
    assert codes(results) == ["Reservation", "SEAT_HELD", "Reservation"]


async def free(database: Database, seats: Sequence[int]) -> list[int]:
    """Returns which of the seats are not claimed."""
    async with database.connection() as connection:
        rows = await connection.fetch_all(
            "SELECT seat_id FROM seat_claim WHERE seat_id IN %s AND reservation_id <> 0",
            list(seats),
        )
    return sorted(set(seats) - {row.seat_id for row in rows})
