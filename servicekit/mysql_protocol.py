"""Sends SQL to MariaDB and reads the results, on a connection that aiomysql opened.

aiomysql's own cursors await twice for each packet and decode the description of every column
again for each result. This reader takes what has arrived at once, remembers descriptions, and
accepts several statements in one round trip. What that gains:
docs/adr/0026-our-mysql-reader-stays.md.

It relies on these parts of aiomysql and asyncio that are not in their documentation;
tests/servicekit/test_mysql_protocol.py fails when a new version changes them:

- `aiomysql.Connection._reader` and `._writer` are asyncio streams, of which aiomysql reads nothing
  between commands, and `server_status` is where it keeps the status flags of the last result;
- `asyncio.StreamReader._buffer` holds what has arrived and has not been read;
- `pymysql.protocol` has `FieldDescriptorPacket` and `MysqlPacket.raise_for_error`,
  `pymysql.connections` has `TEXT_TYPES`.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import aiomysql
import pymysql
from pymysql.connections import TEXT_TYPES
from pymysql.constants import COMMAND, CR, SERVER_STATUS
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

_ENCODING = "utf8"
_BINARY_CHARSET = 63
# First bytes of a packet; 0xFB also stands for NULL in place of a length.
_OK, _NULL, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF
# How many bytes of length follow these first bytes of a length.
_LENGTH_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}
# The protocol would split longer packets; the server's default limit is 16 MB as well.
_MAX_PACKET = 0xFFFFFF
_READ_BYTES = 65_536
# They take up to 10 ms.
_ROWS_AT_ONCE = 1_000


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


class MysqlConnection:
    """One connection, for one caller at a time. `programs` are the names of the statements that
    the server has prepared for it, by their texts."""

    def __init__(self, connection: Any) -> None:
        self.programs: dict[str, str] = {}
        self._connection = connection
        self._received = b""
        self._position = 0
        self._packet_number = 0

    @classmethod
    async def connect(cls, **arguments: Any) -> "MysqlConnection":
        """Connects as aiomysql.connect does, with the same arguments and errors."""
        return cls(await aiomysql.connect(**arguments))

    @property
    def reusable(self) -> bool:
        """Whether another caller may use the connection: it is open and in no transaction."""
        return not self._connection.closed and not self._connection.get_transaction_status()

    @property
    def closed_by_server(self) -> bool:
        """Whether the server closed this idle connection, or sent an error before it does."""
        reader, writer = self._connection._reader, self._connection._writer
        return bool(
            reader is None
            or reader.at_eof()
            or reader.exception() is not None
            or reader._buffer
            or writer.transport.is_closing()
        )

    def close(self) -> None:
        """Closes the connection at once."""
        self._connection.close()

    async def quit(self) -> None:
        """Sends COM_QUIT, then closes the connection. Raises OSError or MySQLError."""
        await self._connection.ensure_closed()

    def format(self, sql: str, values: Sequence[Any]) -> str:
        """Returns the statement with each %s replaced by an escaped value; a list or tuple
        becomes a list in brackets, bytes a hexadecimal literal."""
        return sql % tuple(map(self._literal, values)) if values else sql

    def _literal(self, value: Any) -> str:
        if type(value) is int:  # aiomysql takes five times as long (1.4 µs more)
            return str(value)
        if isinstance(value, list | tuple):
            return f"({', '.join(map(self._literal, value))})"
        if isinstance(value, bytes):  # aiomysql 0.3.2 raises TypeError for them
            return f"X'{value.hex()}'"
        escape: Callable[[Any], str] = self._connection.escape
        return escape(value)

    async def query(self, sql: str) -> list[Result]:
        """Runs one or more statements, separated by semicolons, in one round trip; returns their
        results. Raises MySQLError for the first that fails; those after it are not run.

        If the caller is cancelled or the server is lost, the connection is closed, so that nobody
        reads the rest of the results.
        """
        if self._connection.closed:
            raise pymysql.err.InterfaceError(0, "The connection is closed.")
        payload = sql.encode(_ENCODING)
        if len(payload) >= _MAX_PACKET:
            raise pymysql.err.ProgrammingError("A statement must be shorter than 16 MB.")
        self._received, self._position, self._packet_number = b"", 0, 1
        command = struct.pack("<iB", len(payload) + 1, COMMAND.COM_QUERY)
        self._connection._writer.write(command + payload)
        results: list[Result] = []
        more = True
        try:
            while more:
                result, more = await self._read_result()
                results.append(result)
        except pymysql.err.MySQLError:
            raise  # only the statement failed
        except (OSError, EOFError) as error:
            self.close()
            raise pymysql.err.OperationalError(
                CR.CR_SERVER_LOST, "The connection to the server was lost."
            ) from error
        except BaseException:
            self.close()
            raise
        if self._position != len(self._received):
            # An error that answers no statement: the server is about to close the connection.
            self.close()
        return results

    async def _read_result(self) -> tuple[Result, bool]:
        """Returns the result of one statement, and whether another one follows."""
        packet = await self._read_packet()
        if packet[0] == _OK:
            matched, position = _length(packet, 1)
            insert_id, position = _length(packet, position)
            return Result((), matched, insert_id), self._note_status(packet, position)
        _raise_if_error(packet)
        count, _ = _length(packet, 0)
        descriptions = tuple([await self._read_packet() for _ in range(count)])
        row_class, converters = _columns(descriptions)
        await self._read_packet()  # marks the end of the descriptions
        rows: list[Row] = []
        while True:
            packet = await self._read_packet()
            if packet[0] == _EOF and len(packet) < 9:
                return Result(rows, len(rows)), self._note_status(packet, 3)
            _raise_if_error(packet)
            rows.append(row_class(_values(packet, converters)))
            if len(rows) % _ROWS_AT_ONCE == 0:
                # What has arrived is read without a pause: other tasks would wait.
                await asyncio.sleep(0)

    def _note_status(self, packet: bytes, position: int) -> bool:
        status = int.from_bytes(packet[position : position + 2], "little")
        self._connection.server_status = status
        return bool(status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS)

    async def _read_packet(self) -> bytes:
        while True:
            received, start = self._received, self._position + 4
            if len(received) >= start:
                end = start + int.from_bytes(received[start - 4 : start - 1], "little")
                if len(received) >= end:
                    number = received[start - 1]
                    if number != self._packet_number or end - start == _MAX_PACKET:
                        raise EOFError("The server's packets are out of order.")
                    self._packet_number = (number + 1) % 256
                    self._position = end
                    return received[start:end]
            more = await self._connection._reader.read(_READ_BYTES)
            if not more:
                raise EOFError("The server closed the connection.")
            self._received, self._position = received[self._position :] + more, 0


def _raise_if_error(packet: bytes) -> None:
    if packet[0] == _ERROR:
        MysqlPacket(packet, _ENCODING).raise_for_error()


def _length(packet: bytes, position: int) -> tuple[int, int]:
    """Returns a length-encoded number and the position after it."""
    first = packet[position]
    if first < _NULL:
        return first, position + 1
    end = position + 1 + _LENGTH_BYTES[first]
    return int.from_bytes(packet[position + 1 : end], "little"), end


def _values(packet: bytes, converters: Sequence[Callable[[bytes], Any]]) -> list[Any]:
    """The values of one row."""
    values: list[Any] = []
    position = 0
    for convert in converters:
        if packet[position] == _NULL:
            values.append(None)
            position += 1
        else:
            length, start = _length(packet, position)
            position = start + length
            values.append(convert(packet[start:position]))
    return values


# The statements of a service have less than a hundred different results.
@lru_cache(maxsize=256)
def _columns(
    descriptions: tuple[bytes, ...],
) -> tuple[Callable[[list[Any]], Row], list[Callable[[bytes], Any]]]:
    """The class of the rows, and what makes a value of the bytes of each column."""
    fields: list[Any] = [FieldDescriptorPacket(each, _ENCODING) for each in descriptions]
    names = [field.name for field in fields]
    columns = {
        name: property(itemgetter(index))
        for index, name in enumerate(names)
        if names.count(name) == 1
    }
    return type("Row", (Row,), {"__slots__": (), **columns}), [
        _converter(field) for field in fields
    ]


def _converter(field: Any) -> Callable[[bytes], Any]:
    """What PyMySQL makes of a column of this type."""
    if field.type_code in TEXT_TYPES and field.charsetnr == _BINARY_CHARSET:
        return bytes
    convert = pymysql.converters.decoders.get(field.type_code)
    if convert is None or convert is pymysql.converters.through:
        return _text
    if convert is int:
        return int
    return lambda value: convert(value.decode(_ENCODING))


def _text(value: bytes) -> str:
    return value.decode(_ENCODING)
