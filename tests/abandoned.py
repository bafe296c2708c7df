"""Callers that disconnect while MariaDB runs the statements that they sent together."""

import asyncio
import contextlib
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from servicekit.mysql import Connection, Database, Statement
from servicekit.mysql_protocol import Result

_LOCK = "held up"


class _HeldUp(Connection):
    async def execute_together(self, *statements: Statement) -> list[Result]:
        held_up = ("DO GET_LOCK(%s, 10)", _LOCK)
        return (await super().execute_together(held_up, *statements))[1:]


class HeldUpDatabase(Database):
    """Makes what is sent in one round trip wait in the server until `abandon` lets it continue."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        return self._acquire(_HeldUp)


async def abandon(call: Coroutine[Any, Any, object], database: Database) -> None:
    """Cancels `call`, which uses a HeldUpDatabase, once the server has received its statements.
    Returns when the server has run them. `database` is another pool of the same user."""
    async with database.connection() as connection:
        assert await connection.fetch_one("SELECT GET_LOCK(%s, 10)", _LOCK) == (1,)
        task = asyncio.create_task(call)
        await _until(connection, "state = 'User lock'")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await connection.fetch_one("SELECT RELEASE_LOCK(%s)", _LOCK) == (1,)
        await _until(connection, "command <> 'Sleep'", there=False)


async def _until(connection: Connection, condition: str, *, there: bool = True) -> None:
    """Waits until another connection of this user is in this condition, or no longer is."""
    async with asyncio.timeout(10):
        while True:
            found = await connection.fetch_all(
                "SELECT 1 FROM information_schema.processlist"
                " WHERE id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
                f" AND {condition}"
            )
            if bool(found) == there:
                return
            await asyncio.sleep(0.002)
