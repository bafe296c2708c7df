"""payment_service in memory."""

from collections.abc import AsyncIterator

from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from servicekit.errors import Forbidden, NotFound, ServiceError
from servicekit.rpc_errors import to_item_error
from tests.gateway.fakes.faults import Faults, service_error
from tests.gateway.fakes.queue import FakeQueue
from tests.gateway.fakes.reservations import CONFIRMED, FakeReservations

PENDING = payment_pb2.PAYMENT_STATUS_PENDING
SUCCEEDED = payment_pb2.PAYMENT_STATUS_SUCCEEDED
REFUNDED = payment_pb2.PAYMENT_STATUS_REFUNDED


class FakePayments(payment_pb2_grpc.PaymentServiceServicer):
    """Pays holds of the fake reservations with the given `outcome`; success ends the admission."""

    def __init__(self, faults: Faults, reservations: FakeReservations, queue: FakeQueue) -> None:
        self.faults = faults
        self.reservations = reservations
        self.queue = queue
        self.reset()

    def reset(self) -> None:
        """Deletes all payments; the next ones succeed."""
        self.outcome: payment_pb2.PaymentStatus.ValueType = SUCCEEDED
        self.payments: dict[int, payment_pb2.PayResponse] = {}

    async def Pay(
        self, request: payment_pb2.PayRequest, context: object
    ) -> payment_pb2.PayResponse:
        await self.faults.before("Pay", request)
        return self._pay(request)

    async def PayReservations(
        self, request: payment_pb2.PayReservationsRequest, context: object
    ) -> AsyncIterator[payment_pb2.PayReservationsResponse]:
        """Sends two results in one message, and the last item first."""
        await self.faults.before("PayReservations", request)
        results = [self._result(*item) for item in reversed([*enumerate(request.items)])]
        for start in range(0, len(results), 2):
            yield payment_pb2.PayReservationsResponse(results=results[start : start + 2])

    def _result(
        self, item: int, request: payment_pb2.PayRequest
    ) -> payment_pb2.PayReservationsResponse.Result:
        kind = payment_pb2.PayReservationsResponse.Result
        try:
            return kind(item=item, payment=self._pay(request))
        except ServiceError as error:
            return kind(item=item, error=payment_pb2.ItemError(**to_item_error(error)))

    def _pay(self, request: payment_pb2.PayRequest) -> payment_pb2.PayResponse:
        reservation = self.reservations.owned(request.reservation_id, request.user_id)
        if reservation.id not in self.payments:
            self.payments[reservation.id] = payment_pb2.PayResponse(
                id=len(self.payments) + 1,
                reservation_id=reservation.id,
                user_id=request.user_id,
                amount=reservation.price,
                status=self.outcome,
                admission=request.admission,
            )
            if self.outcome == SUCCEEDED:
                reservation.status = CONFIRMED
                self.queue.end(request.admission.place_number)
        return self.payments[reservation.id]

    async def GetPaymentOfReservation(
        self, request: payment_pb2.GetPaymentOfReservationRequest, context: object
    ) -> payment_pb2.GetPaymentOfReservationResponse:
        await self.faults.before("GetPaymentOfReservation", request)
        payment = self.payments.get(request.reservation_id)
        if payment is None:
            raise service_error("PAYMENT_NOT_FOUND", NotFound)
        if payment.user_id != request.user_id:
            raise service_error("NOT_YOURS", Forbidden)
        # Both responses have the same fields.
        return payment_pb2.GetPaymentOfReservationResponse.FromString(payment.SerializeToString())
