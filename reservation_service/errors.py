"""The errors of reservation_service."""

from collections.abc import Sequence

from servicekit.errors import (
    Conflict,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
)


class SeatNotFound(NotFound):
    code = "SEAT_NOT_FOUND"

    def __init__(self, seat_id: int) -> None:
        super().__init__("There is no such seat.", seat_id=seat_id, conflicts=seat_id)
        self.seat_id = seat_id


class SeatHeld(Conflict):
    """Some of the seats are held, none of them is sold."""

    code = "SEAT_HELD"

    def __init__(self, *seat_ids: int) -> None:
        """`seat_ids` are the seats that are held."""
        super().__init__(
            "A seat is held, or another request is taking it now.", conflicts=_listed(seat_ids)
        )
        self.seat_ids = seat_ids


class SeatCoolsDown(Conflict):
    """The user has held these seats for the whole time of a hold, and may hold them again in
    `retry_after` seconds. Others may take them at once."""

    code = SeatHeld.code

    def __init__(self, *seat_ids: int, retry_after: int) -> None:
        wait = "1 second" if retry_after == 1 else f"{retry_after} seconds"
        seats, them = ("this seat", "it") if len(seat_ids) == 1 else ("some of these seats", "them")
        super().__init__(
            f"You held {seats} before; you may hold {them} again in {wait}.",
            conflicts=_listed(seat_ids),
            retry_after=retry_after,
        )
        self.seat_ids = seat_ids


class SeatSold(Conflict):
    """Some of the seats are sold; others may be held."""

    code = "SEAT_SOLD"

    def __init__(self, *seat_ids: int) -> None:
        """`seat_ids` are the seats that are held or sold."""
        super().__init__("A seat is sold.", conflicts=_listed(seat_ids))
        self.seat_ids = seat_ids


class TooManySeats(Conflict):
    """More seats than a reservation, or a user, may have."""

    code = "TOO_MANY_SEATS"

    def __init__(self, detail: str, limit: int) -> None:
        super().__init__(detail, limit=limit)


class TooManyUnpaidSeats(TooManySeats):
    """The user would hold more seats, without having paid for them, than anybody may."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"At most {limit} seats may be held at a time.", limit)


class TooManySeatsOfSchedule(TooManySeats):
    """The user would have more seats of a schedule, held or bought, than anybody may."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"At most {limit} seats of a schedule for each person.", limit)


class NotEnoughSeats(Conflict):
    code = "NOT_ENOUGH_SEATS"

    def __init__(self) -> None:
        super().__init__("There are not so many adjacent seats that fit the request.")


class SingleSeatLeft(Conflict):
    code = "SINGLE_SEAT_LEFT"

    def __init__(self, *seat_ids: int) -> None:
        """`seat_ids` are the seats that would be left alone."""
        super().__init__("This choice leaves a single seat free.", conflicts=_listed(seat_ids))


class SalesClosed(Conflict):
    """The schedule is closed, or its sales have not begun or are over."""

    code = "SALES_CLOSED"

    def __init__(self, detail: str = "The sale of this date is closed.") -> None:
        super().__init__(detail)


class WrongRoom(Forbidden):
    code = "WRONG_ROOM"

    def __init__(self, room: str) -> None:
        """`room` is the one that leads to the concert."""
        super().__init__("This admission is for the concerts of another waiting room.", room=room)


class SeatsTaken(Conflict):
    """The house cannot have these seats: they are held or sold."""

    code = "SEATS_TAKEN"

    def __init__(self, seat_ids: Sequence[int]) -> None:
        """`seat_ids` are at least one, and as many as an answer may name at most."""
        super().__init__("Some of the seats are held or sold.", seats=_listed(seat_ids))
        self.seat_ids = seat_ids


class ScheduleNotFound(NotFound):
    code = "SCHEDULE_NOT_FOUND"

    def __init__(self, schedule_id: int) -> None:
        super().__init__("There is no such schedule.", schedule_id=schedule_id)


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


class UnknownPayment(NotFound):
    """This payment never began for this reservation."""

    code = "PAYMENT_NOT_FOUND"

    def __init__(self, reservation_id: int, payment_id: int) -> None:
        super().__init__(
            "This payment never began for this reservation.",
            reservation_id=reservation_id,
            payment_id=payment_id,
        )


class NotYours(Forbidden):
    code = "NOT_YOURS"

    def __init__(self) -> None:
        super().__init__("This reservation belongs to another user.")


class ReservationExpired(Gone):
    code = "RESERVATION_EXPIRED"

    def __init__(self) -> None:
        super().__init__("This reservation was cancelled, or its hold has expired.")


class PaymentInProgress(Conflict):
    code = "PAYMENT_IN_PROGRESS"

    def __init__(self, payment_id: int = 0) -> None:
        """`payment_id` is the payment that is in progress, 0 if that is not known."""
        super().__init__(
            "A payment of this reservation or of this admission is in progress.",
            payment_id=payment_id,
        )


class AdmissionEnded(Gone):
    code = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("A payment has ended this admission; enter the queue again.")


class AlreadyPaid(Conflict):
    code = "ALREADY_PAID"

    def __init__(self) -> None:
        super().__init__("This reservation has been paid.")


def _listed(seat_ids: Sequence[int]) -> str:
    return ",".join(map(str, seat_ids))
