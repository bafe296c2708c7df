"""ServiceError <-> gRPC status, with google.rpc.ErrorInfo carrying the code and the metadata.

In a call for several items, the error of one item crosses in a message of the call.
"""

from collections.abc import Mapping
from typing import Protocol, TypedDict

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from servicekit import logs
from servicekit.errors import (
    Conflict,
    Declined,
    Exhausted,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    ServiceError,
    TimedOut,
    Unavailable,
)

log = logs.get(__name__)

DOMAIN = "frontrow"

_STATUS_OF_KIND: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Gone: grpc.StatusCode.FAILED_PRECONDITION,
    Declined: grpc.StatusCode.ABORTED,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_STATUSES = {status.value[0]: status for status in grpc.StatusCode}
_CODE_OF_BARE_STATUS = {
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "TIMEOUT",
    # A call that its server cancelled while stopping.
    grpc.StatusCode.CANCELLED: "UNAVAILABLE",
}


class RemoteError(ServiceError):
    """The error that a called service raised; `code` is its code.

    UNAVAILABLE and TIMEOUT also stand for a service that did not answer at all, INTERNAL for one
    that failed without a public reason.
    """

    code: str  # type: ignore[misc]  # known only when the answer arrives

    def __init__(self, code: str, status: grpc.StatusCode, detail: str, /, **metadata: str) -> None:
        super().__init__(detail, **metadata)
        self.code = code
        self.status = status


class ItemError(Protocol):
    """The message in which the error of one item of a call crosses the call."""

    code: str
    status: int
    detail: str

    @property
    def metadata(self) -> Mapping[str, str]:
        """The error's metadata."""


class ItemErrorFields(TypedDict):
    """The fields of an ItemError."""

    code: str
    status: int
    detail: str
    metadata: dict[str, str]


def to_item_error(error: Exception) -> ItemErrorFields:
    """Returns the fields of the message that carries the error of one item to the caller. One that
    is no ServiceError is a time-out or a defect: it is TIMEOUT or INTERNAL, and a defect is logged.
    """
    if not isinstance(error, ServiceError):
        if isinstance(error, TimeoutError):
            code, status = "TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            log.error("item_failed", exc_info=error)
            code, status = "INTERNAL", grpc.StatusCode.INTERNAL
        error = RemoteError(code, status, "The service did not answer.")
    return {
        "code": error.code,
        "status": _status_of(error).value[0],
        "detail": error.detail,
        "metadata": error.metadata,
    }


def from_item_error(item: ItemError) -> RemoteError:
    """Returns the error that the other service raised for one item."""
    return RemoteError(item.code, _STATUSES[item.status], item.detail, **item.metadata)


def to_status(error: ServiceError) -> grpc.Status:
    """Returns the gRPC status that carries this error to the caller."""
    proto = status_pb2.Status(code=_status_of(error).value[0], message=error.detail)
    proto.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=error.metadata)
    )
    carried: grpc.Status = rpc_status.to_status(proto)
    return carried


def _status_of(error: ServiceError) -> grpc.StatusCode:
    if isinstance(error, RemoteError):
        return error.status
    return next(
        (code for kind, code in _STATUS_OF_KIND.items() if isinstance(error, kind)),
        grpc.StatusCode.INTERNAL,
    )


def from_rpc_error(
    error: grpc.aio.AioRpcError, method: str, expected: grpc.StatusCode | None = None
) -> RemoteError:
    """Returns the error that the other service raised. Only a ServiceError keeps its detail.

    A status that no service raised, such as RESOURCE_EXHAUSTED for a message above gRPC's limit,
    is INTERNAL and logged here, because perhaps no service knows of it; not if it is `expected`.
    """
    status: grpc.StatusCode = error.code()
    carried = rpc_status.from_call(error)
    for detail in carried.details if carried is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return RemoteError(info.reason, status, error.details() or "", **info.metadata)
    code = _CODE_OF_BARE_STATUS.get(status, "INTERNAL")
    if code == "INTERNAL" and status is not expected:
        # Without the status' own text, which may be that of any exception.
        log.error("unexpected_status", method=method, status=status.name)
    return RemoteError(code, status, "The service did not answer.")
