"""The expansion of filled tables, and the triggers that keep them right for the version before.

The statements are those of the version before, as far as they matter here.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest
from pymysql.constants import ER
from pymysql.cursors import Cursor

from harness.errors import UserError
from harness.local.stack import Stack
from reservation_service.phase import SESSION
from servicekit import ddl
from tests.reservation_service.upgrade.agreement import disagreements
from tests.reservation_service.upgrade.tables import REVISION_BEFORE, Tables
from tests.reservation_service.upgrade.versions import Versions

HOLD = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, held_until, lapses_at,
                         created_at, updated_at, status)
VALUES (%s, %s, 1, 'A1', 100, NOW(6), NOW(6), NOW(6), NOW(6), 'HELD') RETURNING id
"""
FILL = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, held_until, lapses_at,
                         created_at, updated_at, status)
SELECT seq % 700 + 1, seq % 6000 + 1, 1, 'A1', 100, NOW(6), NOW(6), NOW(6), NOW(6),
       IF(seq <= 6000, 'EXPIRED', IF(seq % 3 = 0, 'CANCELLED', 'CONFIRMED'))
FROM seq_1_to_12000
"""
EXPIRE = "UPDATE reservation SET status = 'EXPIRED' WHERE id = %s"
CONFIRM_LATE = "UPDATE reservation SET status = 'CONFIRMED', payment_id = 1 WHERE id = %s"
REMOVE = "DELETE FROM reservation WHERE id IN %s"


def hold(cursor: Cursor, user_id: int, seat_id: int) -> int:
    cursor.execute(HOLD, (user_id, seat_id))
    ((id,),) = cursor.fetchall()
    return int(id)


def claim(cursor: Cursor, seat_id: int) -> int | None:
    """The reservation that has claimed the seat; 0 if it is free, None if nobody ever had it."""
    cursor.execute("SELECT reservation_id FROM seat_claim WHERE seat_id = %s", (seat_id,))
    row = cursor.fetchone()
    return int(row[0]) if row else None


def seats(cursor: Cursor, reservation_id: int) -> list[int]:
    cursor.execute(
        "SELECT seat_id FROM reservation_seat WHERE reservation_id = %s", (reservation_id,)
    )
    return [seat_id for (seat_id,) in cursor.fetchall()]


@pytest.fixture
def tables(
    servers: Stack, mysql_urls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Tables:
    """Those of the version before."""
    tables = Tables(servers)
    tables.make_those_of_version_before(tmp_path, monkeypatch)
    return tables


@pytest.fixture
def cursor(tables: Tables) -> Iterator[Cursor]:
    """A session of the version before."""
    with tables.cursor() as cursor:
        yield cursor


def test_claims_follow_what_the_version_before_writes(tables: Tables, cursor: Cursor) -> None:
    tables.expand()
    first = hold(cursor, 1, 7)
    assert (claim(cursor, 7), seats(cursor, first)) == (first, [7])
    cursor.execute(EXPIRE, (first,))
    assert claim(cursor, 7) == 0
    second = hold(cursor, 2, 7)
    assert claim(cursor, 7) == second
    cursor.execute("UPDATE reservation SET status = 'PAYING' WHERE id = %s", (second,))
    assert claim(cursor, 7) == second
    cursor.execute(EXPIRE, (second,))
    cursor.execute(CONFIRM_LATE, (first,))
    assert claim(cursor, 7) == first
    cursor.execute(REMOVE, [[second]])
    assert (seats(cursor, first), seats(cursor, second)) == ([7], [])
    assert disagreements(cursor) == {}


def test_a_claimed_seat_is_refused_as_the_version_before_knows_it(
    tables: Tables, cursor: Cursor
) -> None:
    tables.expand()
    ended = hold(cursor, 1, 7)
    cursor.execute(EXPIRE, (ended,))
    # As a transaction of this version does, between its statements.
    cursor.execute("UPDATE seat_claim SET reservation_id = 123 WHERE seat_id = 7")
    for sql, values in ((HOLD, (2, 7)), (CONFIRM_LATE, (ended,))):
        with pytest.raises(pymysql.err.IntegrityError) as refused:
            cursor.execute(sql, values)
        assert refused.value.args[0] == ER.DUP_ENTRY
    assert claim(cursor, 7) == 123
    cursor.execute("SELECT COUNT(*) FROM reservation WHERE user_id = 2")
    assert cursor.fetchall() == ((0,),), "nothing of the refused statement stays"


def test_triggers_do_nothing_for_this_version(tables: Tables, cursor: Cursor) -> None:
    tables.expand()
    of_before = hold(cursor, 1, 7)
    for name, value in SESSION.items():
        cursor.execute(f"SET {name} = {value}")
    ours = hold(cursor, 2, 8)
    assert (claim(cursor, 8), seats(cursor, ours)) == (None, [])
    assert disagreements(cursor).keys() == {
        "a live reservation lacks the claim of a seat",
        "a reservation differs from its seats",
        "a user without a row to lock",
    }
    cursor.execute(EXPIRE, (of_before,))
    assert claim(cursor, 7) == of_before
    cursor.execute(CONFIRM_LATE, (of_before,))
    cursor.execute(REMOVE, [[of_before]])
    assert seats(cursor, of_before) == [7]
    # A statement that changes both tables: a trigger must not change one of them meanwhile.
    cursor.execute(
        "UPDATE reservation r JOIN seat_claim c ON c.seat_id = 7"
        " SET r.status = 'CANCELLED', c.reservation_id = 0 WHERE r.id = %s",
        (ours,),
    )
    assert claim(cursor, 7) == 0


class Killed(Exception):
    """Stands for the end of the process: the connection is closed at once."""


@pytest.mark.parametrize("step", [3, 7, 8, 9, 10, 13], ids="step {}".format)
def test_an_expansion_that_was_interrupted_anywhere_is_repeated(
    tables: Tables, cursor: Cursor, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 1 to 6 change tables, 7 to 9 make triggers, 10 to 15 copy."""
    cursor.execute(FILL)
    steps = itertools.count(1)
    patiently = ddl._patiently

    def dying(what: str, work: Callable[[], object]) -> object:
        done = patiently(what, work)
        if next(steps) == step:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(ddl, "_patiently", dying)
        with pytest.raises(Killed):
            tables.expand()
    cursor.execute("SELECT version_num FROM alembic_version")
    assert cursor.fetchall() == ((REVISION_BEFORE,),)
    # The version before goes on, with reservations that were copied and with others.
    cursor.execute("SELECT MIN(id) FROM reservation")
    ((lowest,),) = cursor.fetchall()
    cursor.execute("UPDATE reservation SET status = 'EXPIRED' WHERE id % 5 = 1")
    cursor.execute(
        "SELECT id, seat_id FROM reservation WHERE status = 'EXPIRED' AND id > %s",
        (lowest + 6000,),
    )
    for number, (id, seat_id) in enumerate(cursor.fetchall()[::20]):
        if number % 2:
            hold(cursor, 5_000 + number, seat_id)
        else:
            cursor.execute(CONFIRM_LATE, (id,))
    cursor.execute(REMOVE, [list(range(lowest, lowest + 6000, 7))])
    tables.expand()
    assert disagreements(cursor) == {}
    cursor.execute("SELECT (SELECT COUNT(*) FROM reservation), COUNT(*) FROM reservation_seat")
    ((reservations, seats),) = cursor.fetchall()
    assert seats == reservations > 11_000


def test_the_version_before_comes_back_until_the_contraction(versions: Versions) -> None:
    """As docs/deployment.md says."""
    tables = versions.tables
    versions.migrate_as_version_before()
    tables.expand()
    with tables.cursor() as cursor:
        with pytest.raises(UserError, match="0003"):
            versions.migrate_as_version_before()
        cursor.execute("UPDATE alembic_version SET version_num = '0002' WHERE version_num = '0003'")
        versions.migrate_as_version_before()
        first, second = hold(cursor, 1, 7), hold(cursor, 2, 8)
        cursor.execute(EXPIRE, (first,))
        tables.expand()
        assert (claim(cursor, 7), claim(cursor, 8)) == (0, second)
        assert disagreements(cursor) == {}
        tables.contract()
        with pytest.raises(UserError, match="0004"):
            versions.migrate_as_version_before()
        cursor.execute("SHOW TRIGGERS")
        assert cursor.fetchall() == ()
