"""A store of concerts in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from concert_service.domain import Concert, EventStatus, Schedule, ScheduleOrder, Seat, SeatPage
from concert_service.seat_map import (
    MappedSchedule,
    MapsOfConcerts,
    PackedLayout,
    PackedSeatMap,
    SaleFacts,
    pack,
)


class FakeConcertStore:
    """Implements ports.ConcertStore and ports.SeatMapStore."""

    def __init__(self) -> None:
        self.concerts: dict[int, Concert] = {}
        self.schedules: dict[int, Schedule] = {}
        self.seats: dict[int, list[Seat]] = {}
        self.seat_maps: dict[int, PackedSeatMap] = {}
        self.seat_layouts: dict[bytes, PackedLayout] = {}
        self.reads_of_layouts: list[Sequence[bytes]] = []

    async def add(self, concert: Concert, schedules: dict[Schedule, list[Seat]]) -> None:
        """A concert and its schedules, each with its seats in seat order."""
        self.concerts[concert.id] = concert
        for schedule, seats in schedules.items():
            self.schedules[schedule.id] = schedule
            self.seats[schedule.id] = seats

    async def remove(self, seat: Seat) -> None:
        """Removes a seat, as an import does."""
        seats = self.seats[seat.schedule_id]
        self.seats[seat.schedule_id] = [one for one in seats if one.id != seat.id]
        self.seat_maps.pop(seat.schedule_id, None)

    async def delete(self, schedule_id: int) -> None:
        """Deletes a schedule without seats."""
        del self.schedules[schedule_id]

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        return [
            self.concerts[id]
            for id in sorted(self.concerts)
            if id > concert_id and self._is_published(id)
        ][:limit]

    async def has_concert(self, concert_id: int) -> bool:
        return concert_id in self.concerts and self._is_published(concert_id)

    async def upcoming_schedules(
        self, concert_id: int, after: ScheduleOrder, limit: int
    ) -> Sequence[Schedule]:
        return sorted(
            (
                s
                for s in self.schedules.values()
                if s.concert_id == concert_id and self._is_for_sale(s) and s.order > after
            ),
            key=lambda schedule: schedule.order,
        )[:limit]

    async def seats_of_upcoming(
        self, schedule_id: int, position: int, limit: int
    ) -> SeatPage | None:
        schedule = self.schedules.get(schedule_id)
        if not schedule or not self._is_for_sale(schedule):
            return None
        seats = [
            self._with_currency(seat)
            for seat in self.seats[schedule_id][position : position + limit]
        ]
        return SeatPage(seats, position + limit if len(seats) == limit else 0)

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        return [
            self._with_currency(seat)
            for schedule_id, seats in self.seats.items()
            for seat in seats
            if seat.id in seat_ids and self._is_for_sale(self.schedules[schedule_id])
        ]

    async def change(self, seat: Seat) -> None:
        """Changes a seat, as the owner of the seats has to."""
        seats = self.seats[seat.schedule_id]
        self.seats[seat.schedule_id] = [seat if old.id == seat.id else old for old in seats]
        self.seat_maps.pop(seat.schedule_id, None)

    async def maps_of_concerts(
        self, schedule_ids: Sequence[int], seat_ids: Sequence[int], limit: int
    ) -> MapsOfConcerts:
        of_seats = {
            seat.schedule_id
            for seats in self.seats.values()
            for seat in seats
            if seat.id in seat_ids
        }
        wanted = {*schedule_ids, *of_seats}
        asked = [s for s in self.schedules.values() if s.id in wanted and self._is_for_sale(s)]
        concerts = {schedule.concert_id for schedule in asked}
        siblings = [
            s
            for s in self.schedules.values()
            if s.concert_id in concerts and s not in asked and self._is_for_sale(s)
        ]
        return MapsOfConcerts(
            [self._mapped(s) for s in asked], [self._mapped(s) for s in siblings[:limit]]
        )

    def _mapped(self, schedule: Schedule) -> MappedSchedule:
        concert = self.concerts[schedule.concert_id]
        facts = SaleFacts(
            concert.id, concert.room, concert.currency, schedule.sales_from, schedule.sales_until
        )
        return MappedSchedule(
            schedule.id, schedule.seat_count, facts, self.seat_maps.get(schedule.id)
        )

    async def layouts(self, digests: Sequence[bytes]) -> Sequence[PackedLayout]:
        self.reads_of_layouts.append(digests)
        return [self.seat_layouts[digest] for digest in set(digests)]

    async def make_maps(self, schedule_ids: Sequence[int]) -> Sequence[PackedSeatMap]:
        for id in schedule_ids:
            if id in self.schedules and id not in self.seat_maps:
                seats = [self._with_currency(seat) for seat in self.seats[id]]
                self.seat_maps[id], layout = pack(id, seats)
                self.seat_layouts[layout.digest] = layout
        return [self.seat_maps[id] for id in schedule_ids if id in self.seat_maps]

    def _is_published(self, concert_id: int) -> bool:
        return self.concerts[concert_id].status is EventStatus.PUBLISHED

    def _is_for_sale(self, schedule: Schedule) -> bool:
        end = schedule.listed_until or datetime.combine(
            schedule.date + timedelta(days=1), datetime.min.time(), UTC
        )
        return (
            end > datetime.now(UTC)
            and not schedule.cancelled
            and self._is_published(schedule.concert_id)
        )

    def _with_currency(self, seat: Seat) -> Seat:
        currency = self.concerts[self.schedules[seat.schedule_id].concert_id].currency
        return replace(seat, currency=currency)


def today() -> date:
    return datetime.now(UTC).date()
