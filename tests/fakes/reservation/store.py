"""The stores of reservation_service in one, in memory."""

from datetime import timedelta

from reservation_service.domain import Status
from tests.fakes.reservation.holds import FakeHolds
from tests.fakes.reservation.house import FakeHouse
from tests.fakes.reservation.payments import FakePayments
from tests.fakes.reservation.reservations import FakeReservations


class FakeReservationStore(FakeHolds, FakePayments, FakeReservations, FakeHouse):
    """The four stores over one state, and what tests do to it."""

    async def age(self, reservation_id: int, days: float) -> None:
        """Sets the times of a reservation back."""
        row = self.rows[reservation_id]
        past = timedelta(days=days)
        self._change(row, held_until=row.held_until - past, lapses_at=row.lapses_at - past)

    async def lapse(self, reservation_id: int) -> None:
        """Expires the hold and the payment's lease."""
        row = self.rows[reservation_id]
        past = self._now() - timedelta(milliseconds=1)
        self._change(row, held_until=min(past, row.held_until), lapses_at=past)

    async def elapse(self, seat_id: int, seconds: float) -> None:
        """Moves the times of the seat's reservations into the past, as if that time had passed."""
        shift = timedelta(seconds=seconds)
        for row in list(self.rows.values()):
            if seat_id not in [seat.id for seat in row.seats]:
                continue
            self._change(row, held_until=row.held_until - shift, lapses_at=row.lapses_at - shift)
            if row.id in self.cancelled_at:
                self.cancelled_at[row.id] -= shift

    async def lapse_hold_only(self, reservation_id: int) -> None:
        """Expires the hold; the payment's lease continues."""
        past = self._now() - timedelta(milliseconds=1)
        self._change(self.rows[reservation_id], held_until=past)

    async def age_keys(self, hours: int) -> None:
        for key, (remembered, since) in self.keys.items():
            self.keys[key] = (remembered, since - timedelta(hours=hours))

    async def stored(self, reservation_id: int) -> Status:
        """Returns the stored status."""
        return self.rows[reservation_id].stored_status
