"""The use cases of concerts: listing concerts, schedules and seats."""

from collections.abc import Sequence

from concert_service.domain import (
    MAX_CONCERTS_PER_PAGE,
    MAX_ROWS_PER_PAGE,
    Concert,
    Schedule,
    Seat,
    SeatPage,
    check_seats,
    from_page_token,
    from_schedules_token,
    page_size,
    to_page_token,
    to_schedules_token,
)
from concert_service.errors import ConcertNotFound, ScheduleNotFound
from concert_service.ports import ConcertStore


class ConcertService:
    """Reads from the store and caches nothing: callers do."""

    def __init__(self, store: ConcertStore) -> None:
        self._store = store

    async def list_concerts(self, size: int, page_token: str) -> tuple[Sequence[Concert], str]:
        """Lists a page of concerts. Returns them and the token of the next page, empty after the
        last. Raises InvalidRequest."""
        limit = page_size(size, MAX_CONCERTS_PER_PAGE)
        concerts = await self._store.concerts_after(from_page_token(page_token), limit + 1)
        if len(concerts) <= limit:
            return concerts, ""
        return concerts[:limit], to_page_token(concerts[limit - 1].id)

    async def list_schedules(
        self, concert_id: int, size: int, page_token: str
    ) -> tuple[Sequence[Schedule], str]:
        """Lists a page of a concert's upcoming schedules, by date; all of them if `size` is 0.
        Returns them and the token of the next page. Raises ConcertNotFound, InvalidRequest."""
        limit = page_size(size, MAX_ROWS_PER_PAGE)
        after = from_schedules_token(page_token)
        schedules = list(await self._store.upcoming_schedules(concert_id, after, limit))
        if not schedules and not page_token and not await self._store.has_concert(concert_id):
            raise ConcertNotFound(concert_id)
        full = len(schedules) == limit
        while full and not size:
            more = await self._store.upcoming_schedules(concert_id, schedules[-1].order, limit)
            schedules += more
            full = len(more) == limit
        return schedules, to_schedules_token(schedules[-1].order) if full else ""

    async def list_seats(
        self, schedule_id: int, size: int, page_token: str
    ) -> tuple[Sequence[Seat], str]:
        """Lists a page of an upcoming schedule's seats, in seat order; all of them if `size` is 0.
        Returns them and the token of the next page. Raises ScheduleNotFound, InvalidRequest."""
        limit = page_size(size, MAX_ROWS_PER_PAGE)
        page = await self._seat_page(schedule_id, from_page_token(page_token), limit)
        if size or not page.next_position:
            return page.seats, to_page_token(page.next_position) if page.next_position else ""
        seats = list(page.seats)
        while page.next_position:
            page = await self._seat_page(schedule_id, page.next_position, limit)
            seats += page.seats
        return seats, ""

    async def _seat_page(self, schedule_id: int, position: int, limit: int) -> SeatPage:
        page = await self._store.seats_of_upcoming(schedule_id, position, limit)
        if page is None:
            raise ScheduleNotFound(schedule_id)
        return page

    async def get_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        """Returns those of these seats that exist and whose schedule is upcoming. Raises
        InvalidRequest for more than 1,000 ids."""
        check_seats(seat_ids)
        return await self._store.upcoming_seats(seat_ids) if seat_ids else []
