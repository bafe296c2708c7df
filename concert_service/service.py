"""The use cases of concerts: listing concerts, schedules and seats."""

from collections.abc import Sequence

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
from concert_service.ports import ConcertStore
from servicekit.clock import seconds_to_midnight


class ConcertService:
    """Reads from the store; caches the seats of up to `cached_schedules` schedules for
    `cache_seconds`."""

    def __init__(
        self, store: ConcertStore, *, cached_schedules: int = 500, cache_seconds: float = 60.0
    ) -> None:
        self._store = store
        # Entries end at midnight at the latest: a past schedule counts as not found.
        self._seats: TLRUCache[int, Sequence[Seat]] = TLRUCache(
            cached_schedules, ttu=lambda _, __, now: now + min(cache_seconds, seconds_to_midnight())
        )

    async def list_concerts(self, size: int, page_token: str) -> tuple[Sequence[Concert], str]:
        """Lists a page of concerts. Returns them and the token of the next page, empty after the
        last. Raises InvalidRequest."""
        limit = page_size(size)
        concerts = await self._store.concerts_after(from_page_token(page_token), limit + 1)
        if len(concerts) <= limit:
            return concerts, ""
        return concerts[:limit], to_page_token(concerts[limit - 1].id)

    async def list_schedules(self, concert_id: int) -> Sequence[Schedule]:
        """Lists the upcoming schedules of a concert, by date. Raises ConcertNotFound."""
        schedules = await self._store.upcoming_schedules(concert_id)
        if not schedules and not await self._store.has_concert(concert_id):
            raise ConcertNotFound(concert_id)
        return schedules

    async def list_seats(self, schedule_id: int) -> Sequence[Seat]:
        """Lists all seats of an upcoming schedule, in seat order. Raises ScheduleNotFound."""
        seats = self._seats.get(schedule_id)
        if seats is None:
            seats = await self._store.seats_of_upcoming(schedule_id)
            if seats is None:
                raise ScheduleNotFound(schedule_id)
            self._seats[schedule_id] = seats
        return seats

    async def get_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        """Returns those of these seats that exist and whose schedule is upcoming. Bypasses the
        cache, because the caller is about to sell them. Raises InvalidRequest for more than
        1,000 ids."""
        check_seats(seat_ids)
        return await self._store.upcoming_seats(seat_ids) if seat_ids else []
