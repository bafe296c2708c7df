"""MariaDB: a pool of connections, transactions around use cases, and errors of our own.

    DatabaseError           the server refused a statement: a defect, unless it was expected
    ├── DuplicateKey        a second row with a unique key
    └── MissingValue        NULL for a column that must have a value
    Unavailable             the server cannot be reached or cannot write; retry later
    ├── AccessDenied        the server refuses the user, the password, the schema or a grant
    ├── StatementRefused    this server is no primary: it certainly ran nothing
    └── TransactionAborted  the server preferred another transaction; retry at once
        └── LockTimeout     a row stayed locked by another transaction
    TimeoutError            the statement took too long; whether it was run is unknown

`mysql_errors` says which of MariaDB's error numbers become which of them.

The pool is our own because aiomysql's wakes no waiter when a connection returns cancelled or
inside a transaction, so that an exhausted pool never recovers (docs/adr/0001-own-mysql-pool.md).
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.constants import ER

from servicekit import call_context, logs
from servicekit.errors import Unavailable
from servicekit.mysql_errors import Treatment, treatment
from servicekit.mysql_protocol import MysqlConnection
from servicekit.mysql_protocol import Result as Result  # callers name these two
from servicekit.mysql_protocol import Row as Row

log = logs.get(__name__)

# The default of MariaDB 10.11, whatever the server's: statements count on its errors. Without a
# strict mode, the rows of a longer INSERT store 0 in place of a NULL that must stop it.
SQL_MODE = (
    "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION"
)

# SQL and its values, one for each %s.
Statement = tuple[Any, ...]

# PyMySQL counts these as operational errors, but the statement or its values are wrong.
_DEFECT_NUMBERS = {
    ER.BAD_FIELD_ERROR,
    4025,  # MariaDB's "CONSTRAINT failed"
}
_ATTEMPTS = 8
_LOG_DENIED_SECONDS = 60.0
# Far below the server's wait_timeout.
_IDLE_SECONDS = 300.0


class DatabaseError(Exception):
    """MariaDB refused a statement. `number` is MariaDB's error number.

    `transient`: the reason may be the server and not the statement (an operational error that
    `mysql_errors` does not list), so the same statement may succeed later.
    """

    def __init__(self, message: str, number: int, *, transient: bool = False) -> None:
        super().__init__(message)
        self.number = number
        self.transient = transient


class DuplicateKey(DatabaseError):
    """A unique key has this value already."""


class MissingValue(DatabaseError):
    """A column that must have a value would be NULL. A statement can raise it on purpose, to write
    nothing unless a condition holds."""


class AccessDenied(Unavailable):
    """MariaDB refuses the user, the password, the schema or a grant. `number` is its error
    number."""

    def __init__(self, number: int) -> None:
        super().__init__("The database is unavailable.")
        self.number = number


class StatementRefused(Unavailable):
    """The server did not run the statement, because it is no primary at the moment. Another server
    behind the same name may be."""

    def __init__(self) -> None:
        super().__init__("The database is unavailable.")


class TransactionAborted(Unavailable):
    """The server ended the transaction or the statement in favour of another; a retry may
    succeed."""

    def __init__(self) -> None:
        super().__init__("The database is too busy.")


class LockTimeout(TransactionAborted):
    """A statement gave up waiting for a row that another transaction has locked."""


class Connection:
    """A connection on which every statement commits by itself.

    Values are passed apart from the SQL, one for each %s; a list or tuple, which must not be
    empty, as in `id IN %s`. Each method is one round trip and raises what the module's docstring
    lists. A statement has the database's `query_timeout`, or what is left of the call's deadline.
    """

    def __init__(self, connection: MysqlConnection, query_timeout: float) -> None:
        self._connection = connection
        self._query_timeout = query_timeout

    async def execute(self, sql: str, *values: Any) -> int:
        """Runs one statement; returns the number of rows it matched."""
        return (await self.execute_together((sql, *values)))[0].matched

    async def insert(self, sql: str, *values: Any) -> int:
        """Runs one INSERT; returns the generated id."""
        return (await self.execute_together((sql, *values)))[0].insert_id

    async def fetch_all(self, sql: str, *values: Any) -> Sequence[Row]:
        """Returns all rows of a query."""
        return (await self.execute_together((sql, *values)))[0].rows

    async def fetch_one(self, sql: str, *values: Any) -> Row | None:
        """Returns the first row of a query, or None."""
        rows = (await self.execute_together((sql, *values)))[0].rows
        return rows[0] if rows else None

    async def execute_together(self, *statements: Statement) -> list[Result]:
        """Runs several statements in one round trip. If one fails, those after it are not run."""
        sql = ";".join([self._connection.format(sql, values) for sql, *values in statements])
        return await self._query(sql, call_context.remaining(self._query_timeout))

    async def run_program(self, sql: str, *values: Any, lock_wait_seconds: int) -> list[Result]:
        """Runs a compound statement, BEGIN NOT ATOMIC … END, which has a ? for each value (no list
        among them); returns the results of its queries. If one of its statements fails, also
        because it has waited so long for a lock, those after it are not run.

        The server parses it once for each connection, in a round trip of its own, and keeps it: for
        a few programs whose text is always the same.
        """
        names = self._connection.programs
        name = names.get(sql)
        if name is None:
            name = f"program_{len(names)}"
            await self.execute(f"PREPARE {name} FROM %s", sql)
            names[sql] = name
        marks = ",".join(["%s"] * len(values))
        execute = (
            f"SET STATEMENT innodb_lock_wait_timeout = {lock_wait_seconds:d} FOR"
            f" EXECUTE {name} USING {marks}"
        )
        return (await self.execute_together((execute, *values)))[:-1]

    async def _query(self, sql: str, timeout: float) -> list[Result]:
        async with asyncio.timeout(timeout):
            try:
                return await self._connection.query(sql)
            except pymysql.err.MySQLError as error:
                raise _translated(error) from error

    async def _finish(self) -> None:
        """Called when the block that uses this connection has succeeded."""


class Transaction(Connection):
    """A connection inside a transaction: committed when its block ends, rolled back when the
    block raises."""

    _begun = False

    async def _query(self, sql: str, timeout: float) -> list[Result]:
        if self._begun:
            return await super()._query(sql, timeout)
        self._begun = True
        # BEGIN travels with the first statement.
        return (await super()._query(f"BEGIN;{sql}", timeout))[1:]

    async def _finish(self) -> None:
        if self._begun:
            # May outlast the deadline of the call: only a cancelled call leaves a commit in doubt.
            await super()._query("COMMIT", self._query_timeout)


AnyConnection = TypeVar("AnyConnection", bound=Connection)
Value = TypeVar("Value")


class Database:
    """A pool of connections to one schema.

    `url` is mysql://user:password@host:port/schema. Raises Unavailable if no connection is free,
    or the server cannot be reached, within `acquire_timeout` seconds. A statement that takes more
    than `query_timeout` seconds raises TimeoutError and its connection is dropped. Each connection
    sets the variables of `session` first, such as {"@name": 1}.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 16,
        acquire_timeout: float = 2.0,
        query_timeout: float = 5.0,
        session: Mapping[str, int] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._arguments = {
            "host": parts.hostname or "127.0.0.1",
            "port": parts.port or 3306,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "db": parts.path.lstrip("/"),
            "charset": "utf8mb4",
            # Counts the rows that matched, so that an UPDATE to the same values counts too.
            "client_flag": pymysql.constants.CLIENT.FOUND_ROWS,
            # Outside a transaction each statement stands alone: no stale snapshot is kept.
            "autocommit": True,
            # Times in UTC whatever the server's zone; reads see what others have committed.
            "init_command": (
                "SET time_zone = '+00:00', tx_isolation = 'READ-COMMITTED',"
                f" sql_mode = '{SQL_MODE}',"
                # A statement that timed out here must not wait on in the server.
                f" innodb_lock_wait_timeout = {max(1, int(query_timeout))}"
                + "".join(f", {name} = {value:d}" for name, value in (session or {}).items())
            ),
        }
        self._slots = asyncio.Semaphore(max_size)
        self._idle: list[tuple[MysqlConnection, float]] = []
        # Grows when the open connections lead to a server that is no primary any more.
        self._generation = 0
        self._denied_logged = -_LOG_DENIED_SECONDS
        self._acquire_timeout = acquire_timeout
        self._query_timeout = query_timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            connection, _since = self._idle.pop()
            try:
                async with asyncio.timeout(1.0):
                    await connection.quit()
            except (TimeoutError, OSError, pymysql.err.MySQLError):
                connection.close()

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begins a transaction: committed when the block ends, rolled back when it raises."""
        return self._acquire(Transaction)

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Lends a connection on which every statement commits by itself."""
        return self._acquire(Connection)

    async def run(
        self, work: Callable[[Connection], Awaitable[Value]], *, autocommit: bool = False
    ) -> Value:
        """Runs `work` in a transaction and returns its result.

        Runs it again if the server aborts the transaction, at most 8 times in all, with jitter, and
        then raises TransactionAborted. Runs it once more, on another connection, after
        StatementRefused.

        `work` must have no other effect than its statements. With `autocommit` every statement
        commits by itself: for work that is correct after each of its statements.
        """
        acquire = self.connection if autocommit else self.transaction
        refused = False
        for attempt in range(1, _ATTEMPTS):
            try:
                async with acquire() as connection:
                    return await work(connection)
            except TransactionAborted:
                await asyncio.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))
            except StatementRefused:
                if refused:
                    raise
                refused = True
        async with acquire() as connection:
            return await work(connection)

    async def execute_transaction(self, *statements: Statement) -> list[Result]:
        """Runs the statements as one transaction in one round trip, with the retries of `run`.
        After a TimeoutError it is unknown whether the transaction was committed."""

        async def work(connection: Connection) -> list[Result]:
            return (await connection.execute_together(("BEGIN",), *statements, ("COMMIT",)))[1:-1]

        return await self.run(work, autocommit=True)

    @contextlib.asynccontextmanager
    async def _acquire(self, kind: type[AnyConnection]) -> AsyncIterator[AnyConnection]:
        if self._slots.locked():
            try:
                async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                    await self._slots.acquire()
            except TimeoutError:
                raise Unavailable("All connections to the database are in use.") from None
        else:
            await self._slots.acquire()
        connection = None
        reusable = False
        generation = self._generation
        try:
            connection = await self._take_or_open()
            lent = kind(connection, self._query_timeout)
            yield lent
            await lent._finish()
            reusable = connection.reusable
        except (TimeoutError, asyncio.CancelledError, GeneratorExit):
            # Results may still arrive on this connection: nobody may read them.
            raise
        except Exception as error:
            if isinstance(error, StatementRefused) and generation == self._generation:
                self._drop_connections()
            if isinstance(error, AccessDenied):
                self._log_denied(error.number)
            reusable = connection is not None and await self._roll_back(connection)
            raise
        finally:
            if connection is not None:
                if reusable and generation == self._generation:
                    self._idle.append((connection, asyncio.get_running_loop().time()))
                else:
                    connection.close()
            self._slots.release()

    async def _take_or_open(self) -> MysqlConnection:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.pop()
            if now - since < _IDLE_SECONDS and not connection.closed_by_server:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                return await MysqlConnection.connect(**self._arguments)
        except (TimeoutError, OSError) as error:
            raise Unavailable("The database is unavailable.") from error
        except pymysql.err.MySQLError as error:
            number = _number(error)
            if treatment(number) is Treatment.DENIED:
                raise AccessDenied(number) from error
            raise Unavailable("The database is unavailable.") from error

    def _drop_connections(self) -> None:
        """The next callers connect anew: the name of the server may lead to another one."""
        self._generation += 1
        while self._idle:
            self._idle.pop()[0].close()

    def _log_denied(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._denied_logged >= _LOG_DENIED_SECONDS:  # not for each request
            self._denied_logged = now
            log.error("database_access_denied", number=number)

    async def _roll_back(self, connection: MysqlConnection) -> bool:
        """Ends the transaction, if one is open; returns whether the connection is reusable."""
        if not connection.reusable:
            try:
                async with asyncio.timeout(self._query_timeout):
                    await connection.query("ROLLBACK")
            except (TimeoutError, OSError, pymysql.err.MySQLError):
                return False
        return connection.reusable


def _translated(error: pymysql.err.MySQLError) -> Exception:
    """Our error in place of PyMySQL's."""
    number = _number(error)
    match treatment(number):
        case Treatment.RETRY:
            return LockTimeout() if number == ER.LOCK_WAIT_TIMEOUT else TransactionAborted()
        case Treatment.MOVE:
            return StatementRefused()
        case Treatment.DENIED:
            return AccessDenied(number)
        case Treatment.WAIT:
            return Unavailable("The database is unavailable.")
    if isinstance(error, pymysql.err.InterfaceError):  # the connection is closed
        return Unavailable("The database is unavailable.")
    kinds = {ER.DUP_ENTRY: DuplicateKey, ER.BAD_NULL_ERROR: MissingValue}
    kind = kinds.get(number, DatabaseError)
    operational = isinstance(error, pymysql.err.OperationalError)
    transient = operational and number not in _DEFECT_NUMBERS
    return kind(str(error), number, transient=transient)


def _number(error: pymysql.err.MySQLError) -> int:
    """MariaDB's error number; 0 for an error of the driver's own."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0
