"""The pool, transactions, rows and errors, on a real MariaDB."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import pytest
from structlog.testing import CapturingLogger

from servicekit import call_context, mysql
from servicekit.errors import Unavailable, is_transient
from servicekit.mysql import (
    AccessDenied,
    Connection,
    Database,
    DatabaseError,
    DuplicateKey,
    LockTimeout,
    TransactionAborted,
)


class Proxy:
    """A TCP proxy in front of MariaDB. Simulates a server that restarts, is unavailable or hangs,
    without touching the real one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 3306)
        self._url = parts
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.silent = False
        self.connections = 0

    @property
    def url(self) -> str:
        credentials = self._url.netloc.rpartition("@")[0]
        return self._url._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Aborts every connection and refuses new ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the pool's streams see the end of file

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, there_writer}
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
        sink.close()


@pytest.fixture(scope="module")
async def url(mysql_urls: dict[str, str]) -> AsyncIterator[str]:
    url = mysql_urls["reservation"]
    async with Database(url) as database, database.connection() as connection:
        await connection.execute(
            "CREATE OR REPLACE TABLE pool_test"
            " (id INT PRIMARY KEY, amount INT NOT NULL CHECK (amount >= 0))"
        )
        await connection.execute("INSERT INTO pool_test VALUES (1, 100), (2, 100)")
        yield url
        await connection.execute("DROP TABLE pool_test")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url, max_size=2, acquire_timeout=0.5, query_timeout=2.0) as database:
        yield database


async def amount(database: Database, row: int = 1) -> int:
    async with database.connection() as connection:
        found = await connection.fetch_one("SELECT amount FROM pool_test WHERE id = %s", row)
    assert found is not None
    return int(found[0])


async def test_commits_when_the_block_ends_and_rolls_back_when_it_raises(
    database: Database,
) -> None:
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE pool_test SET amount = 7 WHERE id = 1")
    with pytest.raises(KeyError):  # noqa: PT012
        async with database.transaction() as transaction:
            await transaction.execute("UPDATE pool_test SET amount = 8 WHERE id = 1")
            raise KeyError
    assert await amount(database) == 7


async def test_each_connection_sets_the_variables_of_the_session(url: str) -> None:
    async with (
        Database(url, session={"@mark": 7, "@other": -1}) as database,
        database.connection() as first,
        database.connection() as second,
    ):
        for connection in (first, second):
            assert await connection.fetch_one("SELECT @mark, @other") == (7, -1)
    async with Database(url) as database, database.connection() as connection:
        assert await connection.fetch_one("SELECT @mark") == (None,)


async def test_session_is_utc_read_committed_and_counts_matched_rows(database: Database) -> None:
    for _ in range(2):
        async with database.connection() as connection:
            assert await connection.fetch_one(
                "SELECT @@session.tx_isolation, TIMEDIFF(NOW(), UTC_TIMESTAMP()) = 0"
            ) == ("READ-COMMITTED", 1)
    async with database.transaction() as transaction:
        assert await transaction.fetch_one("SELECT @@session.tx_isolation") == ("READ-COMMITTED",)
        await transaction.execute("UPDATE pool_test SET amount = 9 WHERE id = 1")
        assert await transaction.execute("UPDATE pool_test SET amount = 9 WHERE id = 1") == 1


class Pair(NamedTuple):
    number: int
    text: str


async def test_a_list_becomes_a_list_in_brackets(database: Database) -> None:
    async with database.connection() as connection:
        row = await connection.fetch_one(
            "SELECT 2 IN %s, 'a' IN %s, %s, 'x%%' LIKE 'x\\%%'", [1, 2], ("b", "c'"), "%s"
        )
        assert row == (1, 0, "%s", 1)
        pairs = [Pair(1, "a"), Pair(2, "b")]
        assert await connection.fetch_one(
            "SELECT (2, 'b') IN %s, (2, 'a') IN %s", pairs, pairs
        ) == (1, 0)


