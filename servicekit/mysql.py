"""MariaDB: a pool of connections and the transaction around a use case.

Our own pool, because aiomysql's wakes no waiter when a connection comes back cancelled or inside
a transaction, so that an exhausted pool starves.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import aiomysql
import pymysql
import tenacity
from pymysql.constants import ER

from servicekit import call_context
from servicekit.errors import Unavailable

Result = TypeVar("Result")
Row = tuple[Any, ...]

# The server ended the transaction so that another could go on; again, it succeeds.
# 1020 is MariaDB's "record has changed since last read" under snapshot isolation.
_RETRY_TRANSACTION = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.CHECKREAD}
_IDLE_SECONDS = 300.0


def is_duplicate(error: Exception) -> bool:
    """Whether a statement failed on a unique key."""
    return isinstance(error, pymysql.err.IntegrityError) and error.args[0] == ER.DUP_ENTRY


class Transaction:
    """Statements inside one transaction. Values are always passed apart from the SQL."""

    def __init__(self, connection: Any, query_timeout: float) -> None:
        self._connection = connection
        self._query_timeout = query_timeout

    async def execute(self, sql: str, *values: Any) -> int:
        """Runs one statement; returns the number of rows it matched."""
        cursor = await self._run(sql, values)
        return int(cursor.rowcount)

    async def insert(self, sql: str, *values: Any) -> int:
        """Runs one INSERT; returns the generated id."""
        cursor = await self._run(sql, values)
        return int(cursor.lastrowid)

    async def fetch_all(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query, as tuples."""
        cursor = await self._run(sql, values)
        rows: Sequence[Row] = await cursor.fetchall()
        return list(rows)

    async def fetch_one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a query, or None."""
        cursor = await self._run(sql, values)
        row: Row | None = await cursor.fetchone()
        return row

    async def _run(self, sql: str, values: tuple[Any, ...]) -> Any:
        async with asyncio.timeout(call_context.remaining(self._query_timeout)):
            cursor = await self._connection.cursor()
            await cursor.execute(sql, values or None)
            return cursor


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
            "init_command": "SET time_zone = '+00:00', tx_isolation = 'READ-COMMITTED'",
        }
        self._slots = asyncio.Semaphore(max_size)
        self._idle: list[tuple[Any, float]] = []
        self._acquire_timeout = acquire_timeout
        self._query_timeout = query_timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            connection, _ = self._idle.pop()
            connection.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction: committed if the block ends, rolled back if it raises."""
        async with self._connection() as connection:
            async with asyncio.timeout(self._query_timeout):
                await connection.begin()
            yield Transaction(connection, self._query_timeout)
            # Not cut short by the caller's deadline: a commit in doubt helps nobody.
            async with asyncio.timeout(self._query_timeout):
                await connection.commit()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """Statements without a transaction: each sees what is committed when it runs."""
        async with self._connection() as connection:
            yield Transaction(connection, self._query_timeout)

    async def run(self, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
        """Runs `work` in a transaction, again from its beginning if the server asks for that
        (deadlock, lock wait, changed row): at most 8 times, with jitter. `work` must have no
        effect but on the transaction."""
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_run_again),
            stop=tenacity.stop_after_attempt(8),
            wait=tenacity.wait_random_exponential(multiplier=0.005, max=0.2),
            reraise=True,
        ):
            with attempt:
                async with self.transaction() as transaction:
                    return await work(transaction)
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable("The database has no connection to spare.") from None
        connection = None
        healthy = False
        try:
            connection = await self._take_or_open()
            yield connection
            healthy = True
        except pymysql.err.IntegrityError:
            # The statement failed, the connection is sound.
            healthy = await self._roll_back(connection)
            raise
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError) as error:
            if _may_run_again(error):
                healthy = await self._roll_back(connection)
                raise
            raise Unavailable("The database is away.") from error
        except (TimeoutError, asyncio.CancelledError, GeneratorExit):
            # A reply may still be on its way on this connection: nobody may read it.
            raise
        except Exception:
            healthy = await self._roll_back(connection)
            raise
        finally:
            if connection is not None:
                if healthy and not connection.closed and not connection.get_transaction_status():
                    self._idle.append((connection, asyncio.get_running_loop().time()))
                else:
                    connection.close()
            self._slots.release()

    async def _take_or_open(self) -> Any:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.pop()
            # Far below the server's wait_timeout; an end of file means that the server hung up.
            if now - since < _IDLE_SECONDS and not connection._reader.at_eof():
                return connection
            connection.close()
        try:
            async with asyncio.timeout(call_context.remaining(self._acquire_timeout)):
                return await aiomysql.connect(**self._arguments)
        except (TimeoutError, OSError) as error:
            raise Unavailable("The database is away.") from error

    async def _roll_back(self, connection: Any) -> bool:
        if connection is None:
            return False
        try:
            async with asyncio.timeout(self._query_timeout):
                await connection.rollback()
        except (TimeoutError, OSError, pymysql.err.MySQLError):
            return False
        return True


def _may_run_again(error: BaseException) -> bool:
    return (
        isinstance(error, pymysql.err.MySQLError)
        and error.args[:1] != ()
        and (error.args[0] in _RETRY_TRANSACTION)
    )
