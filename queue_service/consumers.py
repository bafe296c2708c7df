"""Applies payment.events to the waiting room."""

from collections.abc import Sequence

from protos.frontrow.payment.v1 import events_pb2
from queue_service.service import QueueService
from servicekit.kafka import Record


class PaymentEvents:
    """Handles payment.events: a successful payment ends the admission of its buyer.

    Idempotent, because a place number is never given twice.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def handle(self, record: Record) -> Sequence[Record]:
        """Publishes nothing. Raises DecodeError for a record that is not a payment event."""
        event = events_pb2.PaymentEvent.FromString(record.value)
        if event.WhichOneof("event") == "succeeded" and event.succeeded.HasField("admission"):
            admission = event.succeeded.admission
            await self._service.leave_queue(admission.room, admission.place_number, event.user_id)
        return ()
