"""Migrations in two steps, and changes of tables that others use."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest
import typer
from pymysql.cursors import Cursor
from typer.testing import CliRunner

from harness.local.stack import Stack
from servicekit import ddl
from servicekit.migrate import main, migrate

_numbers = itertools.count(1)

EXPANDING = "op.execute('CREATE TABLE {0} (id INT PRIMARY KEY)')"
CONTRACTING = "op.execute('DROP TABLE first')"


class Service:
    """A package with revisions, and a schema of its own."""

    def __init__(self, folder: Path, servers: Stack) -> None:
        self.name = f"migrated{next(_numbers)}_service"
        schema = self.name.removesuffix("_service")
        servers.mariadb.create_database(schema, schema)
        self._servers, self._schema = servers, schema
        self.url = f"mysql://{schema}:{schema}@{servers.mariadb.address}/{schema}"
        self._migrations = folder / self.name / "migrations"
        self._migrations.mkdir(parents=True)
        (folder / self.name / "__init__.py").touch()

    def add(self, number: int, body: str, *, contracting: bool = False) -> None:
        """Adds the revision of this number; `body` is that of its upgrade()."""
        before = f"{number - 1:04d}" if number > 1 else None
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (self._migrations / f"{number:04d}_.py").write_text(
            "from alembic import op\n"
            "from servicekit.ddl import change_tables, transaction\n"
            f"revision = '{number:04d}'\ndown_revision = {before!r}\n"
            + ("contracting = True\n" if contracting else "")
            + f"def upgrade():\n{lines}\n"
        )

    def remove(self, number: int) -> None:
        (self._migrations / f"{number:04d}_.py").unlink()

    def migrate(self, *, expand: bool = False) -> bool:
        return migrate(self.name, self.url, expand=expand)

    def run(self, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str]:
        """Runs the command; returns its exit status and output."""
        monkeypatch.setenv(f"{self._schema.upper()}_MYSQL_URL", self.url)
        app = typer.Typer()
        app.command()(main)
        result = CliRunner().invoke(app, [self.name, *options])
        return result.exit_code, result.output

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A connection with a transaction of its own."""
        host, _, port = self._servers.mariadb.address.partition(":")
        connection = pymysql.connect(
            host=host,
            port=int(port),
            user=self._schema,
            password=self._schema,
            database=self._schema,
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            yield cursor

    def tables(self) -> set[str]:
        with self.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            return {name for (name,) in cursor.fetchall()} - {"alembic_version"}


@pytest.fixture
def service(
    servers: Stack, mysql_urls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Service:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ddl, "PAUSE_SECONDS", 0.2)
    return Service(tmp_path, servers)


def test_expand_stops_before_what_the_version_before_needs(service: Service) -> None:
    service.add(1, EXPANDING.format("first"))
    service.add(2, EXPANDING.format("second"))
    assert service.migrate(expand=True)
    service.add(3, EXPANDING.format("third"))
    service.add(4, CONTRACTING, contracting=True)
    service.add(5, "op.execute('DROP TABLE second')", contracting=True)
    for _ in range(2):
        assert not service.migrate(expand=True)
        assert service.tables() == {"first", "second", "third"}
    for _ in range(2):
        assert service.migrate()
        assert service.tables() == {"third"}
    assert service.migrate(expand=True), "nothing is left to contract"


def test_expand_says_that_the_second_step_is_left(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add(1, EXPANDING.format("first"))
    service.migrate()
    service.add(2, CONTRACTING, contracting=True)
    status, said = service.run(monkeypatch, "--expand")
    assert status == 0
    assert said.startswith(f"{service.name}: the tables are expanded; to be contracted when all")
    assert service.run(monkeypatch) == (0, f"{service.name}: the tables are up to date.\n")


def test_expand_refuses_to_leave_out_a_version(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add(1, EXPANDING.format("first"))
    service.migrate()
    service.add(2, CONTRACTING, contracting=True)
    service.add(3, EXPANDING.format("third"))
    status, said = service.run(monkeypatch, "--expand")
    assert status == 2
    assert "revision 0002 removes what an earlier version needs" in said
    assert service.tables() == {"first"}, "nothing was changed"
    assert service.migrate()
    assert service.tables() == {"third"}


def test_expand_makes_all_of_a_new_schema(service: Service) -> None:
    """As `make up` does on an empty database."""
    service.add(1, EXPANDING.format("first"))
    service.add(2, CONTRACTING, contracting=True)
    service.add(3, EXPANDING.format("third"))
    assert service.migrate(expand=True)
    assert service.tables() == {"third"}


def test_a_later_version_has_migrated_the_tables(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add(1, EXPANDING.format("first"))
    service.add(2, EXPANDING.format("second"))
    service.migrate()
    service.remove(2)
    for options in ((), ("--expand",)):
        status, said = service.run(monkeypatch, *options)
        assert status == 2
        assert "revision 0002, which this version does not know" in said


def test_the_reason_of_the_server_is_shown_and_no_address(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add(1, "op.execute('DROP TABLE first, second')")
    status, said = service.run(monkeypatch)
    assert status == 2
    assert "with error 1051" in said
    password = service.url.partition(":")[2]
    service.url = service.url.replace("@127", "wrong@127")
    status, said = service.run(monkeypatch)
    assert (status, said) == (
        2,
        f"{service.name}: the tables were not migrated: MariaDB is unavailable or refuses.\n",
    )
    assert password not in said


def test_a_change_lets_writers_go_on_while_a_transaction_is_open(service: Service) -> None:
    service.add(1, EXPANDING.format("first"))
    service.migrate()
    service.add(2, "change_tables('ALTER TABLE first ADD COLUMN IF NOT EXISTS note INT')")
    with service.cursor() as reader:
        reader.execute("SELECT * FROM first")  # until its transaction ends, nobody may alter it
        migration = threading.Thread(target=service.migrate)
        migration.start()
        longest = 0.0
        with service.cursor() as writer:
            for id in range(6):
                began = time.monotonic()
                writer.execute("INSERT INTO first (id) VALUES (%s)", (id,))
                writer.connection.commit()
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.1)
        assert migration.is_alive(), "it waits for the reader"
        assert longest < 2.5, "a writer waited for more than one attempt of a second"
        reader.connection.rollback()
        migration.join(20)
        assert not migration.is_alive()
        reader.execute("SELECT COUNT(*), COUNT(note) FROM first")
        assert reader.fetchone() == (6, 0)


def test_a_change_that_never_gets_its_table_fails_with_a_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl, "ATTEMPTS", 2)
    service.add(1, EXPANDING.format("first"))
    service.migrate()
    service.add(2, "change_tables('ALTER TABLE first ADD COLUMN note INT')")
    with service.cursor() as reader:
        reader.execute("SELECT * FROM first")
        status, said = service.run(monkeypatch)
    assert status == 2
    assert "'ALTER TABLE first ADD COLUMN note INT' was tried" in said
    assert service.migrate()


@pytest.mark.parametrize("locked", ["a locked row", "a deadlock"])
def test_a_transaction_of_a_revision_is_repeated_as_a_whole(service: Service, locked: str) -> None:
    service.add(1, EXPANDING.format("first") + "\nop.execute('INSERT INTO first VALUES (1), (2)')")
    service.migrate()
    service.add(
        2,
        "op.execute('CREATE TABLE seen (id INT)')\n"
        "transaction('copying', 'INSERT INTO seen SELECT id FROM first WHERE id = 2 FOR UPDATE',\n"
        "    'DO SLEEP(0.5)', 'INSERT INTO seen SELECT id FROM first WHERE id = 1 FOR UPDATE')",
    )
    with service.cursor() as other:
        other.execute("SELECT * FROM first WHERE id = 1 FOR UPDATE")
        # Has changed more than the migration, so that a deadlock ends the migration's transaction.
        other.execute("INSERT INTO first SELECT seq FROM seq_100_to_400")
        migration = threading.Thread(target=service.migrate)
        migration.start()
        if locked == "a deadlock":
            _wait_until(lambda: "seen" in service.tables())
            time.sleep(0.2)
            other.execute("SELECT * FROM first WHERE id = 2 FOR UPDATE")
        else:
            time.sleep(2.5)
            assert migration.is_alive()
        other.connection.rollback()
        migration.join(20)
        assert not migration.is_alive()
    with service.cursor() as cursor:
        cursor.execute("SELECT id FROM seen ORDER BY id")
        assert cursor.fetchall() == ((1,), (2,))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
