"""Errors that are part of an API, independent of the transport.

    ServiceError            an error with a public `code`, `detail` and `metadata`
    ├── InvalidRequest      the request can never succeed
    ├── NotFound            the named object does not exist
    ├── Conflict            another caller has the object, or was first
    ├── Forbidden           the object belongs to another caller
    ├── Gone                the object existed and has ended
    ├── Declined            a third party refused
    ├── Exhausted           full; there may be room later
    ├── Unavailable         cannot answer now; retry later
    └── TimedOut            no answer in time; the outcome is unknown

A service raises a precise subclass where the rule lives:

    class SeatHeld(Conflict):
        code = "SEAT_HELD"

It crosses every call unchanged (see `rpc_errors`). Any other exception is a defect: it is logged
where it happened, and callers see INTERNAL.
"""

from typing import ClassVar


class ServiceError(Exception):
    """An error that callers see.

    `code` is stable and UPPER_SNAKE; `detail` is one sentence for a person, with nothing private;
    `metadata` holds facts about the error for a program.
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
    """Returns whether the same call may succeed later, because something it needs was unavailable
    or too slow. Other errors can say so of themselves by an attribute `transient`."""
    if isinstance(error, ServiceError) and error.code in (Unavailable.code, TimedOut.code):
        return True  # also as a RemoteError
    if isinstance(error, Unavailable | TimedOut | TimeoutError | OSError):
        return True
    return bool(getattr(error, "transient", False))
