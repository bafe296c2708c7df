"""What each error number of MariaDB does to a caller, at each point where it can arrive."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import CapturingLogger

from servicekit import mysql
from servicekit.errors import Unavailable, is_transient
from servicekit.mysql import (
    AccessDenied,
    Connection,
    Database,
    DatabaseError,
    LockTimeout,
    StatementRefused,
    TransactionAborted,
)
from servicekit.mysql_errors import MEANINGS, Treatment
from servicekit.mysql_protocol import MysqlConnection, Result, _raise_if_error

# How often `run` runs the work, and what its caller gets.
EXPECTED: dict[Treatment, tuple[int, type[Unavailable]]] = {
    Treatment.RETRY: (8, TransactionAborted),
    Treatment.MOVE: (2, StatementRefused),
    Treatment.WAIT: (1, Unavailable),
    Treatment.DENIED: (1, AccessDenied),
}
# MariaDB's SIGNAL raises no other numbers.
SIGNALLED = range(1000, 4000)

each_number = pytest.mark.parametrize("number", MEANINGS)


def error_packet(number: int) -> bytes:
    return b"\xff" + struct.pack("<H", number) + b"#HY000Text of the server."


@pytest.fixture(scope="module")
async def url(mysql_urls: dict[str, str]) -> AsyncIterator[str]:
    url = mysql_urls["reservation"]
    async with Database(url) as database, database.connection() as connection:
        await connection.execute("CREATE OR REPLACE TABLE errors_test (amount INT NOT NULL)")
        await connection.execute("INSERT INTO errors_test VALUES (0)")
        yield url
        await connection.execute("DROP TABLE errors_test")


@pytest.fixture
async def database(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(random, "uniform", lambda *_: 0)
    async with Database(url, max_size=2) as database:
        yield database


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    log = CapturingLogger()
    monkeypatch.setattr(mysql, "log", log)
    return log


def fail_at(
    monkeypatch: pytest.MonkeyPatch, statement: str, number: int, times: int = 1000
) -> None:
    """The server answers this statement with the error."""
    query = MysqlConnection.query
    left = times

    async def fail(self: MysqlConnection, sql: str) -> list[Result]:
        nonlocal left
        if sql == statement and left:
            left -= 1
            _raise_if_error(error_packet(number))
        return await query(self, sql)

    monkeypatch.setattr(MysqlConnection, "query", fail)


@each_number
@pytest.mark.parametrize("autocommit", [True, False])
async def test_of_a_statement(
    database: Database,
    log: CapturingLogger,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    autocommit: bool,
) -> None:
    attempts, kind = EXPECTED[MEANINGS[number][0]]
    connections = []
    statement = f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}"
    if number not in SIGNALLED:
        fail_at(monkeypatch, statement, number)

    async def work(connection: Connection) -> None:
        row = await connection.fetch_one("SELECT CONNECTION_ID()")
        assert row is not None
        connections.append(row[0])
        await connection.execute(statement)

    for _ in range(2):
        connections.clear()
        with pytest.raises(kind) as failed:
            await database.run(work, autocommit=autocommit)
        assert len(connections) == attempts
        moved = MEANINGS[number][0] is Treatment.MOVE
        assert len(set(connections)) == (2 if moved else 1)
        assert is_transient(failed.value)
        assert str(failed.value).startswith("The database is ")
    assert isinstance(failed.value, LockTimeout) == (number == 1205)
    # A connection that still works returned to the pool; one to a former primary did not.
    assert len(database._idle) == (0 if moved else 1)
    denied = [call.kwargs for call in log.calls]
    assert denied == ([{"number": number}] if kind is AccessDenied else [])


@each_number
async def test_of_a_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await amount(database, set_to=0)
    fail_at(monkeypatch, "COMMIT", number, times=1)

    async def work(connection: Connection) -> None:
        await connection.execute("UPDATE errors_test SET amount = amount + 1")

    if MEANINGS[number][0] in (Treatment.RETRY, Treatment.MOVE):
        await database.run(work)
        assert await amount(database) == 1
    else:  # whether it was committed is unknown
        with pytest.raises(Unavailable):
            await database.run(work)
        assert await amount(database) == 0


@pytest.mark.parametrize("number", [*MEANINGS, 0, 1146])
async def test_of_a_connection(log: CapturingLogger, number: int) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = error_packet(number)
        writer.write(len(packet).to_bytes(3, "little") + b"\0" + packet)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Database(f"mysql://u:p@127.0.0.1:{port}/s") as database:
            with pytest.raises(Unavailable) as failed:
                await amount(database)
    denied = number in MEANINGS and MEANINGS[number][0] is Treatment.DENIED
    assert isinstance(failed.value, AccessDenied) == denied
    assert len(log.calls) == denied


@pytest.mark.parametrize("number", [1054, 1062, 1064, 1146, 1105, 4025])
async def test_a_defect_is_not_taken_for_an_outage(database: Database, number: int) -> None:
    runs = 0

    async def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}")

    with pytest.raises(DatabaseError) as failed:
        await database.run(work)
    assert (runs, failed.value.number) == (1, number)


async def test_connections_in_use_are_not_lent_again_after_a_refusal(database: Database) -> None:
    async with database.connection() as reader:
        (before,) = await ids(reader)
        with pytest.raises(StatementRefused):
            async with database.connection() as writer:
                await writer.execute("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1290")
        # It still reads, of a server that is no primary any more.
        assert await ids(reader) == [before]
    async with database.connection() as connection:
        assert await ids(connection) != [before]


async def ids(connection: Connection) -> Sequence[int]:
    return [row[0] for row in await connection.fetch_all("SELECT CONNECTION_ID()")]


async def amount(database: Database, set_to: int | None = None) -> int:
    async with database.connection() as connection:
        if set_to is not None:
            await connection.execute("UPDATE errors_test SET amount = %s", set_to)
        row = await connection.fetch_one("SELECT amount FROM errors_test")
    assert row is not None
    return int(row.amount)
