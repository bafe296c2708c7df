"""A store of concerts in memory."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

from concert_service.domain import Concert, Schedule, ScheduleOrder, Seat, SeatPage


class FakeConcertStore:
    """Implements ports.ConcertStore."""

    def __init__(self) -> None:
        self.concerts: dict[int, Concert] = {}
        self.schedules: dict[int, Schedule] = {}
        self.seats: dict[int, list[Seat]] = {}
        self.reads_of_seats = 0

    async def add(self, concert: Concert, schedules: dict[Schedule, list[Seat]]) -> None:
        """A concert and its schedules, each with its seats in seat order."""
        self.concerts[concert.id] = concert
        for schedule, seats in schedules.items():
            self.schedules[schedule.id] = schedule
            self.seats[schedule.id] = seats

    async def delete(self, schedule_id: int) -> None:
        """Deletes a schedule without seats."""
        del self.schedules[schedule_id]

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        return [self.concerts[id] for id in sorted(self.concerts) if id > concert_id][:limit]

    async def has_concert(self, concert_id: int) -> bool:
        return concert_id in self.concerts

    async def upcoming_schedules(
        self, concert_id: int, after: ScheduleOrder, limit: int
    ) -> Sequence[Schedule]:
        return sorted(
            (
                s
                for s in self.schedules.values()
                if s.concert_id == concert_id and _upcoming(s) and s.order > after
            ),
            key=lambda schedule: schedule.order,
        )[:limit]

    async def seats_of_upcoming(
        self, schedule_id: int, position: int, limit: int
    ) -> SeatPage | None:
        self.reads_of_seats += 1
        schedule = self.schedules.get(schedule_id)
        if not schedule or not _upcoming(schedule):
            return None
        seats = self.seats[schedule_id][position : position + limit]
        return SeatPage(seats, position + limit if len(seats) == limit else 0)

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        return [
            seat
            for schedule_id, seats in self.seats.items()
            for seat in seats
            if seat.id in seat_ids and _upcoming(self.schedules[schedule_id])
        ]


def _upcoming(schedule: Schedule) -> bool:
    return schedule.date >= today()


def today() -> date:
    return datetime.now(UTC).date()
