"""Converts between frontrow.payment.v1 messages and the domain."""

from typing import TypeVar

from payment_service.domain import Admission, Payment, PayOrder, Status
from payment_service.service import PaymentService
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from servicekit.call_interceptor import Context

_STATUSES = {
    Status.INITIATED: payment_pb2.PAYMENT_STATUS_PENDING,
    Status.SUCCEEDED: payment_pb2.PAYMENT_STATUS_SUCCEEDED,
    Status.FAILED: payment_pb2.PAYMENT_STATUS_FAILED,
    Status.REFUNDED: payment_pb2.PAYMENT_STATUS_REFUNDED,
}


# The responses that are a payment: they have the same fields.
Response = TypeVar("Response", payment_pb2.PayResponse, payment_pb2.GetPaymentOfReservationResponse)


class PaymentServicer(payment_pb2_grpc.PaymentServiceServicer):
    """Implements PaymentService of protos/frontrow/payment/v1/payment.proto."""

    def __init__(self, service: PaymentService) -> None:
        self._service = service

    async def Pay(
        self, request: payment_pb2.PayRequest, context: Context
    ) -> payment_pb2.PayResponse:
        return _response(payment_pb2.PayResponse, await self._service.pay(_to_order(request)))

    async def GetPaymentOfReservation(
        self,
        request: payment_pb2.GetPaymentOfReservationRequest,
        context: Context,
    ) -> payment_pb2.GetPaymentOfReservationResponse:
        payment = await self._service.payment_of_reservation(
            request.reservation_id, request.user_id
        )
        return _response(payment_pb2.GetPaymentOfReservationResponse, payment)


def _to_order(request: payment_pb2.PayRequest) -> PayOrder:
    admission = request.admission
    return PayOrder(
        reservation_id=request.reservation_id,
        user_id=request.user_id,
        idempotency_key=request.idempotency_key,
        admission=Admission(admission.room, admission.place_number)
        if request.HasField("admission")
        else None,
    )


def _response(kind: type[Response], payment: Payment) -> Response:
    message = kind(
        id=payment.id,
        reservation_id=payment.reservation_id,
        user_id=payment.user_id,
        amount="" if payment.amount is None else f"{payment.amount:.2f}",
        status=_STATUSES[payment.status],
    )
    if payment.admission is not None:
        message.admission.room = payment.admission.room
        message.admission.place_number = payment.admission.place_number
    return message
