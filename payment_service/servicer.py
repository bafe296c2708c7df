"""Converts between frontrow.payment.v1 messages and the domain."""

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import TypeVar

from payment_service.domain import Admission, Payment, PayOrder, Status
from payment_service.service import PaymentService
from protos import money
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from protos.limits import MAX_ITEMS
from servicekit.call_interceptor import Context
from servicekit.errors import InvalidRequest
from servicekit.rpc_errors import to_item_error

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

    async def PayReservations(
        self, request: payment_pb2.PayReservationsRequest, context: Context
    ) -> AsyncIterator[payment_pb2.PayReservationsResponse]:
        if len(request.items) > MAX_ITEMS:
            raise InvalidRequest(f"At most {MAX_ITEMS} items per call.")
        ended: list[int] = []
        any_ended = asyncio.Event()

        def note_end(item: int, _: object) -> None:
            ended.append(item)
            any_ended.set()

        payments = [
            asyncio.create_task(self._service.pay(_to_order(item))) for item in request.items
        ]
        try:
            for item, payment in enumerate(payments):
                payment.add_done_callback(functools.partial(note_end, item))
            left = len(payments)
            while left:
                await any_ended.wait()
                any_ended.clear()
                known, ended[:] = ended[:], []
                left -= len(known)
                yield payment_pb2.PayReservationsResponse(
                    results=[_result(item, payments[item]) for item in known]
                )
        finally:
            for payment in payments:
                payment.cancel()

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


def _result(
    item: int, payment: "asyncio.Task[Payment]"
) -> payment_pb2.PayReservationsResponse.Result:
    kind = payment_pb2.PayReservationsResponse.Result
    error = payment.exception()
    if error is None:
        return kind(item=item, payment=_response(payment_pb2.PayResponse, payment.result()))
    if not isinstance(error, Exception):
        raise error
    return kind(item=item, error=payment_pb2.ItemError(**to_item_error(error)))


def _response(kind: type[Response], payment: Payment) -> Response:
    message = kind(
        id=payment.id,
        reservation_id=payment.reservation_id,
        user_id=payment.user_id,
        amount="" if payment.amount is None else money.to_text(payment.amount, payment.currency),
        currency="" if payment.amount is None else payment.currency,
        status=_STATUSES[payment.status],
    )
    if payment.admission is not None:
        message.admission.room = payment.admission.room
        message.admission.place_number = payment.admission.place_number
    return message
