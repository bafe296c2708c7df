"""Holding seats, in memory."""

import math
from datetime import timedelta

from reservation_service.domain import (
    Admission,
    HoldTerms,
    IdempotencyKey,
    Remembered,
    Reservation,
    Seat,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    Status,
)
from tests.fakes.reservation.state import State


class FakeHolds(State):
    """Implements ports.HoldStore."""

    async def hold(
        self,
        user_id: int,
        seat: Seat,
        terms: HoldTerms,
        key: IdempotencyKey | None,
        admission: Admission | None,
    ) -> Reservation | Remembered:
        if key in self.keys and key is not None:
            return self.keys[key][0]
        live = self._live(seat.id)
        if live is not None and live.status != Status.EXPIRED:
            raise (SeatSold if live.status == Status.CONFIRMED else SeatHeld)(seat.id)
        paid = self._check_unpaid(admission, 0)
        for dead in (live, paid):
            if dead is not None:
                self._change(dead, stored_status=Status.EXPIRED)
        until = self._now() + self._length(user_id, seat.id, terms)
        self._last_id += 1
        id = self._last_id
        self.rows[id] = Reservation(id, user_id, (seat,), Status.HELD, until, until, 0, self._now())
        if admission is not None:
            self.places[id] = admission
        if key is not None:
            self.keys[key] = (Remembered(seat.id, self.rows[id]), self._now())
        return self.rows[id]

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        return self.keys[key][0] if key in self.keys else None

    async def remember_missing_seat(self, key: IdempotencyKey, seat_id: int) -> Remembered | None:
        if key in self.keys:
            return self.keys[key][0]
        self.keys[key] = (Remembered(seat_id, None), self._now())
        return None

    def _length(self, user_id: int, seat_id: int, terms: HoldTerms) -> timedelta:
        """How long this user's next hold of the seat lasts."""
        full = timedelta(seconds=terms.hold_seconds)
        mine = [r for r in self.rows.values() if (r.user_id, r.seats[0].id) == (user_id, seat_id)]
        if not mine or not terms.cool_down_seconds:
            return full
        last = mine[-1]
        ended_at = self.cancelled_at.get(last.id, last.lapses_at)
        cooling = ended_at + timedelta(seconds=terms.cool_down_seconds) - self._now()
        if cooling <= timedelta(0):
            return full
        if last.held_until <= ended_at:
            raise SeatCoolsDown(seat_id, math.ceil(cooling.total_seconds()))
        return min(full, last.held_until - ended_at)
