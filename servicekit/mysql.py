"""MariaDB: a pool of connections and the transaction around a use case.

Our own pool, because aiomysql's wakes no waiter when a connection comes back cancelled or inside
a transaction, so that an exhausted pool starves.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import aiomysql
import pymysql
from pymysql.constants import CR, ER

from servicekit import call_context, logs
from servicekit.errors import Unavailable
from servicekit.mysql_wire import Reply, Wire
from servicekit.mysql_wire import Row as Row  # callers name it

log = logs.get(__name__)

Result = TypeVar("Result")
# A statement and its values, each at a %s of its own.
Statement = tuple[Any, ...]

# The server ended the transaction so that another could continue; a retry succeeds.
# 1020 is MariaDB's "record has changed since last read" under snapshot isolation.
_ABORTED = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.CHECKREAD}
# Nothing is wrong with the statement: no server can be reached, or it cannot run it now.
_UNAVAILABLE = {
    CR.CR_CONN_HOST_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
    CR.CR_COMMANDS_OUT_OF_SYNC,
    ER.CON_COUNT_ERROR,
    ER.TOO_MANY_USER_CONNECTIONS,
    ER.SERVER_SHUTDOWN,
    ER.QUERY_INTERRUPTED,
    ER.DISK_FULL,
    ER.OUT_OF_RESOURCES,
    ER.RECORD_FILE_FULL,
    ER.OPTION_PREVENTS_STATEMENT,  # the server is read-only
    1836,  # the same, in InnoDB
    1927,  # MariaDB's "connection was killed"
}
_ATTEMPTS = 8
_IDLE_SECONDS = 300.0

# The errors that a caller sees. Besides these: Unavailable when the server cannot be reached or
# all connections are in use, and TimeoutError when a statement takes too long.


class DatabaseError(Exception):
    """MariaDB refused a statement. A defect, unless the caller expects it, as DuplicateKey.

    `number` is MariaDB's error number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class DuplicateKey(DatabaseError):
    """The row would be the second one with a unique key."""


class AccessDenied(Unavailable):
    """MariaDB refuses the user, the password or the schema. `number` is its error number."""

    def __init__(self, number: int) -> None:
        super().__init__("The database is unavailable.")
        self.number = number


class TransactionAborted(Unavailable):
    """The server ended the transaction or the statement in favour of another; a retry may
    succeed."""

    def __init__(self) -> None:
        super().__init__("The database is too busy.")


class LockTimeout(TransactionAborted):
    """A statement gave up waiting for a row that another transaction has locked."""