async def test_values_survive_the_round_trip(database: Database) -> None:
    moment = datetime(2026, 12, 24, 20, 15, 0, 123456)
    values = (
        0,
        -(2**63),
        2**63 - 1,
        "",
        "it's 100 % 🎟 \\ ;",
        "x" * 250,
        "x" * 251,
        "ü" * 40_000,
        "x" * 70_000,
        None,
        Decimal("150000.00"),
        True,
    )
    async with database.connection() as connection:
        places = ", ".join(["%s"] * len(values))
        # Longer together than one read from the socket; single values with each size of length.
        for _ in range(2):
            assert await connection.fetch_one(f"SELECT {places}", *values) == values
        assert await connection.fetch_one(
            "SELECT CAST(%s AS DATETIME(6)), CAST(%s AS DATE), UNHEX('00ff'), 1e3, NULL",
            moment,
            moment,
        ) == (moment, moment.date(), b"\x00\xff", 1000.0, None)
        rows = await connection.fetch_all("SELECT seq, REPEAT('y', 50) FROM seq_1_to_20000")
        assert rows == [(number, "y" * 50) for number in range(1, 20_001)]
        assert await connection.fetch_all("SELECT 1 FROM DUAL WHERE FALSE") == []
        assert await connection.fetch_one("SELECT 1 FROM DUAL WHERE FALSE") is None


async def test_columns_have_their_names(database: Database) -> None:
    async with database.connection() as connection:
        row = await connection.fetch_one(
            "SELECT id, amount + %s AS count, id, NULL AS index_ FROM pool_test WHERE id = 1", 0
        )
        assert row is not None
        assert (row.count, row.index_) == (row[1], None)
        # A name that occurs twice or not at all fails, rather than mean another column.
        for name in ("id", "amount"):
            with pytest.raises(AttributeError, match=name):
                getattr(row, name)
        # The same names in another order.
        for columns in ("1 AS a, 2 AS b", "2 AS b, 1 AS a"):
            row = await connection.fetch_one(f"SELECT {columns}")
            assert row is not None
            assert (row.a, row.b) == (1, 2)


async def test_execute_together_returns_the_result_of_each(database: Database) -> None:
    async with database.connection() as connection:
        found, changed, none = await connection.execute_together(
            ("SELECT id FROM pool_test WHERE id IN %s ORDER BY id", [1, 2]),
            ("UPDATE pool_test SET amount = 100 WHERE id = %s", 2),
            ("SELECT 'a;b' FROM DUAL WHERE ROW_COUNT() = 0",),
        )
        assert (list(found.rows), changed.matched, list(none.rows)) == ([(1,), (2,)], 1, [])
        assert await connection.fetch_one("SELECT 1") == (1,)


async def test_execute_together_runs_nothing_after_an_error(database: Database) -> None:
    failing = (
        ("UPDATE pool_test SET amount = 1 WHERE id = 2",),
        ("INSERT INTO pool_test VALUES (1, 1) RETURNING id",),
        ("UPDATE pool_test SET amount = 2 WHERE id = 2",),
    )
    with pytest.raises(DuplicateKey):
        await database.execute_transaction(*failing)
    assert await amount(database, 2) == 100
    async with database.transaction() as transaction:
        with pytest.raises(DuplicateKey):
            await transaction.execute_together(*failing)
        # The transaction continues: only its statement failed.
        assert await transaction.fetch_one("SELECT amount FROM pool_test WHERE id = 2") == (1,)
        assert await transaction.execute("UPDATE pool_test SET amount = 100 WHERE id = 2") == 1
    # Every connection was returned to the pool.
    assert len(database._idle) == 1


_PROGRAM = """
BEGIN NOT ATOMIC
    DECLARE row_id INT DEFAULT ?; DECLARE value INT DEFAULT ?;
    START TRANSACTION;
    SELECT id, amount, 'a;b' AS text FROM pool_test WHERE id = row_id;
    UPDATE pool_test SET amount = value WHERE id = row_id;
    SELECT amount FROM pool_test WHERE id = row_id;
    COMMIT;
END
"""


