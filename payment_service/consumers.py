"""Events of others that concern payments."""

from payment_service.service import PaymentService
from protos.frontrow.reservation.v1 import events_pb2
from servicekit.kafka import Record


class ReservationEvents:
    """reservation.events: a lost seat gives the money back. If the provider refuses to, the event
    goes to the dead letters: somebody has to look into it, and others wait for their money."""

    def __init__(self, service: PaymentService) -> None:
        self._service = service

    async def handle(self, record: Record) -> tuple[Record, ...]:
        event = events_pb2.ReservationEvent.FromString(record.value)
        if event.WhichOneof("event") == "seat_lost":
            await self._service.refund(event.seat_lost.payment_id)
        return ()
