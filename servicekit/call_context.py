"""The deadline and the request id of the call that is being served.

grpc.aio passes neither on to the calls that a handler makes; `client` does.
"""

import asyncio
import uuid
from contextvars import ContextVar

REQUEST_ID_HEADER = "x-request-id"
# Longer ones are replaced.
MAX_REQUEST_ID_LENGTH = 64

request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def new_request_id() -> str:
    """Returns a new request id: 32 hex digits."""
    return uuid.uuid4().hex


def set_deadline(seconds_from_now: float) -> None:
    """Sets the deadline of the current call. It ends with the task of the call."""
    _deadline.set(asyncio.get_running_loop().time() + seconds_from_now)


def remaining(budget: float) -> float:
    """Returns how many seconds this step may take: its own budget, or the rest of the deadline of
    the call if that is less. Never below 0; a step with 0 seconds fails at once."""
    deadline = _deadline.get()
    if deadline is None:
        return budget
    return max(0.0, min(budget, deadline - asyncio.get_running_loop().time()))
