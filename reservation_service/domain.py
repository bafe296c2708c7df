"""Reservations: their states, and the rules of their transitions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from protos.limits import MAX_SEATS_PER_HOLD
from protos.money import DEFAULT_CURRENCY
from reservation_service.best_seats import Wish
from reservation_service.errors import (
    AlreadyPaid,
    IdempotencyKeyReused,
    NotYours,
    PaymentInProgress,
    ReservationExpired,
    ReservationNotFound,
    SeatNotFound,
    TooManySeats,
)
from servicekit.errors import InvalidRequest, ServiceError

MAX_KEY_LENGTH = 255
MAX_SCHEDULES = 1000
MAX_ROOM_LENGTH = 64


class Status(StrEnum):
    """HELD -> PAYING -> CONFIRMED; PAYING -> HELD when a payment fails; HELD -> CANCELLED;
    HELD and PAYING -> EXPIRED when their time runs out. A payment that succeeds late takes EXPIRED
    to CONFIRMED if the seat is free."""

    HELD = "HELD"
    PAYING = "PAYING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Seat:
    """A seat, as concert_service describes it."""

    id: int
    schedule_id: int
    seat_num: str
    price: Decimal


class _OfSeats:
    """What belongs to seats of one schedule, at least one."""

    __slots__ = ()

    seats: tuple[Seat, ...]

    @property
    def schedule_id(self) -> int:
        """The schedule of all seats."""
        return self.seats[0].schedule_id

    @property
    def price(self) -> Decimal:
        """The total price of the seats."""
        return sum((seat.price for seat in self.seats), start=Decimal(0))


@dataclass(frozen=True, slots=True)
class Reservation(_OfSeats):
    """A reservation as it was stored at `read_at` of the database's clock. Times are UTC.

    It is one thing with its `seats`, which are at least one, of one schedule, in the order of
    their ids.
    """

    id: int
    user_id: int
    seats: tuple[Seat, ...]
    stored_status: Status
    held_until: datetime
    # End of the hold, or of the payment lease if that is later.
    lapses_at: datetime
    payment_id: int
    read_at: datetime
    # ISO 4217, of the prices as the user was told them.
    currency: str = DEFAULT_CURRENCY

    @property
    def status(self) -> Status:
        """The status at `read_at`: a hold that has run out is EXPIRED, whatever is stored."""
        if self.stored_status in (Status.HELD, Status.PAYING) and self.lapses_at <= self.read_at:
            return Status.EXPIRED
        return self.stored_status

    def as_first_returned(self) -> "Reservation":
        """Returns the reservation as the request that made it returned it."""
        return replace(
            self,
            stored_status=Status.HELD,
            lapses_at=self.held_until,
            payment_id=0,
            read_at=datetime.min.replace(tzinfo=UTC),
        )


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """How long a hold lasts, and for how long after a user's hold of a seat the same user gets only
    what was left of it, both in seconds; 0 turns the cool-down off.

    A user has at most `max_unpaid_seats` seats held and not paid, and at most
    `max_seats_per_schedule` seats of a schedule held or bought; 0 turns a limit off.
    """

    hold_seconds: float
    cool_down_seconds: float
    max_unpaid_seats: int = 0
    max_seats_per_schedule: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """A place in a waiting room, whose user may shop. Of its reservations at most one is PAYING or
    CONFIRMED; once one is CONFIRMED, the admission has ended."""

    room: str
    place_number: int


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for one request, scoped to the user."""

    user_id: int
    value: str


@dataclass(frozen=True, slots=True)
class SeatRequest:
    """What a request asks for, in the form in which idempotency keys compare it: one seat by its
    id, or a digest of anything else."""

    seat_id: int = 0
    digest: bytes = b""

    @classmethod
    def of_seats(cls, seat_ids: Sequence[int]) -> "SeatRequest":
        """Returns the request for seats by their ids, whose order does not matter."""
        if len(seat_ids) == 1:
            return cls(seat_id=seat_ids[0])
        return cls.described(f"seats {','.join(map(str, sorted(seat_ids)))}")

    @classmethod
    def described(cls, text: str) -> "SeatRequest":
        """Returns the request that `text` describes: equal texts are equal requests."""
        return cls(digest=hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True, slots=True)
class BestAvailable:
    """The choice of the best available seats of a schedule."""

    schedule_id: int
    wish: Wish

    @property
    def request(self) -> SeatRequest:
        """The request for these seats."""
        wish = self.wish
        # Names have no control characters, so the one before the section ends the category.
        return SeatRequest.described(
            f"best {self.schedule_id} {wish.count} {wish.accessible:d} {wish.allow_split:d}"
            f" {wish.price_category}" + (f"\n{wish.section}" if wish.section else "")
        )


@dataclass(frozen=True, slots=True)
class Hold(_OfSeats):
    """A hold that a user wants: all of `seats`, or none. They are of one schedule, each once, in
    the order of their ids. `request` is compared if there is a `key`."""

    user_id: int
    seats: tuple[Seat, ...]
    request: SeatRequest
    key: IdempotencyKey | None = None
    admission: Admission | None = None
    currency: str = DEFAULT_CURRENCY


@dataclass(frozen=True, slots=True)
class Remembered:
    """The stored result of an idempotency key: a reservation, or None if `missing_seat_id` was not
    found."""

    request: SeatRequest
    reservation: Reservation | None
    missing_seat_id: int = 0

    def result(self, request: SeatRequest) -> Reservation:
        """Returns the first result, for a repeat of the request. Raises SeatNotFound if that was
        the result, IdempotencyKeyReused for another request."""
        if request != self.request:
            raise IdempotencyKeyReused
        if self.reservation is None:
            raise SeatNotFound(self.missing_seat_id)
        return self.reservation.as_first_returned()


