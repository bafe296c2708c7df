"""A connection of aiomysql that reads packets faster and returns rows with column names.

aiomysql awaits twice for each packet and decodes the description of every column again for each
result. Here one read takes everything that has arrived, and descriptions are remembered. What
that gains: docs/adr/0026-mysql-reader.md.

It relies on these undocumented parts of aiomysql, PyMySQL and asyncio;
tests/servicekit/test_mysql_connection.py fails when a new version changes them:

- `Connection._connect()` opens a connection, `query()` and `next_result()` run a statement and put
  its result into `_result` (`rows`, `fields`, `affected_rows`, `insert_id`, `has_next`);
- they read all packets through `_read_packet(packet_type)` from the asyncio stream `_reader`, and
  number them by `_next_seq_id`; `_writer` is the asyncio stream to the server;
- `FieldDescriptorPacket(data, encoding)` and its objects' `name`; nobody changes such an object;
- `asyncio.StreamReader._buffer` holds what has arrived and has not been read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import aiomysql
import pymysql
from pymysql.constants import CR
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

_READ_BYTES = 65_536
# A packet of this length continues in the next one.
_MAX_PACKET = 0xFFFFFF


class Row(tuple[Any, ...]):
    """One row. Its columns are attributes under their names or aliases in the query, such as
    `row.seat_id`; a name that occurs twice is no attribute."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"The query has no column {name!r}, or more than one.")


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement did. `matched` counts the rows that a query returned or that a write
    matched, `insert_id` is the generated id of an INSERT."""

    rows: Sequence[Row] = ()
    matched: int = 0
    insert_id: int = 0


class MysqlConnection(aiomysql.Connection):  # type: ignore[misc]  # aiomysql has no types
    """One connection, for one caller at a time. `close()` closes it at once, `ensure_closed()`
    tells the server first."""

    _next_seq_id: int  # aiomysql's
    _received = b""
    _position = 0

    @classmethod
    async def open(cls, **arguments: Any) -> "MysqlConnection":
        """Connects as aiomysql.connect does, with the same arguments and errors."""
        connection = cls(**arguments)
        try:
            await connection._connect()
        except BaseException:
            connection.close()  # aiomysql does not if the caller is cancelled
            raise
        return connection

    @property
    def reusable(self) -> bool:
        """Whether another caller may use the connection: it is open and in no transaction."""
        return not self.closed and not self.get_transaction_status()

    @property
    def closed_by_server(self) -> bool:
        """Whether the server closed this idle connection, or sent an error before it does."""
        return bool(
            self._reader is None
            or self._reader.at_eof()
            or self._reader.exception() is not None
            or self._reader._buffer
            or len(self._received) > self._position
            or self._writer.transport.is_closing()
        )

    def format(self, sql: str, values: Sequence[Any]) -> str:
        """Returns the statement with each %s replaced by an escaped value; a list or tuple
        becomes a list in brackets."""
        return sql % tuple(map(self._literal, values)) if values else sql

    def _literal(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return f"({', '.join(map(self.escape, value))})"
        return self.escape(value)

    async def run(self, sql: str) -> list[Result]:
        """Runs one or more statements, separated by semicolons, in one round trip; returns their
        results. Raises MySQLError for the first that fails; those after it are not run.

        If the caller is cancelled or the server is lost, the connection is closed, so that nobody
        reads the rest of the results.
        """
        results: list[Result] = []
        try:
            await self.query(sql)
            results.append(_result(self._result))
            while self._result.has_next:
                await self.next_result()
                results.append(_result(self._result))
        except pymysql.err.MySQLError:
            raise  # only the statement failed, or the connection is closed already
        except BaseException:
            self.close()
            raise
        return results

    async def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """Overrides aiomysql's method: returns the next packet. Raises MySQLError if the packet
        is an error, or closes the connection and raises OperationalError if the server is lost."""
        body = b""
        while True:
            received, start = self._received, self._position + 4
            if len(received) >= start:
                length = int.from_bytes(received[start - 4 : start - 1], "little")
                end = start + length
                if len(received) >= end:
                    if received[start - 1] != self._next_seq_id:
                        raise self._lost()
                    self._next_seq_id = (self._next_seq_id + 1) % 256
                    self._position = end
                    body += received[start:end]
                    if length == _MAX_PACKET:
                        continue
                    break
            try:
                more = await self._reader.read(_READ_BYTES)
            except OSError as error:
                raise self._lost() from error
            if not more:
                raise self._lost()
            self._received, self._position = received[self._position :] + more, 0
        if packet_type is FieldDescriptorPacket:
            return _description(body, self.encoding)
        packet = packet_type(body, self.encoding)
        if packet.is_error_packet():
            packet.raise_for_error()
        return packet

    def _lost(self) -> pymysql.err.OperationalError:
        self.close()
        return pymysql.err.OperationalError(
            CR.CR_SERVER_LOST, "The connection to the server was lost."
        )


# The statements of a service have some hundred columns; the data holds table and alias too.
@lru_cache(maxsize=1024)
def _description(data: bytes, encoding: str) -> Any:
    return FieldDescriptorPacket(data, encoding)


def _result(result: Any) -> Result:
    if result.rows is None:
        return Result((), result.affected_rows, result.insert_id)
    row_class = _row_class(tuple([field.name for field in result.fields]))
    return Result([row_class(row) for row in result.rows], result.affected_rows)


@lru_cache(maxsize=256)
def _row_class(names: tuple[str, ...]) -> type[Row]:
    columns = {
        name: property(itemgetter(index))
        for index, name in enumerate(names)
        if names.count(name) == 1
    }
    return type("Row", (Row,), {"__slots__": (), **columns})
