"""Payments of reservations, in memory."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from reservation_service.domain import (
    BegunPayment,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
    Reservation,
    Status,
)
from reservation_service.errors import ReservationNotFound, UnknownPayment
from servicekit.errors import ServiceError
from tests.fakes.reservation.state import State

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class FakePayments(State):
    """Implements ports.PaymentStore."""

    async def begin_group(
        self, starts: Sequence[PaymentStart], lease_seconds: float
    ) -> Sequence[BegunPayment | None]:
        begun = await each(starts, lambda start: self.begin_alone(start, lease_seconds))
        return [None if isinstance(one, Exception) else one for one in begun]

    async def confirm(self, payments: Sequence[PaymentOf]) -> Sequence[PaymentOutcome | Exception]:
        return await each(payments, self._confirm)

    async def return_to_hold(self, payments: Sequence[PaymentOf]) -> Sequence[Exception | None]:
        return await each(payments, self._return_to_hold)

    async def begin_alone(self, start: PaymentStart, lease_seconds: float) -> BegunPayment:
        row = self._read(start.reservation_id)
        if row is None or row.user_id != start.user_id:
            return BegunPayment(False, row)
        held = row.held_until > row.read_at
        paying_for = row.payment_id if row.stored_status == Status.PAYING else None
        if not (
            (row.stored_status == Status.HELD and held)
            or (
                paying_for == start.failed_payment_id
                and held
                and row.schedule_id not in self.closed
            )
            or (paying_for == start.payment_id and row.lapses_at > row.read_at)
        ):
            return BegunPayment(False, row)
        admission = start.admission or self.places.get(row.id)
        paid = self._check_unpaid(admission, row.id, start.failed_payment_id)
        if paid is not None and paid.status == Status.EXPIRED:
            self._change(paid, stored_status=Status.EXPIRED)
        elif paid is not None:
            await self._return_to_hold(PaymentOf(paid.id, paid.payment_id))
        if admission is not None:
            self.places[row.id] = admission
        if paying_for == start.failed_payment_id:
            self.earlier.add((row.id, start.failed_payment_id))
        self._change(
            row,
            stored_status=Status.PAYING,
            payment_id=start.payment_id,
            lapses_at=max(row.held_until, row.read_at + timedelta(seconds=lease_seconds)),
        )
        return BegunPayment(True, self._read(row.id))

    async def _confirm(self, payment: PaymentOf) -> PaymentOutcome:
        reservation_id, payment_id = payment
        row = self.rows.get(reservation_id)
        if row is None:
            self._check_removed(reservation_id)
            return PaymentOutcome.SEAT_LOST
        if row.stored_status == Status.CONFIRMED and row.payment_id == payment_id:
            return PaymentOutcome.CONFIRMED
        self._check_known(row, payment_id)
        is_current = row.stored_status == Status.PAYING and row.payment_id == payment_id
        rivals = [
            live
            for seat in row.seats
            if (live := self._live(seat.id)) is not None and live.id != row.id
        ]
        if (
            payment_id in self.lost
            or row.stored_status == Status.CONFIRMED
            or any(rival.status != Status.EXPIRED for rival in rivals)
            or any(seat.id in self.house for seat in row.seats)
            or (row.schedule_id in self.closed and not is_current)
            or self._is_paid(self.places.get(row.id), row.id)
        ):
            self.lost.add(payment_id)
            return PaymentOutcome.SEAT_LOST
        for rival in rivals:
            self._change(rival, stored_status=Status.EXPIRED)
        if row.payment_id != payment_id:
            self.earlier.add((row.id, row.payment_id))
        self._change(row, stored_status=Status.CONFIRMED, payment_id=payment_id)
        self.sold[row.schedule_id] = self.sold.get(row.schedule_id, 0) + len(row.seats)
        return PaymentOutcome.CONFIRMED

    async def _return_to_hold(self, payment: PaymentOf) -> None:
        reservation_id, payment_id = payment
        row = self.rows.get(reservation_id)
        if row is None:
            self._check_removed(reservation_id)
            return
        self._check_known(row, payment_id)
        if row.stored_status == Status.PAYING and row.payment_id == payment_id:
            self.earlier.add((row.id, payment_id))
            now = self._now()
            ends_at = min(row.held_until, now) if row.schedule_id in self.closed else row.held_until
            self._change(
                row,
                stored_status=Status.HELD,
                payment_id=0,
                held_until=ends_at,
                lapses_at=max(ends_at, now),
            )

    def _check_removed(self, reservation_id: int) -> None:
        if reservation_id > self._last_id:
            raise ReservationNotFound(reservation_id)

    def _check_known(self, row: Reservation, payment_id: int) -> None:
        if row.payment_id != payment_id and (row.id, payment_id) not in self.earlier:
            raise UnknownPayment(row.id, payment_id)


async def each(
    items: Sequence[Item], call: Callable[[Item], Awaitable[Answer]]
) -> Sequence[Answer | Exception]:
    """Calls one after the other; returns the result or the refusal of each."""
    results: list[Answer | Exception] = []
    for item in items:
        try:
            results.append(await call(item))
        except ServiceError as error:
            results.append(error)
    return results
