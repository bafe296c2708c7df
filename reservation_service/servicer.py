"""Converts between frontrow.reservation.v1 messages and the domain."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import Counter

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from protos.limits import MAX_ITEMS
from reservation_service.best_seats import Wish
from reservation_service.domain import Admission, BestAvailable, PaymentStart, Reservation
from reservation_service.messages import to_message
from reservation_service.service import ReservationService
from servicekit.call_interceptor import Context
from servicekit.errors import InvalidRequest, ServiceError
from servicekit.rpc_errors import to_item_error

HOLDS = Counter(
    "holds", "Items of HoldSeats, by result: HELD or the code of the error.", ["result"]
)

# The result of one item: a reservation or an error.
Result = TypeVar(
    "Result",
    reservation_pb2.HoldSeatsResponse.Result,
    reservation_pb2.BeginPaymentsResponse.Result,
)


class ReservationServicer(reservation_pb2_grpc.ReservationServiceServicer):
    """Implements ReservationService of protos/frontrow/reservation/v1/reservation.proto."""

    def __init__(self, service: ReservationService) -> None:
        self._service = service

    async def Reserve(
        self, request: reservation_pb2.ReserveRequest, context: Context
    ) -> reservation_pb2.ReserveResponse:
        reservation = await self._service.hold_seat(
            request.user_id, request.seat_id, request.idempotency_key, _admission(request)
        )
        return to_message(reservation_pb2.ReserveResponse, reservation)

    async def HoldSeats(
        self, request: reservation_pb2.HoldSeatsRequest, context: Context
    ) -> reservation_pb2.HoldSeatsResponse:
        _check_items(len(request.items))
        results: Sequence[Reservation | BaseException]
        if len(request.items) == 1:  # without a task of its own
            try:
                results = [await self._hold(request.items[0])]
            except Exception as error:
                results = [error]
        else:
            results = await asyncio.gather(*map(self._hold, request.items), return_exceptions=True)
        for result in results:
            HOLDS.labels(_result_code(result)).inc()
        return reservation_pb2.HoldSeatsResponse(
            results=_results(reservation_pb2.HoldSeatsResponse.Result, results)
        )

    async def _hold(self, item: reservation_pb2.HoldSeatsRequest.Item) -> Reservation:
        key, admission = item.idempotency_key, _admission(item)
        if item.HasField("best_available"):
            best = _best_available(item.best_available)
            return await self._service.hold_best_available(item.user_id, best, key, admission)
        return await self._service.hold_seats(item.user_id, item.seats.seat_ids, key, admission)

    async def GetReservation(
        self, request: reservation_pb2.GetReservationRequest, context: Context
    ) -> reservation_pb2.GetReservationResponse:
        reservation = await self._service.get_reservation(request.reservation_id, request.user_id)
        return to_message(reservation_pb2.GetReservationResponse, reservation)

    async def CancelReservation(
        self, request: reservation_pb2.CancelReservationRequest, context: Context
    ) -> reservation_pb2.CancelReservationResponse:
        reservation = await self._service.cancel_reservation(
            request.reservation_id, request.user_id
        )
        return to_message(reservation_pb2.CancelReservationResponse, reservation)

    async def CancelHolds(
        self, request: reservation_pb2.CancelHoldsRequest, context: Context
    ) -> reservation_pb2.CancelHoldsResponse:
        admission = Admission(request.admission.room, request.admission.place_number)
        cancelled = await self._service.cancel_holds(request.user_id, admission)
        return reservation_pb2.CancelHoldsResponse(cancelled=cancelled)

    async def ListTakenSeats(
        self, request: reservation_pb2.ListTakenSeatsRequest, context: Context
    ) -> reservation_pb2.ListTakenSeatsResponse:
        held, sold = await self._service.taken_seats(request.schedule_id)
        return reservation_pb2.ListTakenSeatsResponse(held_seat_ids=held, sold_seat_ids=sold)

    async def GetTakenSeats(
        self, request: reservation_pb2.GetTakenSeatsRequest, context: Context
    ) -> reservation_pb2.GetTakenSeatsResponse:
        _check_items(len(request.schedule_ids))
        taken = await self._service.taken_seats_of(request.schedule_ids)
        response = reservation_pb2.GetTakenSeatsResponse()
        for held, sold in taken:
            response.schedules.add(held_seat_ids=held, sold_seat_ids=sold)
        if request.touched_in:
            touched = await self._service.touched_schedules(
                [(ids.first, ids.last) for ids in request.touched_in]
            )
            if touched is not None:
                response.touched.SetInParent()
                response.touched.schedule_ids.extend(touched)
        return response

    async def CountSoldSeats(
        self, request: reservation_pb2.CountSoldSeatsRequest, context: Context
    ) -> reservation_pb2.CountSoldSeatsResponse:
        counts = await self._service.count_seats(request.schedule_ids)
        return reservation_pb2.CountSoldSeatsResponse(
            sold_by_schedule=counts.sold,
            blocked_by_schedule=counts.blocked,
            closed_schedules=counts.closed,
        )

    async def BeginPayment(
        self, request: reservation_pb2.BeginPaymentRequest, context: Context
    ) -> reservation_pb2.BeginPaymentResponse:
        reservation = await self._service.begin_payment(
            request.reservation_id,
            request.user_id,
            request.payment_id,
            request.failed_payment_id,
            _admission(request),
        )
        return to_message(reservation_pb2.BeginPaymentResponse, reservation)

    async def BeginPayments(
        self, request: reservation_pb2.BeginPaymentsRequest, context: Context
    ) -> reservation_pb2.BeginPaymentsResponse:
        _check_items(len(request.items))
        starts = [
            PaymentStart(
                item.reservation_id,
                item.user_id,
                item.payment_id,
                item.failed_payment_id,
                _admission(item),
            )
            for item in request.items
        ]
        results = await self._service.begin_payments(starts)
        return reservation_pb2.BeginPaymentsResponse(
            results=_results(reservation_pb2.BeginPaymentsResponse.Result, results)
        )


def _results(
    kind: Callable[..., Result], results: Iterable[Reservation | BaseException]
) -> Iterator[Result]:
    """Converts the results of the items of a call."""
    for result in results:
        if isinstance(result, Reservation):
            yield kind(reservation=to_message(reservation_pb2.Reservation, result))
        elif isinstance(result, Exception):
            yield kind(error=reservation_pb2.ItemError(**to_item_error(result)))
        else:  # such as a cancellation, which ends the call
            raise result


def _check_items(count: int) -> None:
    if count > MAX_ITEMS:
        raise InvalidRequest(f"At most {MAX_ITEMS} items per call.")


def _admission(
    request: reservation_pb2.ReserveRequest
    | reservation_pb2.BeginPaymentRequest
    | reservation_pb2.HoldSeatsRequest.Item,
) -> Admission | None:
    if not request.HasField("admission"):
        return None
    return Admission(request.admission.room, request.admission.place_number)


def _best_available(message: reservation_pb2.BestAvailable) -> BestAvailable:
    wish = Wish(
        message.count,
        message.price_category,
        message.accessible,
        message.allow_split,
        message.section,
    )
    return BestAvailable(message.schedule_id, wish)


def _result_code(result: Reservation | BaseException) -> str:
    if isinstance(result, Reservation):
        return "HELD"
    return result.code if isinstance(result, ServiceError) else "INTERNAL"
