"""payment_service in memory."""

from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from servicekit.errors import Forbidden, NotFound
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
