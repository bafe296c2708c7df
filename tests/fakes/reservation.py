"""The store, the seat directory and the seat locks of reservation_service, in memory."""

import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from reservation_service.domain import (
    Admission,
    AdmissionEnded,
    HoldTerms,
    IdempotencyKey,
    PaymentInProgress,
    PaymentOutcome,
    Remembered,
    Reservation,
    ReservationNotFound,
    Seat,
    SeatCoolsDown,
    SeatHeld,
    SeatNotFound,
    SeatSold,
    Status,
    UnknownPayment,
)

SEATS_PER_SCHEDULE = 150


class FakeReservationStore:
    """Implements ports.ReservationStore; never waits."""

    def __init__(self) -> None:
        self.rows: dict[int, Reservation] = {}
        self.keys: dict[IdempotencyKey, tuple[Remembered, datetime]] = {}
        self.sold: dict[int, int] = {}
        self.lost: set[int] = set()
        self._last_id = 0
        self.earlier: set[tuple[int, int]] = set()
        # The place of each reservation that has one.
        self.places: dict[int, Admission] = {}
        self.cancelled_at: dict[int, datetime] = {}

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
        self.rows[id] = Reservation(
            id,
            user_id,
            (seat,),
            Status.HELD,
            until,
            until,
            0,
            self._now(),
        )
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

    async def get(self, reservation_id: int) -> Reservation | None:
        row = self.rows.get(reservation_id)
        return replace(row, read_at=self._now()) if row is not None else None

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        row = await self.get(reservation_id)
        if row is not None and row.user_id == user_id and row.status == Status.HELD:
            self._cancel(row)
            return True, await self.get(reservation_id)
        return False, row

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        held = [
            row
            for id in list(self.rows)
            if (row := await self.get(id)) is not None
            and row.user_id == user_id
            and row.status == Status.HELD
            and (place := self.places.get(id)) is not None
            and place.room == admission.room
            and place.place_number <= admission.place_number
        ][:limit]
        for row in held:
            self._cancel(row)
        return len(held)

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        admission: Admission | None,
        lease_seconds: float,
    ) -> tuple[bool, Reservation | None]:
        row = await self.get(reservation_id)
        if row is None or row.user_id != user_id:
            return False, row
        held = row.held_until > row.read_at
        paying_for = row.payment_id if row.stored_status == Status.PAYING else None
        if (
            (row.stored_status == Status.HELD and held)
            or (paying_for == failed_payment_id and held)
            or (paying_for == payment_id and row.lapses_at > row.read_at)
        ):
            admission = admission or self.places.get(row.id)
            paid = self._check_unpaid(admission, row.id, failed_payment_id)
            if paid is not None and paid.status == Status.EXPIRED:
                self._change(paid, stored_status=Status.EXPIRED)
            elif paid is not None:
                await self.return_to_hold(paid.id, paid.payment_id)
            if admission is not None:
                self.places[row.id] = admission
            if paying_for == failed_payment_id:
                self.earlier.add((row.id, failed_payment_id))
            lease = row.read_at + timedelta(seconds=lease_seconds)
            self._change(
                row,
                stored_status=Status.PAYING,
                payment_id=payment_id,
                lapses_at=max(row.held_until, lease),
            )
            return True, await self.get(reservation_id)
        return False, row

    async def taken_seats(self, schedule_id: int) -> tuple[Sequence[int], Sequence[int]]:
        rows = [await self.get(id) for id in self.rows]
        of_schedule = [row for row in rows if row is not None and row.schedule_id == schedule_id]
        return (
            sorted(r.seats[0].id for r in of_schedule if r.status in (Status.HELD, Status.PAYING)),
            sorted(r.seats[0].id for r in of_schedule if r.status == Status.CONFIRMED),
        )

    async def sold_by_schedule(self, schedule_ids: Sequence[int]) -> dict[int, int]:
        return {id: self.sold[id] for id in schedule_ids if id in self.sold}

    async def confirm(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        row = self.rows.get(reservation_id)
        if row is None:
            self._check_removed(reservation_id)
            return PaymentOutcome.SEAT_LOST
        if row.stored_status == Status.CONFIRMED and row.payment_id == payment_id:
            return PaymentOutcome.CONFIRMED
        self._check_known(row, payment_id)
        live = self._live(row.seats[0].id)
        others = live is not None and live.id != row.id
        if (
            payment_id in self.lost
            or row.stored_status == Status.CONFIRMED
            or (live is not None and others and live.status != Status.EXPIRED)
            or self._is_paid(self.places.get(row.id), row.id)
        ):
            self.lost.add(payment_id)
            return PaymentOutcome.SEAT_LOST
        if live is not None and others:
            self._change(live, stored_status=Status.EXPIRED)
        if row.payment_id != payment_id:
            self.earlier.add((row.id, row.payment_id))
        self._change(row, stored_status=Status.CONFIRMED, payment_id=payment_id)
        self.sold[row.schedule_id] = self.sold.get(row.schedule_id, 0) + 1
        return PaymentOutcome.CONFIRMED

    async def return_to_hold(self, reservation_id: int, payment_id: int) -> None:
        row = self.rows.get(reservation_id)
        if row is None:
            self._check_removed(reservation_id)
            return
        self._check_known(row, payment_id)
        if row.stored_status == Status.PAYING and row.payment_id == payment_id:
            self.earlier.add((row.id, payment_id))
            lapses_at = max(row.held_until, self._now())
            self._change(row, stored_status=Status.HELD, payment_id=0, lapses_at=lapses_at)

    async def expire_lapsed(self, after_id: int, limit: int) -> tuple[int, int]:
        lapsed = [
            row
            for row in self.rows.values()
            if row.stored_status in (Status.HELD, Status.PAYING)
            and row.lapses_at <= self._now()
            and row.id > after_id
        ][:limit]
        for row in lapsed:
            self._change(row, stored_status=Status.EXPIRED)
        return len(lapsed), lapsed[-1].id if len(lapsed) == limit else 0

    async def delete_old_keys(self, older_than_hours: int, limit: int) -> int:
        before = self._now() - timedelta(hours=older_than_hours)
        old = [key for key, (_, since) in self.keys.items() if since < before][:limit]
        for key in old:
            del self.keys[key]
        return len(old)

    async def remove_ended(self, older_than_days: int, limit: int) -> int:
        before = self._now() - timedelta(days=older_than_days)
        ended = [
            row.id
            for row in self.rows.values()
            if row.stored_status in (Status.CANCELLED, Status.EXPIRED) and row.lapses_at < before
        ][:limit]
        for id in ended:
            del self.rows[id]
        self.earlier = {pair for pair in self.earlier if pair[0] not in ended}
        return len(ended)

    # What tests do to the store.

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
            if row.seats[0].id != seat_id:
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

    def _check_removed(self, reservation_id: int) -> None:
        if reservation_id > self._last_id:
            raise ReservationNotFound(reservation_id)

    def _check_known(self, row: Reservation, payment_id: int) -> None:
        if row.payment_id != payment_id and (row.id, payment_id) not in self.earlier:
            raise UnknownPayment(row.id, payment_id)

    def _cancel(self, row: Reservation) -> None:
        self._change(row, stored_status=Status.CANCELLED)
        self.cancelled_at[row.id] = self._now()

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

    def _is_paid(self, admission: Admission | None, but: int) -> bool:
        try:
            paid = self._check_unpaid(admission, but)
        except (PaymentInProgress, AdmissionEnded):
            return True
        if paid is not None:
            self._change(paid, stored_status=Status.EXPIRED)
        return False

    def _check_unpaid(
        self, admission: Admission | None, but: int, failed_payment_id: int = 0
    ) -> Reservation | None:
        """Returns the reservation of the place, other than `but`, whose payment has lapsed or
        failed. Raises for one that is being paid or paid."""
        for id, place in self.places.items():
            paid = replace(self.rows[id], read_at=self._now())
            if place != admission or id == but:
                continue
            if paid.stored_status == Status.CONFIRMED:
                raise AdmissionEnded
            if paid.stored_status == Status.PAYING:
                if paid.status == Status.PAYING and paid.payment_id != failed_payment_id:
                    raise PaymentInProgress(paid.payment_id)
                return paid
        return None

    def _live(self, seat_id: int) -> Reservation | None:
        dead = (Status.CANCELLED, Status.EXPIRED)
        live = [
            replace(row, read_at=self._now())
            for row in self.rows.values()
            if row.seats[0].id == seat_id and row.stored_status not in dead
        ]
        assert len(live) <= 1, "a seat with two live reservations"
        return live[0] if live else None

    def _change(self, row: Reservation, **values: object) -> None:
        self.rows[row.id] = replace(row, **values)  # type: ignore[arg-type]

    def _now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class FakeSeatDirectory:
    """Implements ports.SeatDirectory. Every seat from 1 to `last` exists, 150 per schedule,
    numbered as by the seeder."""

    last: int = 10**15

    async def seat(self, seat_id: int) -> Seat:
        if not 0 < seat_id <= self.last:
            raise SeatNotFound(seat_id)
        schedule, n = divmod(seat_id - 1, SEATS_PER_SCHEDULE)
        row, number = divmod(n, 15)
        return Seat(seat_id, schedule + 1, f"{'ABCDEFGHIJ'[row]}{number + 1}", Decimal("150000.00"))


class FakeSeatLocks:
    """Implements ports.SeatLocks."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}

    @contextlib.asynccontextmanager
    async def seat(self, seat_id: int, holder: str) -> AsyncIterator[str | None]:
        if seat_id in self.held:
            yield self.held[seat_id]
            return
        self.held[seat_id] = holder
        try:
            yield None
        finally:
            del self.held[seat_id]


class UselessLocks:
    """Locks that exclude nobody, as after a failover of Redis or while it is unavailable."""

    @contextlib.asynccontextmanager
    async def seat(self, seat_id: int, holder: str) -> AsyncIterator[str | None]:
        yield None