class TakenSeats(NamedTuple):
    """The ids of the held seats and of the sold seats of a schedule, each in order. Seats that the
    house has are sold, and so are all seats of a closed schedule."""

    held: Sequence[int]
    sold: Sequence[int]


class Availability(NamedTuple):
    """The ids of the held seats, and of the seats that are sold or the house's, each in order; of a
    `closed` schedule nobody may hold the others."""

    held: Sequence[int]
    sold: Sequence[int]
    closed: bool = False


class SeatCounts(NamedTuple):
    """How many seats of each schedule are sold, and how many the house has; schedules without any
    are left out. And the schedules that are closed, in order."""

    sold: dict[int, int]
    blocked: dict[int, int]
    closed: Sequence[int]


class PaymentOf(NamedTuple):
    """A payment and its reservation."""

    reservation_id: int
    payment_id: int


@dataclass(frozen=True, slots=True)
class PaymentStart:
    """A request to begin a payment. `failed_payment_id` is a previous payment of the user if it has
    failed, 0 if none; `admission` is the one with which the user pays, None for the reservation's
    own."""

    reservation_id: int
    user_id: int
    payment_id: int
    failed_payment_id: int = 0
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class BegunPayment:
    """Whether a payment has begun, and the reservation afterwards: None if there is none."""

    begun: bool
    reservation: Reservation | None


class PaymentOutcome(StrEnum):
    """The effect of a successful payment on its reservation."""

    CONFIRMED = "CONFIRMED"
    SEAT_LOST = "SEAT_LOST"


def check_hold_request(
    user_id: int,
    choice: Sequence[int] | BestAvailable,
    key: str,
    admission: Admission | None,
) -> None:
    """Raises InvalidRequest for ids or a count below 1, no seats, seats that are named twice, a key
    that is too long and an invalid admission."""
    if isinstance(choice, BestAvailable):
        if user_id <= 0 or choice.schedule_id <= 0 or choice.wish.count <= 0:
            raise InvalidRequest("user_id, schedule_id and count must be positive.")
    else:
        if user_id <= 0 or not choice or min(choice) <= 0:
            raise InvalidRequest("user_id and seat_id must be positive.")
        if len(set(choice)) < len(choice):
            raise InvalidRequest("A seat may be named only once.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(f"An idempotency key has at most {MAX_KEY_LENGTH} characters.")
    check_admission(admission)


def check_seat_count(count: int, limit: int) -> None:
    """Raises TooManySeats for more than `limit` seats in a reservation; 0 stands for
    MAX_SEATS_PER_HOLD."""
    limit = limit or MAX_SEATS_PER_HOLD
    if count > limit:
        raise TooManySeats(f"A reservation has at most {limit} seats.", limit)


def check_admission(admission: Admission | None) -> None:
    """Raises InvalidRequest for an admission without a place, or with too long a room."""
    if admission is not None and (
        admission.place_number <= 0 or not 0 < len(admission.room) <= MAX_ROOM_LENGTH
    ):
        raise InvalidRequest(
            f"An admission has a positive place number and a room of 1 to {MAX_ROOM_LENGTH}"
            " characters."
        )


def check_schedules(schedule_ids: Sequence[int]) -> None:
    """Raises InvalidRequest for more than MAX_SCHEDULES schedules."""
    if len(schedule_ids) > MAX_SCHEDULES:
        raise InvalidRequest(f"At most {MAX_SCHEDULES} schedules at once.")


def cancellation_error(reservation: Reservation, user_id: int) -> ServiceError | None:
    """Returns why this user cannot cancel this reservation. None if the user can, or if it is
    cancelled or expired already."""
    if reservation.user_id != user_id:
        return NotYours()
    if reservation.status == Status.PAYING:
        return PaymentInProgress(reservation.payment_id)
    if reservation.status == Status.CONFIRMED:
        return AlreadyPaid()
    return None


def begin_result(start: PaymentStart, begun: BegunPayment) -> Reservation | ServiceError | None:
    """Returns the reservation of a payment that has begun or has succeeded already, or why it
    cannot begin. None if it can by now: the reservation has changed since the attempt."""
    reservation = begun.reservation
    if reservation is None:
        return ReservationNotFound(start.reservation_id)
    if begun.begun:
        return reservation
    error = _payment_error(start, reservation)
    if error is None and reservation.stored_status == Status.CONFIRMED:
        return reservation
    return error


def _payment_error(start: PaymentStart, reservation: Reservation) -> ServiceError | None:
    """Returns why a payment cannot begin. None if it can, or if it has succeeded already."""
    if reservation.user_id != start.user_id:
        return NotYours()
    if reservation.stored_status == Status.CONFIRMED:
        return None if reservation.payment_id == start.payment_id else AlreadyPaid()
    if (
        reservation.stored_status == Status.PAYING
        and reservation.payment_id == start.failed_payment_id
        and start.failed_payment_id != start.payment_id
    ):
        # Counts as HELD: the lease of a failed payment does not extend the hold.
        return ReservationExpired() if reservation.held_until <= reservation.read_at else None
    if reservation.status in (Status.CANCELLED, Status.EXPIRED):
        return ReservationExpired()
    if reservation.status == Status.PAYING and reservation.payment_id != start.payment_id:
        return PaymentInProgress(reservation.payment_id)
    return None
