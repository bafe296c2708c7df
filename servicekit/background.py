"""Work beside the server: repeated at an interval, and restarted if it ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from servicekit import cancellation, logs
from servicekit.errors import is_transient
from servicekit.retries import Outage

log = logs.get(__name__)

RESTART_SECONDS = 1.0


async def repeat(
    work: Callable[[], Awaitable[object]], *, seconds: float, outage: Outage, jitter: float = 0.0
) -> None:
    """Runs `work` at once and then `seconds` after each end, until cancelled.

    `jitter` changes each pause by up to that fraction, so that replicas drift apart. A transient
    error (see `is_transient`) is logged by `outage` and the next run follows; any other
    exception ends the loop.
    """
    while True:
        try:
            await work()
        except Exception as error:
            if not is_transient(error):
                raise
            outage.failed(error)
        else:
            outage.succeeded()
        await asyncio.sleep(seconds * random.uniform(1 - jitter, 1 + jitter))


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` until cancelled; if it returns or raises, logs that and starts it again after
    a second."""
    while True:
        try:
            await work()
            log.error("background_work_ended", work=name)
        except (Exception, asyncio.CancelledError) as error:
            if cancellation.is_ours(error):
                raise
            log.exception("background_work_failed", work=name)
        await asyncio.sleep(RESTART_SECONDS)
