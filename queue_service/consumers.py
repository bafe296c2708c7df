"""Applies payment.events to the waiting room."""

from collections import defaultdict
from collections.abc import Sequence

from protos.frontrow.payment.v1.events_pb2 import PaymentEvent
from queue_service.domain import Place
from queue_service.service import QueueService
from servicekit.kafka import Record


class PaymentEvents:
    """Handles payment.events: a successful payment ends the admission of its buyer.

    Idempotent, because a place number is never given twice.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def handle(self, records: Sequence[Record]) -> Sequence[Record]:
        """Publishes nothing. Raises DecodeError for a record that is not a payment event."""
        ended: dict[str, list[Place]] = defaultdict(list)
        for record in records:
            event = PaymentEvent.FromString(record.value)
            if event.WhichOneof("event") == "succeeded" and event.succeeded.HasField("admission"):
                admission = event.succeeded.admission
                place = Place(admission.room, admission.place_number, event.user_id, epoch=0)
                ended[place.room].append(place)
        for room, places in ended.items():
            await self._service.end_admissions(room, places)
        return ()
