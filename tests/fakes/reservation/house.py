"""What the house has, and closed schedules, in memory."""

from collections.abc import Sequence
from dataclasses import replace

from reservation_service.domain import Reservation, Status
from reservation_service.errors import SeatsTaken
from reservation_service.house import MAX_LISTED
from servicekit.errors import InvalidRequest
from tests.fakes.reservation.state import State


class FakeHouse(State):
    """Implements ports.HouseStore."""

    async def block(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        live = {id: row for id in seat_ids if (row := self._live(id)) is not None}
        known = [self.house.get(id, schedule_id) for id in seat_ids]
        known += [row.schedule_id for row in live.values()]
        if set(known) - {schedule_id}:
            raise InvalidRequest("All seats must be of the schedule.")
        taken = sorted(id for id, row in live.items() if row.status != Status.EXPIRED)
        if taken:
            raise SeatsTaken(taken[:MAX_LISTED])
        for row in live.values():
            self._change(row, stored_status=Status.EXPIRED)
        new = set(seat_ids) - self.house.keys()
        self.house.update(dict.fromkeys(new, schedule_id))
        return len(new)

    async def release(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        released = [id for id in set(seat_ids) if self.house.get(id) == schedule_id]
        for id in released:
            del self.house[id]
        return len(released)

    async def close(self, schedule_ids: Sequence[int]) -> None:
        self.closed.update(schedule_ids)

    async def reopen(self, schedule_ids: Sequence[int]) -> None:
        self.closed.difference_update(schedule_ids)

    async def end_holds(self, schedule_id: int) -> int:
        held = [row for row in self._of([schedule_id]) if row.status == Status.HELD]
        for row in held:
            self._cancel(row)
        return len(held)

    async def paying(self, schedule_ids: Sequence[int], limit: int) -> Sequence[int]:
        return [row.id for row in self._of(schedule_ids) if row.status == Status.PAYING][:limit]

    async def paid(self, schedule_ids: Sequence[int]) -> int:
        return sum(row.status == Status.CONFIRMED for row in self._of(schedule_ids))

    async def buyers(
        self, schedule_id: int, after_reservation_id: int, limit: int
    ) -> Sequence[Reservation]:
        return [
            row
            for row in self._of([schedule_id])
            if row.status in (Status.PAYING, Status.CONFIRMED) and row.id > after_reservation_id
        ][:limit]

    def _of(self, schedule_ids: Sequence[int]) -> list[Reservation]:
        """The reservations of these schedules, as they are now, in the order of their ids."""
        now = self._now()
        return [
            replace(self.rows[id], read_at=now)
            for id in sorted(self.rows)
            if self.rows[id].schedule_id in schedule_ids
        ]
