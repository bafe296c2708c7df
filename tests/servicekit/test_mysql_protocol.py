"""What servicekit/mysql_protocol.py relies on in aiomysql, PyMySQL and asyncio, on a real MariaDB.

If a new version breaks one of these tests, compare its connection.py with mysql_protocol.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import aiomysql
import pymysql
import pytest
from pymysql.connections import TEXT_TYPES
from pymysql.constants import FIELD_TYPE
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from servicekit import mysql_protocol
from servicekit.mysql_protocol import MysqlConnection


@contextlib.asynccontextmanager
async def connected(mysql_urls: dict[str, str]) -> AsyncIterator[tuple[Any, MysqlConnection]]:
    """aiomysql's connection, and ours on top of it."""
    parts = urlsplit(mysql_urls["reservation"])
    theirs: Any = await aiomysql.connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        db=parts.path.lstrip("/"),
        autocommit=True,
    )
    try:
        yield theirs, MysqlConnection(theirs)
    finally:
        theirs.close()


async def test_streams_are_asyncios_and_empty_between_commands(
    mysql_urls: dict[str, str],
) -> None:
    async with connected(mysql_urls) as (theirs, ours):
        assert issubclass(type(theirs._reader), asyncio.StreamReader)
        assert issubclass(type(theirs._writer), asyncio.StreamWriter)
        await ours.query("SELECT 1")
        assert theirs._reader._buffer == b""
        assert not ours.closed_by_server
        # What the server sends between commands stays in this buffer.
        theirs._reader.feed_data(b"x")
        assert ours.closed_by_server


async def test_commands_of_aiomysql_and_ours_can_follow_each_other(
    mysql_urls: dict[str, str],
) -> None:
    async with connected(mysql_urls) as (theirs, ours):
        for _ in range(2):
            assert [result.rows for result in await ours.query("SELECT 1; SELECT 2")] == [
                [(1,)],
                [(2,)],
            ]
            async with theirs.cursor() as cursor:
                await cursor.execute("SELECT 3")
                assert await cursor.fetchall() == ((3,),)


async def test_status_flags_are_shared(mysql_urls: dict[str, str]) -> None:
    async with connected(mysql_urls) as (theirs, ours):
        assert ours.reusable
        await ours.query("BEGIN")
        assert theirs.get_transaction_status()
        assert not ours.reusable
        await ours.query("SELECT 1; ROLLBACK")
        assert not theirs.get_transaction_status()
        # The flags also decide how aiomysql escapes.
        await ours.query("SET sql_mode = 'NO_BACKSLASH_ESCAPES'")
        assert theirs.escape("\\'") == "'\\'''"
        assert (await ours.query(ours.format("SELECT %s", ("\\'",))))[0].rows == [("\\'",)]


async def test_bytes_are_values(mysql_urls: dict[str, str]) -> None:
    value = bytes(range(256))
    async with connected(mysql_urls) as (_, ours):
        for one in (value, b""):
            rows = (await ours.query(ours.format("SELECT CAST(%s AS BINARY)", (one,))))[0].rows
            assert rows == [(one,)]
        sql = ours.format("SELECT %s IN %s", (value, (b"other", value)))
        assert (await ours.query(sql))[0].rows == [(1,)]


async def test_many_rows_let_other_tasks_run(
    mysql_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_at = 0, [0]

    def counted(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return values(*arguments)

    async def other_task() -> None:
        while True:
            read_at.append(read)
            await asyncio.sleep(0)

    values = mysql_protocol._values
    monkeypatch.setattr(mysql_protocol, "_values", counted)
    async with connected(mysql_urls) as (_, connection):
        other = asyncio.create_task(other_task())
        (result,) = await connection.query("SELECT seq FROM seq_1_to_20000")
        other.cancel()
    read_at.append(read)
    assert len(result.rows) == read == 20_000
    assert max(b - a for a, b in pairwise(read_at)) <= 1_000


async def test_a_closed_connection_refuses_statements(mysql_urls: dict[str, str]) -> None:
    async with connected(mysql_urls) as (theirs, ours):
        await ours.quit()
        assert theirs.closed
        assert ours.closed_by_server
        assert not ours.reusable
        with pytest.raises(pymysql.err.InterfaceError):
            await ours.query("SELECT 1")


async def test_a_value_has_the_type_that_aiomysql_gives_it(mysql_urls: dict[str, str]) -> None:
    values = {
        "INT": "-1",
        "BIGINT UNSIGNED": str(2**64 - 1),
        "DECIMAL(10, 2)": "1.50",
        "DOUBLE": "1.25",
        "FLOAT": "0.5",
        "YEAR": "2026",
        "DATE": "'2026-12-24'",
        "DATETIME": "'2026-12-24 20:15:00'",
        "DATETIME(6)": "'2026-12-24 20:15:00.000001'",
        "TIMESTAMP": "'2026-12-24 20:15:00'",
        "TIME": "'-25:30:00'",
        "TIME(3)": "'01:00:00.500'",
        "CHAR(3)": "'ä🎟'",
        "TEXT": "'x'",
        "JSON": "'[1]'",
        "ENUM('a', 'b')": "'b'",
        "SET('a', 'b')": "'a,b'",
        "BINARY(2)": "X'00FF'",
        "VARBINARY(2)": "X'00FF'",
        "BLOB": "X'00FF'",
        "BIT(8)": "b'1'",
    }
    columns = ", ".join(f"c{index} {kind}" for index, kind in enumerate(values))
    async with connected(mysql_urls) as (theirs, ours):
        await ours.query(f"CREATE TEMPORARY TABLE kinds ({columns}) CHARSET utf8mb4")
        await ours.query(f"INSERT INTO kinds VALUES ({', '.join(values.values())})")
        await ours.query(f"INSERT INTO kinds VALUES ({', '.join(['NULL'] * len(values))})")
        (found,) = await ours.query("SELECT * FROM kinds")
        async with theirs.cursor() as cursor:
            await cursor.execute("SELECT * FROM kinds")
            expected = await cursor.fetchall()
            names = [column[0] for column in cursor.description]
    assert tuple(found.rows) == expected
    for ours_row, their_row in zip(found.rows, expected, strict=True):
        assert [type(value) for value in ours_row] == [type(value) for value in their_row]
        assert [getattr(ours_row, name) for name in names] == list(their_row)


def test_packets_of_pymysql_decode_errors_and_descriptions() -> None:
    with pytest.raises(pymysql.err.IntegrityError) as refused:
        MysqlPacket(b"\xff\x26\x04#23000twice", "utf8").raise_for_error()
    assert refused.value.args == (1062, "twice")
    strings = b"".join(bytes([len(s)]) + s for s in (b"def", b"s", b"t", b"t", b"name", b"name"))
    description = strings + b"\x0c" + bytes([63, 0, 4, 0, 0, 0, FIELD_TYPE.BLOB, 0, 0, 0, 0, 0])
    field: Any = FieldDescriptorPacket(description, "utf8")
    assert (field.name, field.type_code, field.charsetnr) == ("name", FIELD_TYPE.BLOB, 63)
    assert {FIELD_TYPE.BLOB, FIELD_TYPE.VAR_STRING} <= TEXT_TYPES
