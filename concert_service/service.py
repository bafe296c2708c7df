"""What one can ask about concerts."""

from collections.abc import Sequence
from typing import Protocol

from cachetools import TLRUCache

from concert_service.domain import (
    Concert,
    ConcertNotFound,
    Schedule,
    ScheduleNotFound,
    Seat,
    check_seats,
    from_page_token,
    page_size,
    to_page_token,
)
from servicekit.clock import seconds_to_midnight


class ConcertStore(Protocol):
    """The facts. What has a date in the past (UTC) counts as not there."""

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        """The first `limit` concerts with a larger id, by id."""

    async def has_concert(self, concert_id: int) -> bool: ...

    async def upcoming_schedules(self, concert_id: int) -> Sequence[Schedule]:
        """The schedules of a concert from today on, by date."""

    async def seats_of_upcoming(self, schedule_id: int) -> Sequence[Seat] | None:
        """The seats of a schedule in seat order; None without such a schedule."""

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        """Those of these seats that there are, in any order. At least one must be asked for."""


class ConcertService:
    """Answers from the store; seats, the bulk of it, from memory for a while."""

    def __init__(
        self, store: ConcertStore, *, cached_schedules: int = 500, cache_seconds: float = 60.0
    ) -> None:
        self._store = store
        # Entries end at midnight at the latest: a past schedule counts as not found.
        self._seats: TLRUCache[int, Sequence[Seat]] = TLRUCache(
            cached_schedules, ttu=lambda _, __, now: now + min(cache_seconds, seconds_to_midnight())
        )

    async def list_concerts(self, size: int, page_token: str) -> tuple[Sequence[Concert], str]:
        """A page of concerts and the token of the next, empty after the last."""
        limit = page_size(size)
        concerts = await self._store.concerts_after(from_page_token(page_token), limit + 1)
        if len(concerts) <= limit:
            return concerts, ""
        return concerts[:limit], to_page_token(concerts[limit - 1].id)

    async def list_schedules(self, concert_id: int) -> Sequence[Schedule]:
        """A concert's schedules from today on. Raises ConcertNotFound."""
        schedules = await self._store.upcoming_schedules(concert_id)
        if not schedules and not await self._store.has_concert(concert_id):
            raise ConcertNotFound(concert_id)
        return schedules

    async def list_seats(self, schedule_id: int) -> Sequence[Seat]:
        """Every seat of a schedule, in seat order. Raises ScheduleNotFound."""
        seats = self._seats.get(schedule_id)
        if seats is None:
            seats = await self._store.seats_of_upcoming(schedule_id)
            if seats is None:
                raise ScheduleNotFound(schedule_id)
            self._seats[schedule_id] = seats
        return seats

    async def get_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        """Those of these seats that there are, from the store itself: whoever asks is about to
        sell them. Raises InvalidRequest beyond 1,000."""
        check_seats(seat_ids)
        return await self._store.upcoming_seats(seat_ids) if seat_ids else []
