"""Applies payment.events to reservations."""

import itertools
from collections.abc import Sequence

from prometheus_client import Counter

from protos.frontrow.payment.v1.events_pb2 import PaymentEvent
from protos.frontrow.reservation.v1 import events_pb2
from protos.topics import RESERVATION_EVENTS
from reservation_service.domain import PaymentOutcome
from reservation_service.service import ReservationService
from servicekit import logs
from servicekit.errors import ServiceError
from servicekit.kafka import PoisonRecord, Record

log = logs.get(__name__)

STRAY = Counter(
    "reservation_stray_payment_events", "Payment events of payments that never began.", ["kind"]
)


class StrayPaymentEvent(PoisonRecord):
    """The success of a payment that never began for this reservation. It changes nothing."""


class PaymentEvents:
    """Handles payment.events: confirms reservations and returns them to their hold.

    Idempotent: the effect, and the event that is published, depend on the reservation's state only.
    """

    def __init__(self, service: ReservationService) -> None:
        self._service = service

    async def handle(self, records: Sequence[Record]) -> Sequence[Record]:
        """Returns a SeatLost event for each payment whose seat is lost.

        Raises StrayPaymentEvent, DecodeError or ValueError if one of the events cannot have been
        published by any version of payment_service.
        """
        lost: list[Record] = []
        strays: list[PaymentEvent] = []
        unknown: list[PaymentEvent] = []
        events = [PaymentEvent.FromString(record.value) for record in records]
        # In runs, because the order of the events of one reservation matters.
        for kind, run in itertools.groupby(events, _kind):
            same = list(run)
            for event, outcome in zip(same, await self._apply(kind, same), strict=True):
                if outcome == PaymentOutcome.SEAT_LOST:
                    lost.append(_seat_lost(event))
                elif isinstance(outcome, ServiceError) and kind == "failed":
                    # Nothing to undo. BeginPayment did not arrive or was refused, or a version
                    # before `earlier_payment` began the payment or handled this event.
                    unknown.append(event)
                elif isinstance(outcome, ServiceError):
                    strays.append(event)
        if strays:
            if len(records) == 1:  # several come again, each by itself
                STRAY.labels("succeeded").inc()
                log.error("stray_payment_event", **_ids(strays[0]))
            raise StrayPaymentEvent("This payment never began for its reservation.")
        for event in unknown:  # once, when none of the records comes again
            STRAY.labels("failed").inc()
            log.info("unknown_payment_failed", **_ids(event))
        return lost

    async def _apply(
        self, kind: str, events: Sequence[PaymentEvent]
    ) -> Sequence[PaymentOutcome | ServiceError | None]:
        payments = [(event.reservation_id, event.payment_id) for event in events]
        match kind:
            case "succeeded":
                return await self._service.confirm_payments(payments)
            case "failed":
                return await self._service.return_payments_to_hold(payments)
            case _:  # It was refunded because this service reported the seat as lost.
                return [None] * len(events)


def _kind(event: PaymentEvent) -> str:
    kind = event.WhichOneof("event")
    if kind is None:
        raise ValueError("payment event of unknown kind")
    return kind


def _ids(event: PaymentEvent) -> dict[str, int]:
    return {"reservation_id": event.reservation_id, "payment_id": event.payment_id}


def _seat_lost(payment: PaymentEvent) -> Record:
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
