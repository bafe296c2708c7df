"""reservation_service, as far as a payment needs it."""

from decimal import Decimal

import tenacity

from payment_service.domain import Payment, PaymentInProgress
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit import client
from servicekit.errors import TimedOut, Unavailable
from servicekit.rpc_errors import RemoteError

# No reply: it may have begun, or begin yet.
_IN_DOUBT = frozenset((Unavailable.code, TimedOut.code))
# May pass within the budget: a restart, a hiccup, the event of the payment before on its way.
_PASSING = _IN_DOUBT | {PaymentInProgress.code}


class GrpcReservations:
    """Asks reservation_service; the whole of a step takes at most about `budget` seconds."""

    def __init__(self, stub: "reservation_pb2_grpc.ReservationServiceAsyncStub", budget: float):
        self._stub = stub
        self._budget = budget

    async def begin_payment(self, payment: Payment) -> Decimal:
        """See `ports.Reservations`."""
        request = reservation_pb2.BeginPaymentRequest(
            reservation_id=payment.reservation_id,
            user_id=payment.user_id,
            payment_id=payment.id,
            failed_payment_id=payment.failed_payment_id,
        )
        begun_perhaps = False
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_pass),
            # A try that has no reply gets half of the budget, so that there is a second one.
            stop=tenacity.stop_after_delay(self._budget / 2),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
            reraise=True,
        ):
            with attempt:
                try:
                    reservation = await client.call(
                        self._stub.BeginPayment, request, budget=self._budget / 2
                    )
                except RemoteError as error:
                    if error.code in _IN_DOUBT:
                        begun_perhaps = True
                    elif error.code == PaymentInProgress.code and begun_perhaps:
                        # An earlier try may still arrive, and begin after all once the payment
                        # before is wound up: this is no clean refusal.
                        raise Unavailable(
                            "It is not known whether the payment has begun."
                        ) from error
                    raise
        return Decimal(reservation.price)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, RemoteError | Unavailable) and error.code in _PASSING
