"""Telling our own cancellation from one that escaped a library."""

import asyncio


def is_ours(error: BaseException) -> bool:
    """Whether this error is the cancellation of the current task, as opposed to that of a future
    which the task waited for.

    aiokafka cancels futures of its own when it loses its broker; their CancelledError passes every
    `except Exception` and would end the task that it meets, silently and for ever.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
