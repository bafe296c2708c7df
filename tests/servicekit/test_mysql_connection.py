"""What servicekit/mysql_connection.py relies on in its libraries, on a real MariaDB.

If a new version breaks one of these tests, compare its connection.py with mysql_connection.py.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiomysql
import pymysql
import pytest

from servicekit.mysql_connection import MysqlConnection, _description


def arguments(mysql_urls: dict[str, str]) -> dict[str, Any]:
    parts = urlsplit(mysql_urls["reservation"])
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password,
        "db": parts.path.lstrip("/"),
        "charset": "utf8mb4",
        "autocommit": True,
    }


@contextlib.asynccontextmanager
async def opened(mysql_urls: dict[str, str]) -> AsyncIterator[MysqlConnection]:
    connection = await MysqlConnection.open(**arguments(mysql_urls))
    try:
        yield connection
    finally:
        connection.close()


async def test_streams_are_asyncios_and_empty_between_statements(
    mysql_urls: dict[str, str],
) -> None:
    async with opened(mysql_urls) as connection:
        assert issubclass(type(connection._reader), asyncio.StreamReader)
        assert issubclass(type(connection._writer), asyncio.StreamWriter)
        await connection.run("SELECT 1")
        assert connection._reader._buffer == b""
        assert not connection.closed_by_server
        # What the server sends between statements stays in this buffer.
        connection._reader.feed_data(b"x")
        assert connection.closed_by_server


def test_aiomysql_reads_through_read_packet_alone() -> None:
    parameters = inspect.signature(aiomysql.Connection._read_packet).parameters
    assert list(parameters) == ["self", "packet_type"]
    source = inspect.getsource(aiomysql.connection)
    # A second place would take bytes from the stream that are in our buffer already.
    assert source.count("self._reader.read") == 1
    assert source.count("self._read_bytes(") == 2
    ours = inspect.getsource(aiomysql.Connection._read_packet)
    assert ours.count("self._read_bytes(") == 2


async def test_a_packet_may_arrive_in_pieces(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        real = connection._reader
        connection._reader = OneByteAtATime(real)
        (found,) = await connection.run("SELECT 1 AS a, 'it''s' AS b UNION SELECT 2, NULL")
        connection._reader = real
        assert found.rows == [(1, "it's"), (2, None)]


class OneByteAtATime:
    """A reader whose reads return one byte."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self, _: int) -> bytes:
        return await self._reader.read(1)


async def test_a_packet_may_continue_in_the_next_one(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        real = connection._reader
        connection._reader = asyncio.StreamReader()
        for number, length in enumerate((2**24 - 1, 2**24 - 1, 7, 1), connection._next_seq_id):
            header = length.to_bytes(3, "little") + bytes([number])
            connection._reader.feed_data(header + b"x" * length)
        assert len((await connection._read_packet()).get_all_data()) == 2 * (2**24 - 1) + 7
        assert (await connection._read_packet()).get_all_data() == b"x"
        connection._reader = real


async def test_packets_out_of_order_close_the_connection(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        # An OK packet with number 7.
        connection._received, connection._position = b"\x01\x00\x00\x07\x00", 0
        with pytest.raises(pymysql.err.OperationalError, match="lost"):
            await connection.run("SELECT 1")
        assert connection.closed


async def test_status_flags_follow_the_transaction(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        assert connection.reusable
        await connection.run("BEGIN")
        assert not connection.reusable
        await connection.run("SELECT 1; ROLLBACK")
        assert connection.reusable
        # The flags also decide how values are escaped.
        await connection.run("SET sql_mode = 'NO_BACKSLASH_ESCAPES'")
        assert connection.escape("\\'") == "'\\'''"
        assert (await connection.run(connection.format("SELECT %s", ("\\'",))))[0].rows == [
            ("\\'",)
        ]


async def test_after_an_error_the_next_statement_runs(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        for _ in range(2):
            with pytest.raises(pymysql.err.OperationalError, match="no_such_column"):
                await connection.run("SELECT 1; SELECT no_such_column FROM DUAL; SELECT 3")
            first, second = await connection.run("SELECT 4; DO 5")
            assert (first.rows, second.rows) == ([(4,)], ())


async def test_a_closed_connection_refuses_statements(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        await connection.ensure_closed()
        assert connection.closed_by_server
        assert not connection.reusable
        with pytest.raises(pymysql.err.InterfaceError):
            await connection.run("SELECT 1")


async def test_rows_are_those_of_aiomysql(mysql_urls: dict[str, str]) -> None:
    values = {
        "INT": "-1",
        "BIGINT UNSIGNED": str(2**64 - 1),
        "DECIMAL(10, 2)": "1.50",
        "DOUBLE": "1.25",
        "DATE": "'2026-12-24'",
        "DATETIME(6)": "'2026-12-24 20:15:00.000001'",
        "TIME(3)": "'01:00:00.500'",
        "CHAR(3)": "'ä🎟'",
        "TEXT": "'x'",
        "JSON": "'[1]'",
        "ENUM('a', 'b')": "'b'",
        "BLOB": "X'00FF'",
    }
    columns = ", ".join(f"c{index} {kind}" for index, kind in enumerate(values))
    theirs = await aiomysql.connect(**arguments(mysql_urls))
    async with opened(mysql_urls) as connection, theirs:
        for each in (theirs, connection):
            async with each.cursor() as cursor:
                await cursor.execute(f"CREATE TEMPORARY TABLE kinds ({columns}) CHARSET utf8mb4")
                await cursor.execute(f"INSERT INTO kinds VALUES ({', '.join(values.values())})")
                await cursor.execute(f"INSERT INTO kinds VALUES ({', '.join(['NULL'] * 12)})")
        async with theirs.cursor() as cursor:
            await cursor.execute("SELECT * FROM kinds")
            expected = await cursor.fetchall()
            names = [column[0] for column in cursor.description]
        for _ in range(2):  # with and without remembered descriptions
            (found,) = await connection.run("SELECT * FROM kinds")
            assert tuple(found.rows) == expected
            for row, their_row in zip(found.rows, expected, strict=True):
                assert [type(value) for value in row] == [type(value) for value in their_row]
                assert [getattr(row, name) for name in names] == list(their_row)


async def test_descriptions_are_remembered(mysql_urls: dict[str, str]) -> None:
    async with opened(mysql_urls) as connection:
        await connection.run("SELECT 1 AS remembered, 2 AS as_well")
        hits = _description.cache_info().hits
        await connection.run("SELECT 1 AS remembered, 2 AS as_well")
        assert _description.cache_info().hits == hits + 2
