"""The errors of payment_service."""

from servicekit.errors import (
    Conflict,
    Declined,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    Unavailable,
)


class PaymentNotFound(NotFound):
    code = "PAYMENT_NOT_FOUND"


class PaymentDeclined(Declined):
    code = "PAYMENT_DECLINED"


class ChargeAmountDiffers(Declined):
    code = "CHARGE_AMOUNT_DIFFERS"


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


class AdmissionEnded(Gone):
    code = "TOKEN_EXPIRED"


class IdempotencyKeyReused(InvalidRequest):
    code = "IDEMPOTENCY_KEY_REUSED"


class RequestInProgress(Conflict):
    code = "IN_PROGRESS"


class ProviderUnavailable(Unavailable):
    """The provider returned an error or did not answer; it may have charged."""


class ProviderRefused(Exception):
    """The provider refuses a request for good; an operator has to investigate."""