async def test_a_program_returns_the_results_of_its_queries(database: Database) -> None:
    async def run(connection: Connection, value: int) -> list[int]:
        first, second = await connection.run_program(_PROGRAM, 1, value, lock_wait_seconds=1)
        assert first.rows[0].text == "a;b"
        return [first.rows[0].amount, second.rows[0].amount]

    async with database.connection() as one, database.connection() as other:
        await one.execute("UPDATE pool_test SET amount = 100")
        assert await run(one, 7) == [100, 7]
        assert await run(one, 8) == [7, 8]
        assert await run(other, 9) == [8, 9]  # each connection has its own
        await other.execute("ALTER TABLE pool_test ADD COLUMN new INT FIRST")
        assert await run(one, 10) == [9, 10]
        await other.execute("ALTER TABLE pool_test DROP COLUMN new")
        assert await run(one, 100) == [10, 100]


async def test_a_program_ends_at_an_error_inside_its_transaction(database: Database) -> None:
    async with database.connection() as connection:
        for _ in range(2):
            with pytest.raises(DatabaseError):  # the CHECK of the table
                await connection.run_program(_PROGRAM, 1, -1, lock_wait_seconds=1)
            assert not connection._connection.reusable
            await connection.execute("ROLLBACK")
        with pytest.raises(DatabaseError):
            await connection.run_program("BEGIN NOT ATOMIC nonsense ?", 1, lock_wait_seconds=1)
        await connection.run_program(_PROGRAM, 1, 100, lock_wait_seconds=1)


async def test_a_program_waits_for_a_lock_as_long_as_it_may(database: Database) -> None:
    async with database.transaction() as first:
        await first.execute("UPDATE pool_test SET amount = 100 WHERE id = 2")
        async with database.connection() as second:
            with pytest.raises(LockTimeout):
                await second.run_program(_PROGRAM, 2, 1, lock_wait_seconds=0)
            await second.execute("ROLLBACK")
            row = await second.fetch_one("SELECT @@innodb_lock_wait_timeout")
            assert row == (2,)


async def test_execute_transaction_is_retried_after_a_deadlock(
    database: Database,
) -> None:
    def move(source: int, target: int) -> Awaitable[object]:
        return database.execute_transaction(
            ("UPDATE pool_test SET amount = amount - 1 WHERE id = %s", source),
            ("SELECT SLEEP(0.005)",),
            ("UPDATE pool_test SET amount = amount + 1 WHERE id = %s", target),
        )

    async with database.connection() as connection:
        await connection.execute("UPDATE pool_test SET amount = 100")
    for _ in range(5):
        await asyncio.gather(move(1, 2), move(2, 1))
    assert (await amount(database, 1), await amount(database, 2)) == (100, 100)


async def test_an_empty_transaction_sends_nothing(url: str) -> None:
    async with Proxy(url) as proxy, Database(proxy.url, max_size=1, query_timeout=0.3) as database:
        assert await amount(database, 2) == 100
        proxy.silent = True
        async with database.transaction():
            pass


async def test_after_a_timeout_the_connection_is_unusable(
    database: Database,
) -> None:
    async with database.connection() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.fetch_one("SELECT SLEEP(1)")
        with pytest.raises(Unavailable):
            await connection.fetch_one("SELECT 2")
    assert await amount(database, 2) == 100


