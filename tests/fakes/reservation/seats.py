"""The seat directory and the seat locks of reservation_service, in memory."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal

from reservation_service.domain import Seat, SeatNotFound

SEATS_PER_SCHEDULE = 150


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
