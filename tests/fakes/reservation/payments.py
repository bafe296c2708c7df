"""Payments of reservations, in memory."""

from datetime import timedelta

from reservation_service.domain import (
    Admission,
    PaymentOutcome,
    Reservation,
    ReservationNotFound,
    Status,
    UnknownPayment,
)
from tests.fakes.reservation.state import State


class FakePayments(State):
    """Implements ports.PaymentStore."""

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        admission: Admission | None,
        lease_seconds: float,
    ) -> tuple[bool, Reservation | None]:
        row = self._read(reservation_id)
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
            return True, self._read(reservation_id)
        return False, row

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

    def _check_removed(self, reservation_id: int) -> None:
        if reservation_id > self._last_id:
            raise ReservationNotFound(reservation_id)

    def _check_known(self, row: Reservation, payment_id: int) -> None:
        if row.payment_id != payment_id and (row.id, payment_id) not in self.earlier:
            raise UnknownPayment(row.id, payment_id)
