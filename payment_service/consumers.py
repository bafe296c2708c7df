"""Applies reservation.events to payments."""

import asyncio
from collections.abc import Sequence

from payment_service.service import PaymentService
from protos.frontrow.reservation.v1 import events_pb2
from servicekit.kafka import Record

# Each waits for the provider, and has a connection to the database before and after.
_REFUNDS_AT_ONCE = 8


class ReservationEvents:
    """Handles reservation.events: refunds the payment of a lost seat.

    If the provider refuses the refund, the event becomes a dead letter, so that other refunds do
    not wait for an operator.
    """

    def __init__(self, service: PaymentService) -> None:
        self._service = service

    async def handle(self, records: Sequence[Record]) -> Sequence[Record]:
        """Publishes nothing. Raises DecodeError, ValueError for an event of a newer version, and
        what `PaymentService.refund` raises; the other refunds of the call are finished by then."""
        # Each once, although the event of a lost seat may be published several times.
        lost = dict.fromkeys(_lost_seat(record) for record in records)
        slots = asyncio.Semaphore(_REFUNDS_AT_ONCE)

        async def refund(payment_id: int, reservation_id: int) -> None:
            async with slots:
                await self._service.refund(payment_id, reservation_id)

        refunds = (refund(*ids) for ids in lost)
        for result in await asyncio.gather(*refunds, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return ()


def _lost_seat(record: Record) -> tuple[int, int]:
    """Returns the ids of the payment and of the reservation."""
    event = events_pb2.ReservationEvent.FromString(record.value)
    match event.WhichOneof("event"):
        case "seat_lost":
            return event.seat_lost.payment_id, event.reservation_id
        case unknown:
            raise ValueError(f"reservation event of unknown kind {unknown}")
