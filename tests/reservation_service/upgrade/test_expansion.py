"""The expansion of filled tables, beside what the version before writes.

The statements are those of the version before, as far as they matter here.
"""

import itertools
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pymysql.cursors import Cursor

from harness.errors import UserError
from harness.local.stack import Stack
from servicekit import ddl
from tests.reservation_service.upgrade.agreement import disagreements
from tests.reservation_service.upgrade.filling import fill
from tests.reservation_service.upgrade.tables import REVISION_BEFORE, Tables
from tests.reservation_service.upgrade.versions import Versions

HOLD = """
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, seats, held_until,
                         lapses_at, created_at, updated_at, status)
VALUES (1, %s, 1, 'A1', 150000.25, 1, NOW(6), NOW(6), NOW(6), NOW(6), 'HELD') RETURNING id
"""
SEAT = "INSERT INTO reservation_seat VALUES (%s, %s, 'A1', 150000.25)"
SALE = "INSERT INTO schedule_sales (schedule_id, sold) VALUES (%s, 1)"


def hold(cursor: Cursor, seat_id: int) -> int:
    cursor.execute(HOLD, (seat_id,))
    ((id,),) = cursor.fetchall()
    cursor.execute("INSERT IGNORE INTO buyer VALUES (1)")
    cursor.execute(SEAT, (id, seat_id))
    cursor.execute("INSERT INTO seat_claim VALUES (%s, %s, 1)", (seat_id, id))
    return int(id)


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
    with tables.cursor() as cursor:
        yield cursor


class Killed(Exception):
    """Stands for the end of the process: the connection is closed at once."""


@pytest.mark.parametrize("step", [1, 3, 4, 5], ids="step {}".format)
def test_an_expansion_that_was_interrupted_anywhere_is_repeated(
    tables: Tables, cursor: Cursor, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cursor, 2_000)
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
    # The version before goes on.
    first = hold(cursor, 10**9)
    tables.expand()
    second = hold(cursor, 10**9 + 1)
    cursor.execute(SALE, (10**9,))
    assert disagreements(cursor) == {}
    cursor.execute(
        "SELECT r.price, r.currency, s.price FROM reservation r"
        " JOIN reservation_seat s ON s.reservation_id = r.id WHERE r.id IN (%s, %s)",
        (first, second),
    )
    price = Decimal("150000.250")
    assert cursor.fetchall() == ((price, "KRW", price),) * 2
    cursor.execute("SELECT SUM(price), COUNT(*), SUM(currency = 'KRW') FROM reservation")
    assert cursor.fetchall() == ((2_000 * 100 + 2 * price, 2_002, 2_002),)
    cursor.execute("SELECT sold, blocked FROM schedule_sales WHERE schedule_id = %s", (10**9,))
    assert cursor.fetchall() == ((1, 0),)


def test_the_version_before_comes_back(versions: Versions) -> None:
    """As docs/deployment.md says."""
    tables = versions.tables
    versions.migrate_as_version_before()
    tables.expand()
    with tables.cursor() as cursor:
        with pytest.raises(UserError, match="0005"):
            versions.migrate_as_version_before()
        cursor.execute("UPDATE alembic_version SET version_num = '0004' WHERE version_num = '0005'")
        versions.migrate_as_version_before()
        hold(cursor, 7)
        tables.expand()
        assert disagreements(cursor) == {}
