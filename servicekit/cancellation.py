"""Distinguishes the cancellation of the current task from one that escaped a library."""

import asyncio


def is_ours(error: BaseException) -> bool:
    """Returns whether this error is the cancellation of the current task, and not of a future that
    the task awaited.

    aiokafka cancels its own futures when it loses its broker. Their CancelledError passes every
    `except Exception` and would silently end the task that awaits them.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def raise_if_requested() -> None:
    """Raises CancelledError if the current task was asked to end and that was lost: a TaskGroup of
    Python 3.11 and 3.12 raises only the errors of its tasks if they fail at the same moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError
