"""What a payment is, what may become of it, and the errors a caller may be told."""

import enum
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from servicekit.errors import (
    Conflict,
    Declined,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    ServiceError,
    Unavailable,
)


class Status(enum.StrEnum):
    """INITIATED is unfinished; of the others only SUCCEEDED goes on, to REFUNDED."""

    INITIATED = "INITIATED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REFUNDED = "REFUNDED"


@dataclass(frozen=True)
class Admission:
    """The place in the waiting room that a successful payment gives up."""

    room: str
    place_number: int


@dataclass(frozen=True)
class PayOrder:
    """A user's wish to pay a reservation. An empty idempotency key is none."""

    reservation_id: int
    user_id: int
    idempotency_key: str = ""
    admission: Admission | None = None


@dataclass(frozen=True)
class Payment:
    """One attempt to pay a reservation. `amount` is known once the provider has decided."""

    id: int
    reservation_id: int
    user_id: int
    status: Status
    amount: Decimal | None
    # Why it is FAILED: PAYMENT_DECLINED, or the code of whatever stood in the way. If it is
    # still INITIATED: why it is being given up, so that nobody charges it any more.
    failure_code: str
    # Whether a caller has been told of the decline; if not, the next one is.
    outcome_told: bool
    admission: Admission | None
    # The attempt before, whose failure the reservation may not have heard of; 0 if none.
    failed_payment_id: int
    # How often recovery has taken it up. A driver with an old count has lost its lease, and may
    # record nothing any more.
    attempts: int
    created_at: datetime

    @property
    def finished(self) -> bool:
        return self.status is not Status.INITIATED

    @property
    def declined(self) -> bool:
        return self.status is Status.FAILED and self.failure_code == PaymentDeclined.code


@dataclass(frozen=True)
class Attempt:
    """The payment that answers an order, and whether it was created for it: whoever created it
    drives it."""

    payment: Payment
    created: bool


@dataclass(frozen=True)
class Outcome:
    """How a payment ends."""

    status: Status
    amount: Decimal | None = None
    failure_code: str = ""


@dataclass(frozen=True)
class Event:
    """An encoded event on its way to Kafka. Those of one reservation keep their order."""

    event_id: str
    reservation_id: int
    payment_id: int
    payload: bytes


class ChargeStatus(enum.StrEnum):
    """What the provider knows of a charge. UNKNOWN: it never heard of it. REFUNDED: whatever was
    charged went back, and nothing will be charged any more."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    REFUNDED = "REFUNDED"


@dataclass(frozen=True)
class Charge:
    """A charge as the provider sees it. `reason` of a decline is UPPER_SNAKE."""

    status: ChargeStatus
    amount: Decimal | None = None
    reason: str = ""


class PaymentNotFound(NotFound):
    code = "PAYMENT_NOT_FOUND"


class PaymentDeclined(Declined):
    code = "PAYMENT_DECLINED"


class ReservationNotFound(NotFound):
    code = "RESERVATION_NOT_FOUND"


class NotYours(Forbidden):
    code = "NOT_YOURS"


class ReservationExpired(Gone):
    code = "RESERVATION_EXPIRED"


class PaymentInProgress(Conflict):
    code = "PAYMENT_IN_PROGRESS"


class AlreadyPaid(Conflict):
    code = "ALREADY_PAID"


class IdempotencyKeyReused(InvalidRequest):
    code = "IDEMPOTENCY_KEY_REUSED"


class InProgress(Conflict):
    code = "IN_PROGRESS"


class ProviderUnavailable(Unavailable):
    """The provider answered with an error, or not at all: whether it charged is not known."""


class ProviderRefused(Exception):
    """The provider will not do this, however often it is asked: somebody has to look into it."""


# The longest pause between two looks of recovery at a payment that the provider refuses: somebody
# has to look into it. Below the reservations' payment lease; no `driven_until` is farther ahead.
LONGEST_REFUSED_PARK_SECONDS = 300.0

# Failures that a repeated idempotency key is told again; after any other it tries again.
FINAL_FAILURES = frozenset(
    kind.code for kind in (PaymentDeclined, ReservationNotFound, NotYours, ReservationExpired)
)

_FAILURES: dict[str, tuple[type[ServiceError], str]] = {
    PaymentDeclined.code: (
        PaymentDeclined,
        "The payment provider declined; the seat is still held for you.",
    ),
    ReservationNotFound.code: (ReservationNotFound, "There is no such reservation."),
    NotYours.code: (NotYours, "The reservation belongs to somebody else."),
    ReservationExpired.code: (
        ReservationExpired,
        "The reservation was cancelled, or its hold ran out.",
    ),
    AlreadyPaid.code: (AlreadyPaid, "The reservation has been paid."),
    Unavailable.code: (Unavailable, "The payment could not be started; nothing was charged."),
    # The reservation has not heard yet that the attempt before has failed: soon it will.
    PaymentInProgress.code: (
        Unavailable,
        "An earlier payment of this reservation is still being wound up; nothing was charged.",
    ),
}

# What BeginPayment may refuse for good; anything else it says may pass.
REJECTIONS = frozenset(
    kind.code for kind in (ReservationNotFound, NotYours, ReservationExpired, AlreadyPaid)
)


def failure(payment: Payment) -> ServiceError:
    """The error that a failed payment is to its caller."""
    kind, detail = _FAILURES[payment.failure_code]
    return kind(detail)
