"""Converts between frontrow.reservation.v1 messages and the domain."""

from typing import TypeVar

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from reservation_service.domain import Admission, Reservation, Status
from reservation_service.service import ReservationService
from servicekit.call_interceptor import Context

_STATUSES = {
    Status.HELD: reservation_pb2.RESERVATION_STATUS_HELD,
    Status.PAYING: reservation_pb2.RESERVATION_STATUS_PAYING,
    Status.CONFIRMED: reservation_pb2.RESERVATION_STATUS_CONFIRMED,
    Status.CANCELLED: reservation_pb2.RESERVATION_STATUS_CANCELLED,
    Status.EXPIRED: reservation_pb2.RESERVATION_STATUS_EXPIRED,
}


# The responses that are a reservation: they have the same fields.
Response = TypeVar(
    "Response",
    reservation_pb2.ReserveResponse,
    reservation_pb2.GetReservationResponse,
    reservation_pb2.CancelReservationResponse,
    reservation_pb2.BeginPaymentResponse,
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
        return _response(reservation_pb2.ReserveResponse, reservation)

    async def GetReservation(
        self, request: reservation_pb2.GetReservationRequest, context: Context
    ) -> reservation_pb2.GetReservationResponse:
        reservation = await self._service.get_reservation(request.reservation_id, request.user_id)
        return _response(reservation_pb2.GetReservationResponse, reservation)

    async def CancelReservation(
        self, request: reservation_pb2.CancelReservationRequest, context: Context
    ) -> reservation_pb2.CancelReservationResponse:
        reservation = await self._service.cancel_reservation(
            request.reservation_id, request.user_id
        )
        return _response(reservation_pb2.CancelReservationResponse, reservation)

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

    async def CountSoldSeats(
        self, request: reservation_pb2.CountSoldSeatsRequest, context: Context
    ) -> reservation_pb2.CountSoldSeatsResponse:
        sold = await self._service.sold_seats(request.schedule_ids)
        return reservation_pb2.CountSoldSeatsResponse(sold_by_schedule=sold)

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
        return _response(reservation_pb2.BeginPaymentResponse, reservation)


def _admission(
    request: reservation_pb2.ReserveRequest | reservation_pb2.BeginPaymentRequest,
) -> Admission | None:
    if not request.HasField("admission"):
        return None
    return Admission(request.admission.room, request.admission.place_number)


def _response(kind: type[Response], reservation: Reservation) -> Response:
    message = kind(
        id=reservation.id,
        user_id=reservation.user_id,
        seat_id=reservation.seat_id,
        schedule_id=reservation.schedule_id,
        seat_num=reservation.seat_num,
        price=f"{reservation.price:.2f}",
        status=_STATUSES[reservation.status],
        payment_id=reservation.payment_id,
    )
    message.held_until.FromDatetime(reservation.lapses_at)
    return message
