"""What belongs to the call that is being served: its deadline and its request id.

grpc.aio hands neither on to the calls that a handler makes, so we do (see `client`).
"""

import asyncio
import uuid
from contextvars import ContextVar

REQUEST_ID_HEADER = "x-request-id"

request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def new_request_id() -> str:
    """A fresh request id: 32 hex digits."""
    return uuid.uuid4().hex


def set_deadline(seconds_from_now: float) -> None:
    """Gives the current call an end. A deadline never outlives the call's task."""
    _deadline.set(asyncio.get_running_loop().time() + seconds_from_now)


def remaining(budget: float) -> float:
    """Seconds this step may take: its own budget, or less if the caller waits less long.

    Never below 0; a step that gets 0 fails at once, as it should.
    """
    deadline = _deadline.get()
    if deadline is None:
        return budget
    return max(0.0, min(budget, deadline - asyncio.get_running_loop().time()))
