"""Holding seats, in memory."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from reservation_service.domain import (
    Hold,
    HoldTerms,
    IdempotencyKey,
    Remembered,
    Reservation,
    SeatRequest,
    Status,
)
from reservation_service.errors import (
    SalesClosed,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    TooManySeatsOfSchedule,
    TooManyUnpaidSeats,
)
from reservation_service.ports import HoldResult
from servicekit.errors import ServiceError
from tests.fakes.reservation.state import State


class FakeHolds(State):
    """Implements ports.HoldStore."""

    async def hold_group(
        self, holds: Sequence[Hold], terms: HoldTerms, *, contended: bool = False
    ) -> Sequence[HoldResult]:
        return [await self.hold_alone(hold, terms) for hold in holds]

    async def hold_alone(self, hold: Hold, terms: HoldTerms, *, patient: bool = True) -> HoldResult:
        try:
            return self._hold(hold, terms)
        except ServiceError as error:
            return error

    async def is_locked(self, hold: Hold) -> bool:
        return False

    def _hold(self, hold: Hold, terms: HoldTerms) -> Reservation | Remembered:
        if hold.key is not None and hold.key in self.keys:
            return self.keys[hold.key][0]
        if hold.schedule_id in self.closed:
            raise SalesClosed
        live = {seat.id: row for seat in hold.seats if (row := self._live(seat.id)) is not None}
        blocked = [seat.id for seat in hold.seats if seat.id in self.house]
        taken = sorted(
            [*blocked, *(id for id, row in live.items() if row.status != Status.EXPIRED)]
        )
        if blocked or any(row.status == Status.CONFIRMED for row in live.values()):
            raise SeatSold(*taken)
        if taken:
            raise SeatHeld(*taken)
        paid = self._check_unpaid(hold.admission, 0)
        length = self._length(hold, terms)
        self._check_limits(hold, terms)
        for dead in (*live.values(), paid):
            if dead is not None:
                self._change(dead, stored_status=Status.EXPIRED)
        now = self._now()
        self._last_id += 1
        made = Reservation(
            self._last_id,
            hold.user_id,
            hold.seats,
            Status.HELD,
            now + length,
            now + length,
            payment_id=0,
            read_at=now,
            currency=hold.currency,
        )
        self.rows[made.id] = made
        if hold.admission is not None:
            self.places[made.id] = hold.admission
        if hold.key is not None:
            self.keys[hold.key] = (Remembered(hold.request, made), now)
        return made

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        return self.keys[key][0] if key in self.keys else None

    async def remember_missing_seat(
        self, key: IdempotencyKey, request: SeatRequest, seat_id: int
    ) -> Remembered | None:
        if key in self.keys:
            return self.keys[key][0]
        self.keys[key] = (Remembered(request, None, seat_id), self._now())
        return None

    def _length(self, hold: Hold, terms: HoldTerms) -> timedelta:
        """How long this hold lasts."""
        length = timedelta(seconds=terms.hold_seconds)
        waits: dict[int, timedelta] = {}
        for seat in hold.seats:
            mine = [r for r in self.rows.values() if r.user_id == hold.user_id and seat in r.seats]
            if not mine or not terms.cool_down_seconds:
                continue
            last = mine[-1]
            ended_at = self.cancelled_at.get(last.id, last.lapses_at)
            cooling = ended_at + timedelta(seconds=terms.cool_down_seconds) - self._now()
            if cooling <= timedelta(0):
                continue
            if last.held_until <= ended_at:
                waits[seat.id] = cooling
            length = min(length, last.held_until - ended_at)
        if waits:
            wait = max(waits.values()).total_seconds()
            raise SeatCoolsDown(*waits, retry_after=math.ceil(wait))
        return length

    def _check_limits(self, hold: Hold, terms: HoldTerms) -> None:
        now = self._now()
        mine = [replace(r, read_at=now) for r in self.rows.values() if r.user_id == hold.user_id]
        unpaid = [row for row in mine if row.status in (Status.HELD, Status.PAYING)]
        bought = [row for row in mine if row.status == Status.CONFIRMED]
        of_schedule = [row for row in unpaid + bought if row.schedule_id == hold.schedule_id]
        if 0 < terms.max_unpaid_seats < _seats(unpaid) + len(hold.seats):
            raise TooManyUnpaidSeats(terms.max_unpaid_seats)
        if 0 < terms.max_seats_per_schedule < _seats(of_schedule) + len(hold.seats):
            raise TooManySeatsOfSchedule(terms.max_seats_per_schedule)


def _seats(rows: Sequence[Reservation]) -> int:
    return sum(len(row.seats) for row in rows)
