"""reservation_service, as far as a payment needs it."""

import asyncio
import random
from decimal import Decimal

from payment_service.domain import Payment, PaymentInProgress
from protos.reservation.v1 import reservation_pb2, reservation_pb2_grpc
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
        clock = asyncio.get_running_loop().time
        # A try that has no reply gets half of the budget, so that there is a second one.
        budget = self._budget / 2
        try_until = clock() + budget
        begun_perhaps = False
        failures = 0
        while True:
            try:
                reservation = await client.call(self._stub.BeginPayment, request, budget=budget)
                return Decimal(reservation.price)
            except RemoteError as error:
                if error.code in _IN_DOUBT:
                    begun_perhaps = True
                failures += 1
                if error.code not in _PASSING or clock() >= try_until:
                    if error.code == PaymentInProgress.code and begun_perhaps:
                        # An earlier try may still arrive, and begin after all once the payment
                        # before is wound up: this is no clean refusal.
                        raise Unavailable(
                            "It is not known whether the payment has begun."
                        ) from error
                    raise
            await asyncio.sleep(random.uniform(0, min(0.5, 0.025 * 2**failures)))
