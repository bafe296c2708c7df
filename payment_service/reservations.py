"""The client of reservation_service."""

from decimal import Decimal

import tenacity

from payment_service.domain import Payment, PaymentInProgress
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit import client
from servicekit.errors import TimedOut, Unavailable
from servicekit.retries import CALL_BACK_OFF
from servicekit.rpc_errors import RemoteError

# Without an answer: the payment may have begun, or may still begin.
_IN_DOUBT = frozenset((Unavailable.code, TimedOut.code))


class GrpcReservations:
    """Implements `ports.Reservations` over gRPC. A call takes at most about `budget` seconds,
    retries included."""

    def __init__(
        self, stub: "reservation_pb2_grpc.ReservationServiceAsyncStub", *, budget: float
    ) -> None:
        self._stub = stub
        self._budget = budget

    async def price_of(self, payment: Payment) -> Decimal:
        reservation = await client.call(
            self._stub.GetReservation,
            reservation_pb2.GetReservationRequest(
                reservation_id=payment.reservation_id, user_id=payment.user_id
            ),
            budget=self._budget / 2,
        )
        return Decimal(reservation.price)

    async def begin_payment(self, payment: Payment) -> Decimal:
        request = reservation_pb2.BeginPaymentRequest(
            reservation_id=payment.reservation_id,
            user_id=payment.user_id,
            payment_id=payment.id,
            failed_payment_id=payment.failed_payment_id,
        )
        if payment.admission is not None:
            request.admission.room = payment.admission.room
            request.admission.place_number = payment.admission.place_number
        may_have_begun = False
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_temporary),
            # An attempt without an answer takes half of the budget, so that there is a second one.
            stop=tenacity.stop_after_delay(self._budget / 2),
            wait=CALL_BACK_OFF,
            reraise=True,
        ):
            with attempt:
                try:
                    reservation = await client.call(
                        self._stub.BeginPayment, request, budget=self._budget / 2
                    )
                except RemoteError as error:
                    if error.code in _IN_DOUBT:
                        may_have_begun = True
                    elif error.code == PaymentInProgress.code and may_have_begun:
                        # An earlier attempt may still arrive, and begin this payment once the
                        # previous one has failed: this is not a certain refusal.
                        raise Unavailable(
                            "It is not known whether the payment has begun."
                        ) from error
                    raise
        return Decimal(reservation.price)


def _is_temporary(error: BaseException) -> bool:
    """Whether a retry within the budget is useful: after a restart or a lost connection, or if a
    payment is in progress and the answer does not say which one, so that its failure event may
    arrive meanwhile."""
    if not isinstance(error, RemoteError | Unavailable):
        return False
    if error.code == PaymentInProgress.code:
        return "payment_id" not in error.metadata
    return error.code in _IN_DOUBT
