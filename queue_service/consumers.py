"""payment.events -> the waiting room."""

from collections.abc import Awaitable, Callable, Sequence

from protos.frontrow.payment.v1 import events_pb2
from queue_service.service import QueueService
from servicekit.kafka import Record


def payment_handler(service: QueueService) -> Callable[[Record], Awaitable[Sequence[Record]]]:
    """Who has paid leaves the shop, and the next one enters.

    A second delivery changes nothing, since a place is never given twice. Raises DecodeError on a
    record that is no event.
    """

    async def handle(record: Record) -> Sequence[Record]:
        event = events_pb2.PaymentEvent.FromString(record.value)
        if event.WhichOneof("event") == "succeeded" and event.succeeded.HasField("admission"):
            admission = event.succeeded.admission
            await service.leave_queue(admission.room, admission.place_number, event.user_id)
        return ()

    return handle
