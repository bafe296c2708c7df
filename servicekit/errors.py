"""Errors that are part of an API, without any transport.

    ServiceError            what a caller may be told: `code`, `detail`, `metadata`
    ├── InvalidRequest      the request can never succeed
    ├── NotFound            what it names does not exist
    ├── Conflict            somebody else has it, or was first
    ├── Forbidden           not this caller's
    ├── Gone                it was there and has ended
    ├── Declined            a third party said no
    ├── Exhausted           full; later there may be room
    ├── Unavailable         cannot answer now; ask again later
    └── TimedOut            no answer in time; the outcome is unknown

A service raises a subclass whose name says all, where the rule lives:

    class SeatHeld(Conflict):
        code = "SEAT_HELD"

It crosses every hop intact (see `rpc_errors`). Any other exception is a defect: it is logged
where it happened and masked as INTERNAL.
"""

from typing import ClassVar


class ServiceError(Exception):
    """An error a caller may be told.

    `code` is stable and UPPER_SNAKE; `detail` is one sentence for a person and holds nothing
    private; `metadata` are facts about the error for a program.
    """

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, detail: str, /, **metadata: str | int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidRequest(ServiceError):
    code = "INVALID_REQUEST"


class NotFound(ServiceError):
    code = "NOT_FOUND"


class Conflict(ServiceError):
    code = "CONFLICT"


class Forbidden(ServiceError):
    code = "FORBIDDEN"


class Gone(ServiceError):
    code = "GONE"


class Declined(ServiceError):
    code = "DECLINED"


class Exhausted(ServiceError):
    code = "EXHAUSTED"


class Unavailable(ServiceError):
    code = "UNAVAILABLE"


class TimedOut(ServiceError):
    code = "TIMEOUT"


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later, because something it needs was unavailable or too
    slow."""
    if isinstance(error, ServiceError) and error.code in (Unavailable.code, TimedOut.code):
        return True  # also as a RemoteError
    return isinstance(error, Unavailable | TimedOut | TimeoutError | OSError)
