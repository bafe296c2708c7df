"""Errors, and the gRPC status that carries them."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from servicekit import errors
from servicekit.errors import Conflict, ServiceError, is_transient
from servicekit.rpc_errors import RemoteError, from_rpc_error, to_status

KINDS = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Gone: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Declined: grpc.StatusCode.ABORTED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ServiceError: grpc.StatusCode.INTERNAL,
}


class SeatHeld(Conflict):
    code = "SEAT_HELD"


def received(error: ServiceError) -> RemoteError:
    """The error as the other side has it."""
    status = to_status(error)
    return from_rpc_error(
        AioRpcError(status.code, Metadata(), Metadata(*status.trailing_metadata), status.details),
        "/service/method",
    )


def bare(status: grpc.StatusCode) -> RemoteError:
    """What becomes of a status that no code of ours gave."""
    return from_rpc_error(
        AioRpcError(status, Metadata(), Metadata(), "db-7: connection refused"), "/service/method"
    )


def test_every_kind_has_a_status() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert {kind for kind in kinds if issubclass(kind, ServiceError)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_arrives_intact(kind: type[ServiceError]) -> None:
    error = received(kind("Somebody else was first.", seat_id=7))
    assert (error.code, error.detail) == (kind.code, "Somebody else was first.")
    assert error.metadata == {"seat_id": "7"}
    assert error.status == KINDS[kind]


def test_a_named_error_has_the_status_of_its_kind() -> None:
    error = received(SeatHeld("Held."))
    assert (error.code, error.status) == ("SEAT_HELD", grpc.StatusCode.ALREADY_EXISTS)


def test_an_error_handed_on_stays_what_it_is() -> None:
    error = received(received(SeatHeld("Held.", seat_id=7)))
    assert (error.code, error.detail, error.metadata, error.status) == (
        "SEAT_HELD",
        "Held.",
        {"seat_id": "7"},
        grpc.StatusCode.ALREADY_EXISTS,
    )


@pytest.mark.parametrize("detail", ["", "Ünïcode 좌석", "a\nb", "100 %", "x" * 2_000])
def test_a_detail_may_be_any_text(detail: str) -> None:
    assert received(SeatHeld(detail)).detail == detail


def test_metadata_may_have_any_name() -> None:
    metadata = {"code": "a", "status": "b", "detail": "c", "self": "d", "": "e"}
    assert received(SeatHeld("Held.", **metadata)).metadata == metadata


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s != grpc.StatusCode.OK])
def test_a_bare_status_tells_nothing_of_its_text(status: grpc.StatusCode) -> None:
    error = bare(status)
    expected = {
        grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
        grpc.StatusCode.CANCELLED: "UNAVAILABLE",
        grpc.StatusCode.DEADLINE_EXCEEDED: "TIMEOUT",
    }
    assert error.code == expected.get(status, "INTERNAL")
    assert "db-7" not in error.detail
    assert error.metadata == {}


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (errors.Unavailable("down"), True),
        (errors.TimedOut("slow"), True),
        (RemoteError("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, ""), True),
        (RemoteError("TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED, ""), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (RemoteError("SEAT_HELD", grpc.StatusCode.ALREADY_EXISTS, ""), False),
        (RemoteError("INTERNAL", grpc.StatusCode.INTERNAL, ""), False),
        (errors.NotFound("no"), False),
        (ValueError("bad"), False),
    ],
)
def test_what_may_succeed_later_is_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