class Transaction:
    """Statements inside one transaction. Values are always passed apart from the SQL, each at a
    %s of its own; a list or tuple, which must not be empty, as in `id IN %s`."""

    def __init__(self, wire: Wire, query_timeout: float, *, begin: bool) -> None:
        self._wire = wire
        self._query_timeout = query_timeout
        # BEGIN travels with the first statement.
        self._begin = begin

    async def execute(self, sql: str, *values: Any) -> int:
        """Runs one statement; returns the number of rows it matched."""
        return (await self._ask((sql, *values)))[0].matched

    async def insert(self, sql: str, *values: Any) -> int:
        """Runs one INSERT; returns the generated id."""
        return (await self._ask((sql, *values)))[0].insert_id

    async def fetch_all(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query, as tuples."""
        return list((await self._ask((sql, *values)))[0].rows)

    async def fetch_one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a query, or None."""
        rows = (await self._ask((sql, *values)))[0].rows
        return rows[0] if rows else None

    async def together(self, *statements: Statement) -> list[Reply]:
        """Runs several statements, each a tuple of SQL and values, in one round trip. If one
        fails, those after it are not run."""
        return await self._ask(*statements)

    async def _ask(self, *statements: Statement) -> list[Reply]:
        sql = ";".join(self._format(*statement) for statement in statements)
        async with asyncio.timeout(call_context.remaining(self._query_timeout)):
            if not self._begin:
                return await self._send(sql)
            self._begin = False
            return (await self._send("BEGIN;" + sql))[1:]

    async def _send(self, sql: str) -> list[Reply]:
        try:
            return await self._wire.ask(sql)
        except pymysql.err.MySQLError as error:
            raise _translated(error) from error

    def _format(self, sql: str, *values: Any) -> str:
        return self._wire.format(*_spread(sql, values))

    async def _commit(self) -> None:
        if self._begin:  # nothing was done
            return
        # Not cut short by what is left of the caller's budget: only a call that is cancelled
        # leaves a commit in doubt.
        async with asyncio.timeout(self._query_timeout):
            await self._send("COMMIT")


class Database:
    """A pool of connections to one schema.

    `url` is mysql://user:password@host:port/schema. A pool that stays exhausted, or a server
    that is away, raises Unavailable after `acquire_timeout` seconds; a statement that takes more
    than `query_timeout` seconds raises TimeoutError, and its connection is dropped.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 16,
        acquire_timeout: float = 2.0,
        query_timeout: float = 5.0,
    ) -> None:
        parts = urlsplit(url)
        self._arguments = {
            "host": parts.hostname or "127.0.0.1",
            "port": parts.port or 3306,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "db": parts.path.lstrip("/"),
            "charset": "utf8mb4",
            # Counts rows that matched, so that a compare-and-set to the same values counts.
            "client_flag": pymysql.constants.CLIENT.FOUND_ROWS,
            # Outside a transaction each statement stands alone: no stale snapshot is kept.
            "autocommit": True,
            # Now and dates in UTC, whatever the server's zone; see what others committed.
            "init_command": (
                "SET time_zone = '+00:00', tx_isolation = 'READ-COMMITTED',"
                # A statement that we gave up must not go on waiting at the server.
                f" innodb_lock_wait_timeout = {max(1, int(query_timeout))}"
            ),
        }
        self._slots = asyncio.Semaphore(max_size)
        self._idle: list[tuple[Wire, float]] = []
        self._acquire_timeout = acquire_timeout
        self._query_timeout = query_timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            wire, _since = self._idle.pop()
            try:
                async with asyncio.timeout(1.0):
                    await wire.leave()
            except (TimeoutError, OSError, pymysql.err.MySQLError):
                wire.close()

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """One transaction: committed if the block ends, rolled back if it raises."""
        return self._connected(begin=True)

    def reading(self) -> AbstractAsyncContextManager[Transaction]:
        """Statements without a transaction: each sees what is committed when it runs."""
        return self._connected(begin=False)

    async def run(
        self, work: Callable[[Transaction], Awaitable[Result]], *, autocommit: bool = False
    ) -> Result:
        """Runs `work` in a transaction, again from its beginning if the server asks for that
        (deadlock, lock wait, changed row): at most 8 times, with jitter, then Unavailable.
        `work` must have no effect but on the transaction. With `autocommit` each statement is a
        transaction of its own: for work whose statements are each sound alone."""
        scope = self.reading if autocommit else self.transaction
        for attempt in range(1, _ATTEMPTS):
            try:
                async with scope() as transaction:
                    return await work(transaction)
            except TransactionAborted:
                await asyncio.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))
        async with scope() as transaction:
            return await work(transaction)

    async def run_together(self, *statements: Statement) -> list[Reply]:
        """One transaction in one round trip, its statements being known beforehand; tried again
        like `run`. A TimeoutError leaves in doubt whether it was committed."""

        async def work(connection: Transaction) -> list[Reply]:
            return (await connection.together(("BEGIN",), *statements, ("COMMIT",)))[1:-1]

        return await self.run(work, autocommit=True)

    @contextlib.asynccontextmanager
    async def _connected(self, *, begin: bool) -> AsyncIterator[Transaction]:
        if self._slots.locked():
            try:
                async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                    await self._slots.acquire()
            except TimeoutError:
                raise Unavailable("All connections to the database are in use.") from None
        else:
            await self._slots.acquire()
        wire = None
        healthy = False
        try:
            wire = await self._take_or_open()
            transaction = Transaction(wire, self._query_timeout, begin=begin)
            yield transaction
            if begin:
                await transaction._commit()
            healthy = True
        except (TimeoutError, asyncio.CancelledError, GeneratorExit):
            # A reply may still be on its way on this connection: nobody may read it.
            raise
        except Exception:
            healthy = await self._roll_back(wire)
            raise
        finally:
            if wire is not None:
                if healthy and wire.usable:
                    self._idle.append((wire, asyncio.get_running_loop().time()))
                else:
                    wire.close()
            self._slots.release()

    async def _take_or_open(self) -> Wire:
        now = asyncio.get_running_loop().time()
        while self._idle:
            wire, since = self._idle.pop()
            # The age is far below the server's wait_timeout.
            if now - since < _IDLE_SECONDS and not wire.hung_up:
                return wire
            wire.close()
        try:
            async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                return Wire(await aiomysql.connect(**self._arguments))
        except (TimeoutError, OSError) as error:
            raise Unavailable("The database is unavailable.") from error
        except pymysql.err.MySQLError as error:
            number = _number(error)
            if number in _UNAVAILABLE:
                raise Unavailable("The database is unavailable.") from error
            log.error("database_access_denied", number=number)
            raise AccessDenied(number) from error

    async def _roll_back(self, wire: Wire | None) -> bool:
        if wire is None:
            return False
        if wire.usable:  # there is nothing to roll back
            return True
        try:
            async with asyncio.timeout(self._query_timeout):
                await wire.ask("ROLLBACK")
        except (TimeoutError, OSError, pymysql.err.MySQLError):
            return False
        return True


def _spread(sql: str, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Gives each member of a list or tuple its own %s: PyMySQL no longer does."""
    if not any(isinstance(value, list | tuple) for value in values):
        return sql, values
    places: list[str] = []
    singles: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple):
            places.append(f"({', '.join(['%s'] * len(value))})")
            singles += value
        else:
            places.append("%s")
            singles.append(value)
    return sql.replace("%%", "%%%%") % tuple(places), tuple(singles)


def _translated(error: pymysql.err.MySQLError) -> Exception:
    """Our error in place of PyMySQL's."""
    number = _number(error)
    if isinstance(error, pymysql.err.InterfaceError) or number in _UNAVAILABLE:
        return Unavailable("The database is unavailable.")
    if number == ER.LOCK_WAIT_TIMEOUT:
        return LockTimeout()
    if number in _ABORTED:
        return TransactionAborted()
    kind = DuplicateKey if number == ER.DUP_ENTRY else DatabaseError
    return kind(str(error), number)


def _number(error: pymysql.err.MySQLError) -> int:
    """MariaDB's error number; 0 for an error of the driver's own."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0
