"""The client of reservation_service: how it treats each answer of BeginPayment, and none."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from payment_service.domain import Admission, Payment, Status
from payment_service.reservations import GrpcReservations
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit.errors import ServiceError
from servicekit.rpc_errors import RemoteError

PAYMENT = Payment(
    id=7,
    reservation_id=9,
    user_id=42,
    status=Status.INITIATED,
    amount=None,
    failure_code="",
    decline_returned=False,
    admission=None,
    failed_payment_id=6,
    attempts=0,
    created_at=datetime.now(UTC),
)


def reservations(*answers: str) -> GrpcReservations:
    """A client whose server gives these answers, an error code or a price, and repeats the last."""
    left = list(answers)

    async def begin_payment(
        request: reservation_pb2.BeginPaymentRequest, **_: Any
    ) -> reservation_pb2.BeginPaymentResponse:
        assert (request.payment_id, request.failed_payment_id) == (7, 6)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer.isupper():
            raise RemoteError(answer, grpc.StatusCode.UNKNOWN, "")
        return reservation_pb2.BeginPaymentResponse(price=answer)

    return client_of(begin_payment)


def client_of(begin_payment: Any) -> GrpcReservations:
    stub = SimpleNamespace(BeginPayment=begin_payment)
    return GrpcReservations(
        cast("reservation_pb2_grpc.ReservationServiceAsyncStub", stub), budget=0.8
    )


async def test_another_payment_in_progress_is_final_if_the_answer_names_it() -> None:
    calls = 0

    async def begin_payment(
        request: reservation_pb2.BeginPaymentRequest, **_: Any
    ) -> reservation_pb2.BeginPaymentResponse:
        nonlocal calls
        calls += 1
        assert (request.admission.room, request.admission.place_number) == ("main", 17)
        raise RemoteError("PAYMENT_IN_PROGRESS", grpc.StatusCode.ALREADY_EXISTS, "", payment_id="5")

    payment = replace(PAYMENT, admission=Admission("main", 17))
    with pytest.raises(RemoteError) as raised:
        await client_of(begin_payment).begin_payment(payment)
    assert (raised.value.metadata, calls) == ({"payment_id": "5"}, 1)


async def test_temporary_errors_are_retried() -> None:
    asked = reservations("UNAVAILABLE", "TIMEOUT", "PAYMENT_IN_PROGRESS", "150000.00")
    assert await asked.begin_payment(PAYMENT) == Decimal("150000.00")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (["PAYMENT_IN_PROGRESS"], "PAYMENT_IN_PROGRESS"),
        (["RESERVATION_EXPIRED"], "RESERVATION_EXPIRED"),
        (["TIMEOUT"], "TIMEOUT"),
        # The attempt without an answer may still begin the payment.
        (["TIMEOUT", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        (["UNAVAILABLE", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        (["PAYMENT_IN_PROGRESS", "TIMEOUT", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        # Final: the payment cannot begin any more.
        (["TIMEOUT", "RESERVATION_EXPIRED"], "RESERVATION_EXPIRED"),
    ],
)
async def test_the_error_after_all_attempts(answers: list[str], code: str) -> None:
    with pytest.raises(ServiceError) as raised:
        await reservations(*answers).begin_payment(PAYMENT)
    assert raised.value.code == code
