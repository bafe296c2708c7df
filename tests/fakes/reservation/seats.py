"""The seat directory and the seat locks of reservation_service, in memory."""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from reservation_service.best_seats import Hall
from reservation_service.domain import Seat
from reservation_service.errors import ScheduleNotFound, SeatNotFound
from reservation_service.sale_terms import SaleTerms

SEATS_PER_SCHEDULE = 150
HALL = Hall(
    [index // 15 for index in range(SEATS_PER_SCHEDULE)],
    [index % 15 + 1 for index in range(SEATS_PER_SCHEDULE)],
    ["VIP" if index < 45 else "STANDARD" for index in range(SEATS_PER_SCHEDULE)],
    [index % 15 == 0 for index in range(SEATS_PER_SCHEDULE)],
)


TERMS = SaleTerms()


def _seat(seat_id: int) -> Seat:
    schedule, n = divmod(seat_id - 1, SEATS_PER_SCHEDULE)
    row, number = divmod(n, 15)
    return Seat(seat_id, schedule + 1, f"{'ABCDEFGHIJ'[row]}{number + 1}", Decimal("150000.00"))


@dataclass(frozen=True)
class FakeSeatMap:
    """Implements ports.SeatMap: by default rows A to J of 15 seats. Rows A to C are of the category
    "VIP", the others "STANDARD"; the first seat of each row is accessible."""

    schedule_id: int
    terms: SaleTerms = TERMS
    hall: Hall = HALL

    def ids(self) -> Sequence[int]:
        first = (self.schedule_id - 1) * SEATS_PER_SCHEDULE + 1
        return range(first, first + SEATS_PER_SCHEDULE)

    def seats_at(self, indexes: Iterable[int]) -> tuple[Seat, ...]:
        first = (self.schedule_id - 1) * SEATS_PER_SCHEDULE + 1
        return tuple(_seat(first + index) for index in sorted(indexes))

    def indexes_of(self, seat_ids: Iterable[int]) -> list[int]:
        first = (self.schedule_id - 1) * SEATS_PER_SCHEDULE + 1
        return [id - first for id in seat_ids if first <= id < first + SEATS_PER_SCHEDULE]


@dataclass
class FakeSeatDirectory:
    """Implements ports.SeatDirectory. Every seat from 1 to `last` exists, 150 per schedule,
    numbered as by the seeder; all are sold on the same terms and in the same hall."""

    last: int = 10**15
    terms: SaleTerms = TERMS
    hall: Hall = HALL

    async def seat_map(self, schedule_id: int) -> FakeSeatMap:
        if not 0 < schedule_id * SEATS_PER_SCHEDULE <= self.last:
            raise ScheduleNotFound(schedule_id)
        return FakeSeatMap(schedule_id, self.terms, self.hall)

    async def seat(self, seat_id: int) -> Seat:
        if not 0 < seat_id <= self.last:
            raise SeatNotFound(seat_id)
        return _seat(seat_id)


class FakeSeatLocks:
    """Implements ports.SeatLocks."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    @contextlib.asynccontextmanager
    async def seats(self, seat_ids: Sequence[int]) -> AsyncIterator[Collection[int]]:
        elsewhere = self.held.intersection(seat_ids)
        mine = set(seat_ids) - elsewhere
        self.held |= mine
        try:
            yield elsewhere
        finally:
            self.held -= mine


class UselessLocks:
    """Locks that exclude nobody, as after a failover of Redis or while it is unavailable."""

    @contextlib.asynccontextmanager
    async def seats(self, seat_ids: Sequence[int]) -> AsyncIterator[Collection[int]]:
        yield ()
