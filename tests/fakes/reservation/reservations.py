"""Reading, cancelling, expiring and removing reservations, in memory."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from reservation_service.domain import Admission, Availability, Reservation, SeatCounts, Status
from reservation_service.ports import LapsedHold
from tests.fakes.reservation.state import State


class FakeReservations(State):
    """Implements ports.ReservationStore."""

    async def get(self, reservation_id: int) -> Reservation | None:
        return self._read(reservation_id)

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        row = self._read(reservation_id)
        if row is not None and row.user_id == user_id and row.status == Status.HELD:
            self._cancel(row)
            return True, self._read(reservation_id)
        return False, row

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        held = [
            row
            for id in list(self.rows)
            if (row := self._read(id)) is not None
            and row.user_id == user_id
            and row.status == Status.HELD
            and (place := self.places.get(id)) is not None
            and place.room == admission.room
            and place.place_number <= admission.place_number
        ][:limit]
        for row in held:
            self._cancel(row)
        return len(held)

    async def taken_seats(self, schedule_ids: Sequence[int]) -> Sequence[Availability]:
        return [self._taken(schedule_id) for schedule_id in schedule_ids]

    def _taken(self, schedule_id: int) -> Availability:
        rows = [row for id in self.rows if (row := self._read(id)) is not None]
        of_schedule = [row for row in rows if row.schedule_id == schedule_id]
        held = [row for row in of_schedule if row.status in (Status.HELD, Status.PAYING)]
        sold = _seat_ids([row for row in of_schedule if row.status == Status.CONFIRMED])
        blocked = [id for id, schedule in self.house.items() if schedule == schedule_id]
        return Availability(_seat_ids(held), sorted([*sold, *blocked]), schedule_id in self.closed)

    async def touched_schedules(
        self, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[int] | None:
        all = {row.schedule_id for row in self.rows.values()} | self.closed
        all.update(self.house.values())
        touched = sorted(id for id in all if any(first <= id <= last for first, last in ranges))
        return touched if len(touched) <= limit else None

    async def count_seats(self, schedule_ids: Sequence[int]) -> SeatCounts:
        blocked = Counter(self.house.values())
        return SeatCounts(
            {id: self.sold[id] for id in schedule_ids if id in self.sold},
            {id: blocked[id] for id in schedule_ids if id in blocked},
            sorted(self.closed.intersection(schedule_ids)),
        )

    async def expire_lapsed(
        self, status: Status, after: LapsedHold, limit: int
    ) -> tuple[int, LapsedHold | None]:
        lapsed = sorted(
            LapsedHold(row.lapses_at.replace(tzinfo=None), row.id)
            for row in self.rows.values()
            if row.stored_status == status and row.lapses_at <= self._now()
        )
        batch = [hold for hold in lapsed if hold > after][:limit]
        for hold in batch:
            self._change(self.rows[hold.id], stored_status=Status.EXPIRED)
        return len(batch), batch[-1] if len(batch) == limit else None

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


def _seat_ids(rows: Sequence[Reservation]) -> Sequence[int]:
    return sorted(seat.id for row in rows for seat in row.seats)
