"""How many seats are left behind each room that people poll."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.caching import LoadingCache
from gateway.catalogue import Catalogue, Changed
from gateway.errors import ConcertNotFound
from gateway.room.notice import Notice
from gateway.room.room import Room
from gateway.rooms import Rooms
from gateway.schedule_dates import Date
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit import logs
from servicekit.errors import is_transient
from servicekit.retries import Outage
from servicekit.rpc_errors import RemoteError

log = logs.get(__name__)

# An answer may be two seconds old; a call takes some milliseconds, and at most so many seconds.
_PAUSE_SECONDS = 1.2
CALL_SECONDS = 0.7
"""Deadline of a count: a later one would be too old."""
# The longest pause between two polls of one place is 60 s by default. A room without a poll in this
# time is not counted.
_POLLED_SECONDS = 65.0
# A room behind which there is more, such as `main` in front of a whole catalogue, gets no number:
# to count it would cost more than all its polls.
_MAX_CONCERTS = 100
_DATES_PER_COUNT = 1_000
_ENTRY_BYTES = 500
_DATE_BYTES = 100
_CACHE_BYTES = 2_000_000


@dataclass(slots=True)
class _Sum:
    """Of the dates of one room that are on sale."""

    notice: Notice
    dates: dict[int, int]
    left: int = 0
    for_sale: int = 0


@dataclass(slots=True)
class _Call:
    """Dates that one call counts, of one room or several."""

    sums: list[_Sum] = field(default_factory=list)
    size: int = 0


class SeatsLeft:
    """Counts the seats of all rooms that were polled lately, every 1.2 s; nothing while nobody
    polls. `list_dates` reads the upcoming dates of a concert, `count` the sold seats of dates.

    A poll never waits for it. Seats that are held count as left; those that the house has, and
    those of dates that are closed, over or no longer for sale, do not count at all. `run` it in the
    background.
    """

    def __init__(
        self,
        rooms: Rooms,
        catalogue: Catalogue,
        list_dates: Callable[[int], Awaitable[Sequence[Date]]],
        count: Callable[[Sequence[int]], Awaitable[reservation_pb2.CountSoldSeatsResponse]],
        *,
        facts_ttl: float,
    ) -> None:
        self._rooms = rooms
        self._catalogue = catalogue
        self._list_dates = list_dates
        self._count = count
        self._wanted = asyncio.Event()
        self._dates = LoadingCache[int, Sequence[Date]](
            facts_ttl,
            _CACHE_BYTES,
            lambda: facts_ttl,
            lambda dates: _ENTRY_BYTES + _DATE_BYTES * len(dates),
        )
        self._outage = Outage(log, "seats_left_unavailable", "seats_left_available")
        rooms.on_polled = self._wanted.set
        catalogue.on_change(self._drop)

    async def run(self) -> None:
        """Counts until cancelled."""
        while True:
            self._wanted.clear()
            rooms = [room for room in self._rooms if _is_polled(room)]
            if not rooms:
                await self._wanted.wait()
                continue
            try:
                await self._count_all(rooms)
            except Exception as error:
                if not is_transient(error):
                    raise
                self._outage.failed(error)
            else:
                self._outage.succeeded()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _drop(self, changed: Changed) -> None:
        if changed.concert_ids is None:
            self._dates.clear()
            return
        for concert_id in changed.concert_ids:
            self._dates.drop(concert_id)

    async def _count_all(self, rooms: Sequence[Room]) -> None:
        sums = [each for room in rooms if (each := await self._dates_of(room)) is not None]
        await asyncio.gather(*map(self._count_some, _calls(sums)))

    async def _dates_of(self, room: Room) -> _Sum | None:
        """Returns the dates that are on sale behind a room; None if they are too many, or none."""
        concerts = self._catalogue.concerts_of(room.name)
        scheduled = sum(len(concert.schedule_ids) for concert in concerts.values())
        if not 0 < len(concerts) <= _MAX_CONCERTS or not scheduled:
            return None
        now_ms = time.time() * 1000
        dates: dict[int, int] = {}
        for concert_id in concerts:
            try:
                listed = await self._dates.get(concert_id, self._loader(concert_id))
            except RemoteError as error:
                if error.code != ConcertNotFound.code:
                    raise
                continue  # it is off sale since
            for date in listed:
                if not 0 < date.sales_until_ms <= now_ms:
                    dates[date.id] = date.seat_count
            if len(dates) > _DATES_PER_COUNT:
                return None
        return _Sum(room.notice, dates) if dates else None

    def _loader(self, concert_id: int) -> Callable[[], Awaitable[Sequence[Date]]]:
        return lambda: self._list_dates(concert_id)

    async def _count_some(self, some: _Call) -> None:
        asked = time.monotonic()
        counted = await self._count([id for each in some.sums for id in each.dates])
        sold, blocked = dict(counted.sold_by_schedule), dict(counted.blocked_by_schedule)
        closed = frozenset(counted.closed_schedules)
        for each in some.sums:
            for id, seats in each.dates.items():
                if id not in closed:
                    for_sale = seats - blocked.get(id, 0)
                    each.for_sale += for_sale
                    each.left += max(0, for_sale - sold.get(id, 0))
            each.notice.count(each.left, each.for_sale, asked)


def _is_polled(room: Room) -> bool:
    return time.monotonic() < room.notice.wanted_at + _POLLED_SECONDS


def _calls(sums: Sequence[_Sum]) -> Iterator[_Call]:
    """Yields calls for all dates, each within the limit of reservation_service."""
    some = _Call()
    for each in sums:
        if some.sums and some.size + len(each.dates) > _DATES_PER_COUNT:
            yield some
            some = _Call()
        some.sums.append(each)
        some.size += len(each.dates)
    if some.sums:
        yield some
