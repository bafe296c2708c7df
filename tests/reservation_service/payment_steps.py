"""Reservations of several seats, and the start of their payments."""

from collections.abc import Sequence

from reservation_service.domain import Admission, PaymentStart, Reservation
from reservation_service.service import ReservationService
from tests.reservation_service.conftest import ids, new_seats


async def hold(
    service: ReservationService,
    seats: Sequence[int],
    *,
    user: int = 0,
    admission: Admission | None = None,
) -> Reservation:
    """A user, a new one by default, holds the seats."""
    return await service.hold_seats(user or next(ids), seats, "", admission)


async def hold_sets(service: ReservationService, count: int) -> list[Reservation]:
    """So many users hold 1 to 4 seats each."""
    return [await hold(service, new_seats(1 + n % 4)) for n in range(count)]


def start(held: Reservation, payment: int = 0, **changes: int | Admission | None) -> PaymentStart:
    values = {"user_id": held.user_id, "payment_id": payment or next(ids), **changes}
    return PaymentStart(held.id, **values)  # type: ignore[arg-type]


async def paying_sets(service: ReservationService, count: int) -> list[Reservation]:
    begun = await service.begin_payments([start(h) for h in await hold_sets(service, count)])
    return [one for one in begun if isinstance(one, Reservation)]


def pairs(paying: Sequence[Reservation]) -> list[tuple[int, int]]:
    return [(each.id, each.payment_id) for each in paying]


def seat_ids(reservation: Reservation) -> list[int]:
    return [seat.id for seat in reservation.seats]
