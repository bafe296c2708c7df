"""Statements on a connection of aiomysql, without its cursors, at about half their cost.

aiomysql connects and proves who we are. Its way of reading a reply, though, awaits twice for each
packet of it and decodes the description of each column every time, which for a row of 12 columns
takes longer than MariaDB takes to find it. Here a reply is taken in as it comes, and what a column
is remembered; and several statements may go out at once.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pymysql
from pymysql.constants import COMMAND, CR, FIELD_TYPE, SERVER_STATUS
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

Row = tuple[Any, ...]
# What makes a value of the bytes of a column.
_Convert = Callable[[bytes], Any]

_ENCODING = "utf8"
_BINARY = 63
_TEXT_TYPES = {
    FIELD_TYPE.BLOB,
    FIELD_TYPE.LONG_BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.STRING,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.VARCHAR,
}
# The first byte of a packet, and the length that begins a longer length.
_OK, _NULL, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF
_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}
# Longer ones would be split in the protocol; the server as shipped refuses them anyway.
_LONGEST_PACKET = 0xFFFFFF
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """What one statement did: the rows of a query, or how many rows it matched."""

    rows: Sequence[Row] = ()
    matched: int = 0
    insert_id: int = 0


class Wire:
    """One connection, as aiomysql opened it. For one caller at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._received = b""
        self._at = 0
        self._number = 0

    @property
    def usable(self) -> bool:
        """Whether another caller may have it: it is open, and in no transaction."""
        return not self._connection.closed and not self._connection.get_transaction_status()

    @property
    def hung_up(self) -> bool:
        """Whether the server closed this idle connection, with or without a last word."""
        reader, writer = self._connection._reader, self._connection._writer
        return bool(
            reader is None
            or reader.at_eof()
            or reader.exception() is not None
            or reader._buffer
            or writer.transport.is_closing()
        )

    def close(self) -> None:
        """Closes the connection without a word."""
        self._connection.close()

    async def leave(self) -> None:
        """Closes the connection in order. Raises OSError or MySQLError."""
        await self._connection.ensure_closed()

    def format(self, sql: str, values: Sequence[Any]) -> str:
        """The statement with its values, escaped, in the places of its %s."""
        return sql % tuple(map(self._connection.escape, values)) if values else sql

    async def ask(self, sql: str) -> list[Reply]:
        """Sends one or more statements, with ; between, and returns the reply of each. One that
        fails raises MySQLError, and those after it are not run.

        Cancelled, or if the server goes away, the connection is closed, since what is left of the
        reply must reach nobody else.
        """
        self._connection._ensure_alive()
        payload = sql.encode(_ENCODING)
        if len(payload) >= _LONGEST_PACKET:
            raise pymysql.err.ProgrammingError("A statement has less than 16 MB.")
        self._received, self._at, self._number = b"", 0, 1
        self._connection._writer.write(
            struct.pack("<iB", len(payload) + 1, COMMAND.COM_QUERY) + payload
        )
        replies: list[Reply] = []
        more = True
        try:
            while more:
                reply, more = await self._read_reply()
                replies.append(reply)
        except pymysql.err.MySQLError:
            raise
        except (OSError, EOFError) as error:
            self.close()
            raise pymysql.err.OperationalError(
                CR.CR_SERVER_LOST, "Lost connection to MySQL server during query"
            ) from error
        except BaseException:
            self.close()
            raise
        if self._at != len(self._received):
            # The server spoke unasked: its last word.
            self.close()
        return replies

    async def _read_reply(self) -> tuple[Reply, bool]:
        """The reply of one statement, and whether another follows."""
        packet = await self._read_packet()
        if packet[0] == _OK:
            matched, at = _length(packet, 1)
            insert_id, at = _length(packet, at)
            return Reply((), matched or 0, insert_id or 0), self._note_status(packet, at)
        if packet[0] == _ERROR:
            # Only the statement has failed: the connection is sound.
            MysqlPacket(packet, _ENCODING).raise_for_error()
        count, _ = _length(packet, 0)
        if count is None:  # a request of LOAD DATA LOCAL, which nobody has allowed
            raise EOFError("The server asks for a file.")
        columns = [_column(await self._read_packet()) for _ in range(count)]
        await self._read_packet()  # says only that those were the columns
        rows: list[Row] = []
        while True:
            packet = await self._read_packet()
            if packet[0] == _EOF and len(packet) < 9:
                return Reply(rows, len(rows)), self._note_status(packet, 3)
            if packet[0] == _ERROR:
                MysqlPacket(packet, _ENCODING).raise_for_error()
            rows.append(_row(packet, columns))

    def _note_status(self, packet: bytes, at: int) -> bool:
        status = int.from_bytes(packet[at : at + 2], "little")
        # Where aiomysql looks for whether a transaction is open.
        self._connection.server_status = status
        return bool(status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS)

    async def _read_packet(self) -> bytes:
        while True:
            received, start = self._received, self._at + 4
            if len(received) >= start:
                end = start + int.from_bytes(received[start - 4 : start - 1], "little")
                if len(received) >= end:
                    if received[start - 1] != self._number or end - start == _LONGEST_PACKET:
                        raise EOFError("The server's packets are out of order.")
                    self._number = (self._number + 1) % 256
                    self._at = end
                    return received[start:end]
            more = await self._connection._reader.read(_CHUNK)
            if not more:
                raise EOFError("The server closed the connection.")
            self._received, self._at = received[self._at :] + more, 0


def _length(packet: bytes, at: int) -> tuple[int | None, int]:
    """A length as the protocol writes it, None for NULL; and where it ends."""
    first = packet[at]
    if first < _NULL:
        return first, at + 1
    if first == _NULL:
        return None, at + 1
    end = at + 1 + _WIDTHS[first]
    return int.from_bytes(packet[at + 1 : end], "little"), end


def _row(packet: bytes, columns: Sequence[_Convert]) -> Row:
    values: list[Any] = []
    at = 0
    for convert in columns:
        length, at = _length(packet, at)
        if length is None:
            values.append(None)
        else:
            values.append(convert(packet[at : at + length]))
            at += length
    return tuple(values)


# By the whole description, names included: the statements of a service have some hundred columns.
@lru_cache(maxsize=1024)
def _column(description: bytes) -> _Convert:
    """What PyMySQL makes of a column, found by its description."""
    field: Any = FieldDescriptorPacket(description, _ENCODING)
    if field.type_code in _TEXT_TYPES and field.charsetnr == _BINARY:
        return bytes
    convert = pymysql.converters.decoders.get(field.type_code)
    if convert is None or convert is pymysql.converters.through:
        return _text
    if convert is int:
        return int
    return lambda value: convert(value.decode(_ENCODING))


def _text(value: bytes) -> str:
    return value.decode(_ENCODING)