async def test_statement_errors_differ_from_an_unavailable_server(
    database: Database,
) -> None:
    with pytest.raises(DuplicateKey):
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO pool_test VALUES (1, 1)")
    # Defects must not look like an outage.
    for defect, number in (
        ("SELECT no_such_column FROM pool_test", 1054),
        ("SELECT 1 FROM no_such_table", 1146),
        ("UPDATE pool_test SET amount = -1", 4025),
        ("UPDATE pool_test SET amount = NULL WHERE id = 1", 1048),
    ):
        with pytest.raises(DatabaseError) as refused:
            async with database.transaction() as transaction:
                await transaction.execute(defect)
        assert refused.value.number == number
        assert not is_transient(refused.value)
    # What MariaDB calls operational, without a meaning that is known here.
    with pytest.raises(DatabaseError) as refused:
        async with database.transaction() as transaction:
            await transaction.execute("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1105")
    assert refused.value.number == 1105
    assert is_transient(refused.value)
    # Every connection was returned to the pool.
    assert len(database._idle) == 1


async def test_cancelled_callers_do_not_starve_the_pool(database: Database) -> None:
    for _ in range(10):
        sleeper = asyncio.create_task(_sleep_in_transaction(database))
        await asyncio.sleep(0.01)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
    # Callers that are cancelled while they wait for a connection.
    sleepers = [asyncio.create_task(_sleep_in_transaction(database)) for _ in range(8)]
    await asyncio.sleep(0.02)
    for sleeper in reversed(sleepers):
        sleeper.cancel()
    await asyncio.gather(*sleepers, return_exceptions=True)
    assert await asyncio.gather(*(amount(database, 2) for _ in range(20))) == [100] * 20


async def _sleep_in_transaction(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE pool_test SET amount = 0 WHERE id = 2")
        await transaction.fetch_one("SELECT SLEEP(1)")


async def test_a_result_never_reaches_another_caller(database: Database) -> None:
    async def ask(number: int) -> None:
        async with database.connection() as connection:
            row = await connection.fetch_one("SELECT %s, SLEEP(0.002)", number)
            assert row is not None
            assert row[0] == number

    for number in range(100):
        cancelled = asyncio.create_task(ask(number))
        await asyncio.sleep(0.0004 * (number % 6))
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await ask(-number)


async def test_exhausted_pool_is_unavailable_in_time(database: Database) -> None:
    async with database.connection(), database.connection():
        started = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable):
            await amount(database)
        assert asyncio.get_running_loop().time() - started < 3.0
    assert await amount(database, 2) == 100


async def test_slow_statement_times_out_and_its_connection_is_dropped(url: str) -> None:
    async with Database(url, max_size=1, query_timeout=0.1) as database:
        with pytest.raises(TimeoutError):
            async with database.connection() as connection:
                await connection.fetch_one("SELECT SLEEP(2)")
        assert await amount(database, 2) == 100


async def test_statement_ends_with_the_deadline_of_the_call(database: Database) -> None:
    async def call() -> None:
        call_context.set_deadline(0.05)
        async with database.connection() as connection:
            await connection.fetch_one("SELECT SLEEP(2)")

    with pytest.raises(TimeoutError):
        await asyncio.create_task(call())


async def test_deadlocked_transactions_are_retried_until_they_succeed(database: Database) -> None:
    attempts = 0

    async def move(source: int, target: int) -> None:
        async def work(connection: Connection) -> None:
            nonlocal attempts
            attempts += 1
            await connection.execute("UPDATE pool_test SET amount = 50 WHERE id = %s", source)
            await asyncio.sleep(0.005)
            await connection.execute("UPDATE pool_test SET amount = 50 WHERE id = %s", target)

        await database.run(work)

    for _ in range(5):
        await asyncio.gather(move(1, 2), move(2, 1))
    assert attempts > 10
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE pool_test SET amount = 100")


