"""The client of reservation_service."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

from payment_service.domain import Money, Payment
from payment_service.errors import PaymentInProgress
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from protos.money import DEFAULT_CURRENCY
from servicekit import client
from servicekit.batching import Batcher
from servicekit.errors import ServiceError, TimedOut, Unavailable
from servicekit.retries import call_pause
from servicekit.rpc_errors import RemoteError, from_item_error

# Without an answer: the payment may have begun, or may still begin.
_IN_DOUBT = frozenset((Unavailable.code, TimedOut.code))

MAX_GROUP = 64
# Two, so that a call that waits for a locked row does not hold up all payments.
MAX_IN_FLIGHT = 2


class _Refused(Exception):
    """The service has refused a call for several payments."""


class GrpcReservations:
    """Implements `ports.Reservations` over gRPC. A call takes at most about `budget` seconds,
    retries included. Payments that begin while calls are under way share the next call."""

    def __init__(
        self, stub: "reservation_pb2_grpc.ReservationServiceAsyncStub", *, budget: float
    ) -> None:
        self._stub = stub
        self._budget = budget
        self._beginning: Batcher[Payment, Money] = Batcher(
            self._begin_group,
            budget=budget / 2,
            max_batch=MAX_GROUP,
            max_in_flight=MAX_IN_FLIGHT,
            direct=True,
        )

    async def price_of(self, payment: Payment) -> Money:
        reservation = await client.call(
            self._stub.GetReservation,
            reservation_pb2.GetReservationRequest(
                reservation_id=payment.reservation_id, user_id=payment.user_id
            ),
            budget=self._budget / 2,
        )
        return _price(reservation)

    async def begin_payment(self, payment: Payment) -> Money:
        clock = asyncio.get_running_loop().time
        # An attempt without an answer takes half of the budget, so that there is a second one.
        last_start = clock() + self._budget / 2
        may_have_begun = False
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._try_to_begin(payment)
            except ServiceError as error:
                if error.code in _IN_DOUBT:
                    may_have_begun = True
                elif error.code == PaymentInProgress.code and may_have_begun:
                    # An earlier attempt may still arrive, and begin this payment once the
                    # previous one has failed: this is not a certain refusal.
                    error = Unavailable("It is not known whether the payment has begun.")
                if not _is_temporary(error) or clock() >= last_start:
                    raise error from None
            await asyncio.sleep(call_pause(attempt))

    async def _try_to_begin(self, payment: Payment) -> Money:
        """Begins a payment in one call with others. If the service refuses the call as a whole,
        begins it by itself, so that only the culprit fails."""
        try:
            return await self._beginning.submit(payment)
        except _Refused:
            [result] = await self._begin([payment])
        if isinstance(result, Exception):
            raise result from None
        return result

    async def _begin_group(self, payments: Sequence[Payment]) -> Sequence[Money | Exception]:
        try:
            return await self._begin(payments)
        except RemoteError as error:
            if len(payments) == 1 or error.code in _IN_DOUBT:
                raise
            raise _Refused from error

    async def _begin(self, payments: Sequence[Payment]) -> Sequence[Money | Exception]:
        response = await client.call(
            self._stub.BeginPayments,
            reservation_pb2.BeginPaymentsRequest(items=map(_request, payments)),
            budget=self._budget / 2,
        )
        if len(response.results) != len(payments):
            raise RuntimeError("BeginPayments returned another number of results than items")
        return [
            from_item_error(result.error)
            if result.HasField("error")
            else _price(result.reservation)
            for result in response.results
        ]


def _price(
    reservation: reservation_pb2.Reservation | reservation_pb2.GetReservationResponse,
) -> Money:
    return Money(Decimal(reservation.price), reservation.currency or DEFAULT_CURRENCY)


def _request(payment: Payment) -> reservation_pb2.BeginPaymentRequest:
    request = reservation_pb2.BeginPaymentRequest(
        reservation_id=payment.reservation_id,
        user_id=payment.user_id,
        payment_id=payment.id,
        failed_payment_id=payment.failed_payment_id,
    )
    if payment.admission is not None:
        request.admission.room = payment.admission.room
        request.admission.place_number = payment.admission.place_number
    return request


def _is_temporary(error: ServiceError) -> bool:
    """Whether a retry within the budget is useful: after a restart or a lost connection, or if a
    payment is in progress and the answer does not say which one, so that its failure event may
    arrive meanwhile."""
    if error.code == PaymentInProgress.code:
        return "payment_id" not in error.metadata
    return error.code in _IN_DOUBT
