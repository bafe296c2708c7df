"""Applies payment.events to reservations."""

from collections.abc import Sequence

from prometheus_client import Counter

from protos.frontrow.payment.v1 import events_pb2 as payment_events_pb2
from protos.frontrow.reservation.v1 import events_pb2
from protos.topics import RESERVATION_EVENTS
from reservation_service.domain import PaymentOutcome, ReservationNotFound, UnknownPayment
from reservation_service.service import ReservationService
from servicekit import logs
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

    async def handle(self, record: Record) -> Sequence[Record]:
        """Returns a SeatLost event for a payment whose seat is lost, otherwise nothing.

        Raises StrayPaymentEvent, DecodeError or ValueError for an event that no version of
        payment_service can have published.
        """
        event = payment_events_pb2.PaymentEvent.FromString(record.value)
        kind = event.WhichOneof("event")
        try:
            match kind:
                case "succeeded":
                    outcome = await self._service.confirm_payment(
                        event.reservation_id, event.payment_id
                    )
                    if outcome == PaymentOutcome.SEAT_LOST:
                        return [_seat_lost(event)]
                case "failed":
                    await self._service.return_to_hold(event.reservation_id, event.payment_id)
                case "refunded":
                    pass  # It was refunded because this service reported the seat as lost.
                case unknown:
                    raise ValueError(f"payment event of unknown kind {unknown}")
        except (ReservationNotFound, UnknownPayment) as error:
            STRAY.labels(kind).inc()
            ids = {"reservation_id": event.reservation_id, "payment_id": event.payment_id}
            if kind == "failed":
                # Nothing to undo. BeginPayment did not arrive or was refused, or a version before
                # `earlier_payment` began the payment or handled this event.
                log.info("unknown_payment_failed", **ids)
                return []
            log.error("stray_payment_event", **ids)
            raise StrayPaymentEvent(error.detail) from error
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
