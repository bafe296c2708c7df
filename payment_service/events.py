"""Encodes the events that payment_service publishes.

A payment has at most one event of each kind. The event id is derived from the payment and the kind,
so an event that is published again after a restore has its first id.
"""

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from payment_service.domain import DECLINES, Event, EventKind, Payment, Status
from payment_service.errors import ReservationExpired
from protos import money
from protos.frontrow.payment.v1 import events_pb2
from servicekit.errors import Unavailable

EVENT_ID_HEADER = "event-id"

_EVENT_IDS = uuid.UUID("b0c5a7a1-6f0f-4d0e-9a35-8a1f5e7c2d94")
# A payment that its reservation has refused has no event. RESERVATION_EXPIRED is either such a
# refusal, or the failure of a payment that was refunded at the provider, which has an event.
_WITH_EVENT = DECLINES | {Unavailable.code, ReservationExpired.code}


def succeeded(payment: Payment, amount: Decimal | None, at: datetime | None = None) -> Event:
    """Encodes PaymentSucceeded. `at` is the time of the event, now by default."""
    event = events_pb2.PaymentEvent()
    assert amount is not None, "a payment that has succeeded has an amount"
    event.succeeded.amount = money.to_text(amount, payment.currency)
    event.succeeded.currency = payment.currency
    if payment.admission is not None:
        event.succeeded.admission.room = payment.admission.room
        event.succeeded.admission.place_number = payment.admission.place_number
    return _encode(event, payment, at)


def failed(payment: Payment, reason: str, at: datetime | None = None) -> Event:
    """Encodes PaymentFailed. `at` is the time of the event, now by default."""
    event = events_pb2.PaymentEvent()
    event.failed.reason = reason
    return _encode(event, payment, at)


def refunded(payment: Payment, at: datetime | None = None) -> Event:
    """Encodes PaymentRefunded. `at` is the time of the event, now by default."""
    event = events_pb2.PaymentEvent()
    event.refunded.SetInParent()
    return _encode(event, payment, at)


def of_outcome(payment: Payment, at: datetime) -> Event | None:
    """Encodes the event of a payment's current status again; None if that status has no event.
    Rows of an earlier version lack the provider's reason for a decline: it is PAYMENT_DECLINED."""
    match payment.status:
        case Status.SUCCEEDED:
            return succeeded(payment, payment.amount, at)
        case Status.REFUNDED:
            return refunded(payment, at)
        case Status.FAILED if payment.failure_code in _WITH_EVENT:
            return failed(payment, payment.decline_reason or payment.failure_code, at)
        case _:
            return None


def unsent(payment: Payment, kinds: EventKind, at: datetime) -> list[Event]:
    """Encodes those events of a finished payment again that are in `kinds`, in order. `at` is the
    time of its last change."""
    found: list[Event] = []
    if EventKind.OUTCOME in kinds:
        # Only a payment that has succeeded is refunded later.
        before = replace(payment, status=Status.SUCCEEDED) if EventKind.REFUND in kinds else payment
        if (outcome := of_outcome(before, at)) is not None:
            found.append(outcome)
    if EventKind.REFUND in kinds:
        found.append(refunded(payment, at))
    return found


def _encode(event: events_pb2.PaymentEvent, payment: Payment, at: datetime | None) -> Event:
    is_refund = event.WhichOneof("event") == "refunded"
    # Includes the time, because a restored database may give the same payment id again.
    name = f"{payment.id} {payment.created_at.isoformat()} {event.WhichOneof('event')}"
    event.event_id = str(uuid.uuid5(_EVENT_IDS, name))
    event.occurred_at.FromDatetime(at or datetime.now(UTC))
    event.payment_id = payment.id
    event.reservation_id = payment.reservation_id
    event.user_id = payment.user_id
    return Event(
        event_id=event.event_id,
        reservation_id=payment.reservation_id,
        payment_id=payment.id,
        payload=event.SerializeToString(),
        kind=EventKind.REFUND if is_refund else EventKind.OUTCOME,
        after_payment_id=payment.id if is_refund else payment.failed_payment_id,
    )
