"""The messages that are a reservation."""

from typing import TypeVar

from protos import money
from protos.frontrow.reservation.v1 import reservation_pb2
from reservation_service.domain import Reservation, Status

_STATUSES = {
    Status.HELD: reservation_pb2.RESERVATION_STATUS_HELD,
    Status.PAYING: reservation_pb2.RESERVATION_STATUS_PAYING,
    Status.CONFIRMED: reservation_pb2.RESERVATION_STATUS_CONFIRMED,
    Status.CANCELLED: reservation_pb2.RESERVATION_STATUS_CANCELLED,
    Status.EXPIRED: reservation_pb2.RESERVATION_STATUS_EXPIRED,
}

# They have the same fields.
Message = TypeVar(
    "Message",
    reservation_pb2.Reservation,
    reservation_pb2.ReserveResponse,
    reservation_pb2.GetReservationResponse,
    reservation_pb2.CancelReservationResponse,
    reservation_pb2.BeginPaymentResponse,
)


def to_message(kind: type[Message], reservation: Reservation) -> Message:
    """Returns the reservation as a message of this kind."""
    currency = reservation.currency
    message = kind(
        id=reservation.id,
        user_id=reservation.user_id,
        seat_id=reservation.seats[0].id,
        schedule_id=reservation.schedule_id,
        seat_num=reservation.seats[0].seat_num,
        price=money.to_text(reservation.price, currency),
        status=_STATUSES[reservation.status],
        payment_id=reservation.payment_id,
        seats=[
            reservation_pb2.ReservedSeat(
                id=seat.id, seat_num=seat.seat_num, price=money.to_text(seat.price, currency)
            )
            for seat in reservation.seats
        ],
        currency=currency,
    )
    message.held_until.FromDatetime(reservation.lapses_at)
    return message
