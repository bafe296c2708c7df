"""The events that payment_service publishes, encoded."""

import uuid
from datetime import UTC, datetime
from decimal import Decimal

from payment_service.domain import Event, Payment
from protos.payment.v1 import events_pb2

TOPIC = "payment.events"
EVENT_ID_HEADER = "event-id"


def succeeded(payment: Payment, amount: Decimal | None) -> Event:
    """The charge went through."""
    event = events_pb2.PaymentEvent()
    event.succeeded.amount = f"{amount:.2f}"
    if payment.admission is not None:
        event.succeeded.admission.room = payment.admission.room
        event.succeeded.admission.place_number = payment.admission.place_number
    return _encode(event, payment)


def failed(payment: Payment, reason: str) -> Event:
    """Nothing was charged, and nothing will be."""
    event = events_pb2.PaymentEvent()
    event.failed.reason = reason
    return _encode(event, payment)


def refunded(payment: Payment) -> Event:
    """The money went back."""
    event = events_pb2.PaymentEvent()
    event.refunded.SetInParent()
    return _encode(event, payment)


def _encode(event: events_pb2.PaymentEvent, payment: Payment) -> Event:
    event.event_id = str(uuid.uuid4())
    event.occurred_at.FromDatetime(datetime.now(UTC))
    event.payment_id = payment.id
    event.reservation_id = payment.reservation_id
    event.user_id = payment.user_id
    return Event(
        event_id=event.event_id,
        reservation_id=payment.reservation_id,
        payment_id=payment.id,
        payload=event.SerializeToString(),
    )
