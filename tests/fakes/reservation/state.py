"""What the fake stores of reservation_service know, and the rules that several of them apply."""

from dataclasses import replace
from datetime import UTC, datetime

from reservation_service.domain import Admission, IdempotencyKey, Remembered, Reservation, Status
from reservation_service.errors import AdmissionEnded, PaymentInProgress


class State:
    """The tables, in memory; never waits."""

    def __init__(self) -> None:
        self.rows: dict[int, Reservation] = {}
        self.keys: dict[IdempotencyKey, tuple[Remembered, datetime]] = {}
        self.sold: dict[int, int] = {}
        # What the house has: the schedule of each seat.
        self.house: dict[int, int] = {}
        self.closed: set[int] = set()
        self.lost: set[int] = set()
        self._last_id = 0
        self.earlier: set[tuple[int, int]] = set()
        # The place of each reservation that has one.
        self.places: dict[int, Admission] = {}
        self.cancelled_at: dict[int, datetime] = {}

    def _read(self, reservation_id: int) -> Reservation | None:
        row = self.rows.get(reservation_id)
        return replace(row, read_at=self._now()) if row is not None else None

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
            if row.stored_status not in dead and seat_id in [seat.id for seat in row.seats]
        ]
        assert len(live) <= 1, "a seat with two live reservations"
        return live[0] if live else None

    def _change(self, row: Reservation, **values: object) -> None:
        self.rows[row.id] = replace(row, **values)  # type: ignore[arg-type]

    def _cancel(self, row: Reservation) -> None:
        self._change(row, stored_status=Status.CANCELLED)
        self.cancelled_at[row.id] = self._now()

    def _now(self) -> datetime:
        return datetime.now(UTC)