async def test_gives_up_after_eight_attempts(database: Database) -> None:
    attempts = 0

    async def work(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        raise TransactionAborted

    with pytest.raises(Unavailable):
        await database.run(work)
    assert attempts == 8
    assert await amount(database, 2) == 100


async def test_other_errors_are_not_retried(database: Database) -> None:
    attempts = 0

    async def work(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute("INSERT INTO pool_test VALUES (1, 1)")

    with pytest.raises(DuplicateKey):
        await database.run(work)
    assert attempts == 1


async def test_lock_timeout_has_a_type_of_its_own(database: Database) -> None:
    async with database.transaction() as first:
        await first.execute("UPDATE pool_test SET amount = 100 WHERE id = 2")
        with pytest.raises(LockTimeout) as refused:
            async with database.transaction() as second:
                await second.execute(
                    "SET STATEMENT innodb_lock_wait_timeout = 0 FOR"
                    " UPDATE pool_test SET amount = 1 WHERE id = 2"
                )
        assert is_transient(refused.value)


async def test_refused_access_is_unavailable_names_the_number_and_is_logged_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(mysql, "log", log)
    async with Database(url.replace("//reservation:", "//nobody:")) as database:
        for _ in range(3):
            with pytest.raises(AccessDenied) as refused:
                await amount(database)
    assert refused.value.number == 1045
    assert is_transient(refused.value)
    (call,) = log.calls
    assert (call.method_name, call.args) == ("error", ("database_access_denied",))
    assert call.kwargs == {"number": 1045}


async def test_server_restart_is_survived(url: str) -> None:
    async with (
        Proxy(url) as proxy,
        Database(proxy.url, max_size=2, acquire_timeout=2.0, query_timeout=2.0) as database,
    ):
        await asyncio.gather(amount(database, 2), amount(database, 2))
        with pytest.raises(Unavailable):  # noqa: PT012
            async with database.transaction() as transaction:
                await proxy.cut()
                await transaction.execute("UPDATE pool_test SET amount = 0 WHERE id = 2")
        for _ in range(4):  # more often than the pool has connections
            with pytest.raises(Unavailable):
                await amount(database, 2)
        await proxy.open()
        assert await asyncio.gather(*(amount(database, 2) for _ in range(4))) == [100] * 4


async def test_dead_idle_connections_are_not_lent(url: str) -> None:
    async with Proxy(url) as proxy, Database(proxy.url, max_size=2) as database:
        await asyncio.gather(amount(database, 2), amount(database, 2))
        await proxy.cut()
        await proxy.open()
        assert list(await asyncio.gather(amount(database, 2), amount(database, 2))) == [100, 100]
        assert proxy.connections == 4


async def test_connection_killed_by_the_server_is_unavailable_then_replaced(
    database: Database,
) -> None:
    async def kill(number: Any) -> None:
        async with database.connection() as connection:
            await connection.execute(f"KILL CONNECTION {int(number)}")

    with pytest.raises(Unavailable):  # noqa: PT012
        async with database.connection() as connection:
            row = await connection.fetch_one("SELECT CONNECTION_ID()")
            assert row is not None
            await kill(row[0])
            await connection.fetch_one("SELECT 1")
    assert await amount(database, 2) == 100


async def test_a_server_that_hangs_costs_at_most_the_timeouts(url: str) -> None:
    async with (
        Proxy(url) as proxy,
        Database(proxy.url, max_size=1, acquire_timeout=1.0, query_timeout=0.3) as database,
    ):
        assert await amount(database, 2) == 100
        proxy.silent = True
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await amount(database, 2)
        with pytest.raises(Unavailable):
            await amount(database, 2)
        assert asyncio.get_running_loop().time() - started < 3.0
        proxy.silent = False
        assert await amount(database, 2) == 100


async def test_autocommitted_work_is_retried_too(database: Database) -> None:
    attempts = 0

    async def work(connection: Connection) -> int:
        nonlocal attempts
        attempts += 1
        await connection.execute("UPDATE pool_test SET amount = 100 + %s WHERE id = 2", attempts)
        if attempts < 3:
            raise TransactionAborted
        return attempts

    try:
        assert await database.run(work, autocommit=True) == 3
        assert await amount(database, 2) == 103
    finally:
        async with database.transaction() as transaction:
            await transaction.execute("UPDATE pool_test SET amount = 100")
