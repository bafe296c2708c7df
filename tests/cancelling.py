"""Ends tasks of a test."""

import asyncio
from typing import Any


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks and waits until they have ended. Their errors are ignored.

    Cancels them again and again, as servicekit's server does: before Python 3.12,
    asyncio.wait_for (used by redis-py) may swallow a cancellation.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)
