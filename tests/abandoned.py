"""Callers that go away while MariaDB is at work on what they sent together."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from servicekit.mysql import Database, Statement
from servicekit.mysql_wire import Reply


class SlowDatabase(Database):
    """MariaDB takes a while over what is sent together, before it comes to it."""

    async def run_together(self, *statements: Statement) -> list[Reply]:
        return (await super().run_together(("DO SLEEP(0.05)",), *statements))[1:]


async def abandon(call: Coroutine[Any, Any, object], database: Database) -> None:
    """Lets `call` send its statements, cancels it while the server is at the first of them, and
    returns when the server has dealt with the rest. `call` goes by a SlowDatabase; `database` is
    another pool of the same user."""
    task = asyncio.create_task(call)
    await _until(database, running=True)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await _until(database, running=False)


async def _until(database: Database, *, running: bool) -> None:
    """Until the server has, or has not, something of this user's at work."""
    async with asyncio.timeout(10), database.reading() as connection:
        while True:
            at_work = await connection.fetch_all(
                "SELECT 1 FROM information_schema.processlist"
                " WHERE id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
                " AND command <> 'Sleep'"
            )
            if running == bool(at_work):
                return
            await asyncio.sleep(0.002)
