"""Retrying while something is unavailable, and logging that once rather than at each attempt."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from servicekit.errors import is_transient

Result = TypeVar("Result")

# Seconds between attempts in the background: random, from 0.1 up to a limit that doubles from 0.2
# to 5.
BACK_OFF = wait_random_exponential(multiplier=0.2, max=5.0, min=0.1)


def call_pause(attempt: int) -> float:
    """Returns the seconds between an attempt within a call (1 = the first) and the next: random,
    from 0 up to a limit that doubles from 0.05 to 0.5. A loop of its own and not tenacity, which
    costs a call that succeeds at once more than the call's other code."""
    return random.uniform(0, min(0.5, 0.05 * 2 ** min(attempt - 1, 10)))


class Outage:
    """Logs the first failure of a series as a warning, and the success that ends the series.

    `unavailable` and `available` are the names of the two log events; `fields` go with both.
    """

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        unavailable: str,
        available: str,
        **fields: str | int,
    ) -> None:
        self._log = log
        self._unavailable = unavailable
        self._available = available
        self._fields = fields
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """Counts a failure."""
        self._failures += 1
        if self._failures == 1:
            cause = error.__cause__
            # asyncio.timeout makes its TimeoutError of a cancellation, which means nothing here.
            if cause is None or isinstance(cause, asyncio.CancelledError):
                cause = error
            # Only the class: the message of a driver may hold an address or a value.
            self._log.warning(self._unavailable, error=type(cause).__name__, **self._fields)

    def succeeded(self) -> None:
        """Ends the series of failures, if there is one."""
        if self._failures:
            self._log.info(self._available, failures=self._failures, **self._fields)
        self._failures = 0


async def retry_while_unavailable(
    work: Callable[[], Awaitable[Result]],
    outage: Outage,
    *,
    defect_attempts: int = 1,
    final: type[Exception] | tuple[()] = (),
) -> Result:
    """Returns the result of `work`, retried with pauses of up to 5 seconds while it raises
    transient errors (see `is_transient`).

    Re-raises any other exception when it occurs for the `defect_attempts`-th time, and one of the
    type `final` at once.
    """
    defects = 0

    def worth_retrying(error: BaseException) -> bool:
        nonlocal defects
        if isinstance(error, final):
            return False
        if is_transient(error):
            return True
        defects += 1
        return isinstance(error, Exception) and defects < defect_attempts

    def log_failure(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()):
            outage.failed(error)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception(worth_retrying), wait=BACK_OFF, before_sleep=log_failure
    ):
        with attempt:
            result = await work()
    outage.succeeded()
    return result
