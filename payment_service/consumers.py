"""Applies reservation.events to payments."""

from collections.abc import Sequence

from payment_service.service import PaymentService
from protos.frontrow.reservation.v1 import events_pb2
from servicekit.kafka import Record


class ReservationEvents:
    """Handles reservation.events: refunds the payment of a lost seat.

    If the provider refuses the refund, the event becomes a dead letter, so that other refunds do
    not wait for an operator.
    """

    def __init__(self, service: PaymentService) -> None:
        self._service = service

    async def handle(self, record: Record) -> Sequence[Record]:
        """Publishes nothing. Raises DecodeError, ValueError for an event of a newer version, and
        what `PaymentService.refund` raises."""
        event = events_pb2.ReservationEvent.FromString(record.value)
        match event.WhichOneof("event"):
            case "seat_lost":
                await self._service.refund(event.seat_lost.payment_id, event.reservation_id)
            case unknown:
                raise ValueError(f"reservation event of unknown kind {unknown}")
        return []
