"""Applies payment.events to reservations."""

from collections.abc import Sequence

from protos.frontrow.payment.v1 import events_pb2 as payment_events_pb2
from protos.frontrow.reservation.v1 import events_pb2
from protos.topics import RESERVATION_EVENTS
from reservation_service.domain import PaymentOutcome
from reservation_service.service import ReservationService
from servicekit.kafka import Record


class PaymentEvents:
    """Handles payment.events: confirms reservations and returns them to their hold.

    Idempotent: the effect, and the event that is published, depend on the reservation's state only.
    """

    def __init__(self, service: ReservationService) -> None:
        self._service = service

    async def handle(self, record: Record) -> Sequence[Record]:
        """Returns a SeatLost event for a payment whose seat is lost, otherwise nothing.

        Raises DecodeError, ReservationNotFound or ValueError for an event that no version of
        payment_service can have published.
        """
        event = payment_events_pb2.PaymentEvent.FromString(record.value)
        match event.WhichOneof("event"):
            case "succeeded":
                outcome = await self._service.confirm_payment(
                    event.reservation_id, event.payment_id
                )
                if outcome == PaymentOutcome.SEAT_LOST:
                    return [_seat_lost(event)]
            case "failed":
                await self._service.return_to_hold(event.reservation_id, event.payment_id)
            case "refunded":
                pass  # The payment was refunded because this service reported the seat as lost.
            case unknown:
                raise ValueError(f"payment event of unknown kind {unknown}")
        return []


def _seat_lost(payment: payment_events_pb2.PaymentEvent) -> Record:
    event = events_pb2.ReservationEvent(
        reservation_id=payment.reservation_id,
        seat_lost=events_pb2.SeatLost(payment_id=payment.payment_id),
    )
    event.occurred_at.GetCurrentTime()
    return Record(
        topic=RESERVATION_EVENTS,
        key=str(payment.reservation_id).encode(),
        value=event.SerializeToString(),
    )
