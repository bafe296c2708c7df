"""The events that payment_service publishes, encoded.

A payment has at most one event of each kind, so an event's id follows from what it tells, and an
event that is announced again has the id that it had at first.
"""

import uuid
from datetime import UTC, datetime
from decimal import Decimal

from payment_service.domain import (
    REJECTIONS,
    Event,
    Payment,
    PaymentInProgress,
    ReservationExpired,
    Status,
)
from protos.frontrow.payment.v1 import events_pb2

EVENT_ID_HEADER = "event-id"

_EVENT_IDS = uuid.UUID("b0c5a7a1-6f0f-4d0e-9a35-8a1f5e7c2d94")
# Payments that their reservation knows nothing of had no event. RESERVATION_EXPIRED may be one of
# these, or one that the reservation waits for and whose charge was given back at the provider.
_WITHOUT_EVENT = REJECTIONS - {ReservationExpired.code} | {PaymentInProgress.code}


def succeeded(payment: Payment, amount: Decimal | None, at: datetime | None = None) -> Event:
    """The charge went through."""
    event = events_pb2.PaymentEvent()
    event.succeeded.amount = f"{amount:.2f}"
    if payment.admission is not None:
        event.succeeded.admission.room = payment.admission.room
        event.succeeded.admission.place_number = payment.admission.place_number
    return _encode(event, payment, at)


def failed(payment: Payment, reason: str, at: datetime | None = None) -> Event:
    """Nothing was charged, and nothing will be."""
    event = events_pb2.PaymentEvent()
    event.failed.reason = reason
    return _encode(event, payment, at)


def refunded(payment: Payment, at: datetime | None = None) -> Event:
    """The money went back."""
    event = events_pb2.PaymentEvent()
    event.refunded.SetInParent()
    return _encode(event, payment, at)


def of_outcome(payment: Payment, at: datetime) -> Event | None:
    """The event of the state that the payment has reached, for the second time; None if that has
    none. The provider's own reason of a decline is not kept, so it tells PAYMENT_DECLINED."""
    match payment.status:
        case Status.SUCCEEDED:
            return succeeded(payment, payment.amount, at)
        case Status.REFUNDED:
            return refunded(payment, at)
        case Status.FAILED if payment.failure_code not in _WITHOUT_EVENT:
            return failed(payment, payment.failure_code, at)
        case _:
            return None


def _encode(event: events_pb2.PaymentEvent, payment: Payment, at: datetime | None) -> Event:
    # With the time: should a restored database give an id again, that is another payment.
    tells = f"{payment.id} {payment.created_at.isoformat()} {event.WhichOneof('event')}"
    event.event_id = str(uuid.uuid5(_EVENT_IDS, tells))
    event.occurred_at.FromDatetime(at or datetime.now(UTC))
    event.payment_id = payment.id
    event.reservation_id = payment.reservation_id
    event.user_id = payment.user_id
    return Event(
        event_id=event.event_id,
        reservation_id=payment.reservation_id,
        payment_id=payment.id,
        payload=event.SerializeToString(),
    )
