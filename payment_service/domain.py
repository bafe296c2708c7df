"""Payments, their outcomes, and the errors that callers receive."""

import enum
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from payment_service.errors import (
    AdmissionEnded,
    AlreadyPaid,
    ChargeAmountDiffers,
    NotYours,
    PaymentDeclined,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
)
from protos import money
from servicekit.errors import (
    ServiceError,
    TimedOut,
    Unavailable,
)


class Status(enum.StrEnum):
    """INITIATED -> SUCCEEDED or FAILED; SUCCEEDED -> REFUNDED. INITIATED is unfinished."""

    INITIATED = "INITIATED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REFUNDED = "REFUNDED"


class Money(NamedTuple):
    """An amount in an ISO 4217 currency."""

    amount: Decimal
    currency: str = money.DEFAULT_CURRENCY

    def __str__(self) -> str:
        return f"{money.to_text(self.amount, self.currency)} {self.currency}"


@dataclass(frozen=True)
class Admission:
    """The place in the waiting room whose admission a successful payment ends."""

    room: str
    place_number: int


@dataclass(frozen=True)
class PayOrder:
    """A user's request to pay a reservation. An empty idempotency key means none."""

    reservation_id: int
    user_id: int
    idempotency_key: str = ""
    admission: Admission | None = None


@dataclass(frozen=True)
class Payment:
    """One attempt to pay a reservation. `amount` is set once the provider has decided, or nothing
    was to be charged."""

    id: int
    reservation_id: int
    user_id: int
    status: Status
    amount: Decimal | None
    # Why it is FAILED: PAYMENT_DECLINED, or the code of the error that prevented it. While it is
    # INITIATED: why it is being given up; nobody may charge it from then on.
    failure_code: str
    # Whether a caller has received the decline; if not, the next caller receives it.
    decline_returned: bool
    admission: Admission | None
    # The previous payment, whose failure event the reservation may not have received; 0 if none.
    failed_payment_id: int
    # How often recovery has claimed it. A driver with an older count has lost its lease and can
    # no longer record anything.
    attempts: int
    created_at: datetime
    # The price of the reservation, once it is known. A charge of any other amount is refunded.
    amount_due: Decimal | None = None
    # Of both amounts.
    currency: str = money.DEFAULT_CURRENCY
    # The provider's own reason for a decline; empty if there is none.
    decline_reason: str = ""

    @property
    def finished(self) -> bool:
        return self.status is not Status.INITIATED

    @property
    def due(self) -> Money | None:
        """The price of the reservation, once it is known."""
        return None if self.amount_due is None else Money(self.amount_due, self.currency)

    def costing(self, due: Money) -> "Payment":
        """Returns the payment with the price of its reservation."""
        return replace(self, amount_due=due.amount, currency=due.currency)

    @property
    def declined(self) -> bool:
        """Whether the provider was asked, and the user has paid nothing."""
        return self.status is Status.FAILED and self.failure_code in DECLINES


@dataclass(frozen=True)
class Attempt:
    """The payment of an order, and whether this order created it. The creator drives it."""

    payment: Payment
    created: bool


@dataclass(frozen=True)
class Outcome:
    """The final status of a payment, with its amount or its failure, and the provider's own reason
    for a decline."""

    status: Status
    amount: Decimal | None = None
    failure_code: str = ""
    decline_reason: str = ""


class EventKind(enum.IntFlag):
    """The events of a payment. Each has a flag of its own, because both may be unsent at once."""

    OUTCOME = 1
    REFUND = 2


@dataclass(frozen=True)
class Event:
    """An encoded event for Kafka. Events of one reservation stay in order."""

    event_id: str
    reservation_id: int
    payment_id: int
    payload: bytes
    kind: EventKind = EventKind.OUTCOME
    # The payment whose outcome has to be in Kafka before this event; 0 if there is none.
    after_payment_id: int = 0


class ChargeStatus(enum.StrEnum):
    """The provider's state of a charge. UNKNOWN: the provider has not received it. REFUNDED: the
    provider has returned what it charged, and will not charge this payment any more."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    REFUNDED = "REFUNDED"


@dataclass(frozen=True)
class Charge:
    """A charge at the provider. `amount` is None if the provider did not state a valid one. The
    `reason` of a decline is UPPER_SNAKE."""

    status: ChargeStatus
    amount: Money | None = None
    reason: str = ""

    def is_of(self, due: Money) -> bool:
        """Returns whether exactly `due` was charged."""
        return self.amount is not None and self.amount.amount.is_finite() and self.amount == due


# The longest pause between two recovery attempts at a payment that the provider refuses. Shorter
# than the payment lease of reservations; no `driven_until` is farther in the future.
LONGEST_REFUSED_PARK_SECONDS = 300.0

# Failures after a charge was tried. The user learns of each once before the next attempt.
DECLINES = frozenset((PaymentDeclined.code, ChargeAmountDiffers.code))

# Failures that a repeated idempotency key returns again; after any other failure the repeat starts
# a new payment.
FINAL_FAILURES = DECLINES | frozenset(
    kind.code for kind in (ReservationNotFound, NotYours, ReservationExpired)
)

_FAILURES: dict[str, tuple[type[ServiceError], str]] = {
    PaymentDeclined.code: (
        PaymentDeclined,
        "The payment provider declined the charge; the seat is still held for you.",
    ),
    ChargeAmountDiffers.code: (
        ChargeAmountDiffers,
        "The payment provider charged another amount than the price. The charge is refunded; the"
        " seat is still held for you.",
    ),
    ReservationNotFound.code: (ReservationNotFound, "There is no such reservation."),
    NotYours.code: (NotYours, "The reservation belongs to another user."),
    ReservationExpired.code: (
        ReservationExpired,
        "The reservation was cancelled, or its hold has expired.",
    ),
    AlreadyPaid.code: (AlreadyPaid, "The reservation has been paid."),
    Unavailable.code: (Unavailable, "The payment could not be started; nothing was charged."),
    PaymentInProgress.code: (
        PaymentInProgress,
        "Another payment of this reservation or of this admission is in progress; nothing was"
        " charged.",
    ),
    AdmissionEnded.code: (
        AdmissionEnded,
        "A payment has ended this admission; enter the queue again. Nothing was charged.",
    ),
}

# Errors of BeginPayment after which the payment may have begun: no answer, or a defect.
_IN_DOUBT = frozenset((Unavailable.code, TimedOut.code, ServiceError.code))


def is_rejection(error: ServiceError) -> bool:
    """Returns whether BeginPayment has refused a payment: it has certainly not begun, and the
    reservation needs no event of it. Any code counts that does not leave this in doubt."""
    return error.code not in _IN_DOUBT


def is_final_rejection(error: ServiceError) -> bool:
    """Returns whether BeginPayment would refuse the same payment again."""
    return is_rejection(error) and error.code != PaymentInProgress.code


def failure(payment: Payment) -> ServiceError:
    """Returns the error that the caller of a failed payment receives."""
    kind, detail = _FAILURES.get(payment.failure_code, _FAILURES[Unavailable.code])
    return kind(detail)
