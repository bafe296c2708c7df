"""Reservations: their states, what may follow what, and the errors about them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from servicekit.errors import Conflict, Forbidden, Gone, InvalidRequest, NotFound, ServiceError

MAX_KEY_LENGTH = 255
MAX_SCHEDULES = 1000


class Status(StrEnum):
    """HELD -> PAYING -> CONFIRMED; PAYING -> HELD when a payment fails; HELD -> CANCELLED;
    HELD and PAYING -> EXPIRED when they lapse. A payment that succeeded late may still take
    EXPIRED to CONFIRMED, if the seat is free."""

    HELD = "HELD"
    PAYING = "PAYING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Seat:
    """What concert_service says about a seat."""

    id: int
    schedule_id: int
    seat_num: str
    price: Decimal


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation as it was stored at `read_at`, by the database's clock. Times are UTC."""

    id: int
    user_id: int
    seat_id: int
    schedule_id: int
    seat_num: str
    price: Decimal
    stored_status: Status
    held_until: datetime
    # End of the hold, or of the payment lease if that is later.
    lapses_at: datetime
    payment_id: int
    read_at: datetime

    @property
    def status(self) -> Status:
        """A hold that has lapsed is EXPIRED, whether anybody wrote that down or not."""
        if self.stored_status in (Status.HELD, Status.PAYING) and self.lapses_at <= self.read_at:
            return Status.EXPIRED
        return self.stored_status

    def as_first_given(self) -> "Reservation":
        """What the one who reserved it was told."""
        return replace(
            self,
            stored_status=Status.HELD,
            lapses_at=self.held_until,
            payment_id=0,
            read_at=datetime.min.replace(tzinfo=UTC),
        )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for one request; scoped to the user."""

    user_id: int
    value: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """The final answer a key got: a reservation, or that there was no such seat."""

    seat_id: int
    reservation: Reservation | None

    def answer(self, seat_id: int) -> Reservation:
        """The first answer again, for the same request. Raises IdempotencyKeyReused for another,
        SeatNotFound if that was the answer."""
        if seat_id != self.seat_id:
            raise IdempotencyKeyReused
        if self.reservation is None:
            raise SeatNotFound(seat_id)
        return self.reservation.as_first_given()


class PaymentOutcome(StrEnum):
    """What became of a reservation whose payment succeeded."""

    CONFIRMED = "CONFIRMED"
    SEAT_LOST = "SEAT_LOST"


class SeatNotFound(NotFound):
    code = "SEAT_NOT_FOUND"

    def __init__(self, seat_id: int) -> None:
        super().__init__("There is no such seat.", seat_id=seat_id)


class SeatHeld(Conflict):
    code = "SEAT_HELD"

    def __init__(self, seat_id: int) -> None:
        super().__init__("Somebody holds this seat, or is taking it now.", seat_id=seat_id)


class SeatSold(Conflict):
    code = "SEAT_SOLD"

    def __init__(self, seat_id: int) -> None:
        super().__init__("This seat is sold.", seat_id=seat_id)


class RequestInProgress(Conflict):
    code = "IN_PROGRESS"

    def __init__(self) -> None:
        super().__init__("The first request with this idempotency key is still in progress.")


class IdempotencyKeyReused(InvalidRequest):
    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("This idempotency key was used for another request.")


class ReservationNotFound(NotFound):
    code = "RESERVATION_NOT_FOUND"

    def __init__(self, reservation_id: int) -> None:
        super().__init__("There is no such reservation.", reservation_id=reservation_id)


class NotYours(Forbidden):
    code = "NOT_YOURS"

    def __init__(self) -> None:
        super().__init__("This reservation is another user's.")


class ReservationExpired(Gone):
    code = "RESERVATION_EXPIRED"

    def __init__(self) -> None:
        super().__init__("This reservation was cancelled, or its hold ran out.")


class PaymentInProgress(Conflict):
    code = "PAYMENT_IN_PROGRESS"

    def __init__(self) -> None:
        super().__init__("A payment for this reservation is under way.")


class AlreadyPaid(Conflict):
    code = "ALREADY_PAID"

    def __init__(self) -> None:
        super().__init__("This reservation is paid.")


def check_hold_request(user_id: int, seat_id: int, key: str) -> None:
    """Raises InvalidRequest for what can never be reserved."""
    if user_id <= 0 or seat_id <= 0:
        raise InvalidRequest("user_id and seat_id must be positive.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(f"An idempotency key has at most {MAX_KEY_LENGTH} characters.")


def check_schedules(schedule_ids: Sequence[int]) -> None:
    """Raises InvalidRequest for too many at once."""
    if len(schedule_ids) > MAX_SCHEDULES:
        raise InvalidRequest(f"At most {MAX_SCHEDULES} schedules at once.")


def why_not_cancelled(reservation: Reservation, user_id: int) -> ServiceError | None:
    """Why this user cannot cancel this reservation; None if he can, or if it has ended anyway."""
    if reservation.user_id != user_id:
        return NotYours()
    if reservation.status == Status.PAYING:
        return PaymentInProgress()
    if reservation.status == Status.CONFIRMED:
        return AlreadyPaid()
    return None


def why_not_payable(
    reservation: Reservation, *, user_id: int, payment_id: int, failed_payment_id: int
) -> ServiceError | None:
    """Why this payment cannot begin; None if it can, or if it has succeeded already."""
    if reservation.user_id != user_id:
        return NotYours()
    if reservation.stored_status == Status.CONFIRMED:
        return None if reservation.payment_id == payment_id else AlreadyPaid()
    if (
        reservation.stored_status == Status.PAYING
        and reservation.payment_id == failed_payment_id
        and failed_payment_id != payment_id
    ):
        # As good as HELD: the lease of a payment that failed counts no more.
        return ReservationExpired() if reservation.held_until <= reservation.read_at else None
    if reservation.status in (Status.CANCELLED, Status.EXPIRED):
        return ReservationExpired()
    if reservation.status == Status.PAYING and reservation.payment_id != payment_id:
        return PaymentInProgress()
    return None
