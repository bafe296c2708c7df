"""The seats of dates: facts, which concert_service sends packed, and the JSON that is made of them.

Dates of the same hall share one layout. The JSON of a date is formatted from it with its ids, which
takes 20 µs for 150 seats.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from weakref import WeakKeyDictionary

from pydantic_core import to_json

from gateway.caching import Outdated
from gateway.errors import ScheduleNotFound
from protos import money
from protos.frontrow.concert.v1 import concert_pb2
from seat_maps.decoding import SeatMapDecoder
from seat_maps.layout import SeatLayout
from seat_maps.seat_map import SeatMap
from servicekit import logs
from servicekit.batching import Batcher
from servicekit.errors import ServiceError

log = logs.get(__name__)

# Dates that one call asks for; it brings the other dates of their concerts as well.
_MAX_BATCH = 64
# What they take in memory: a date, each run of its ids, each seat of a layout.
_MAP_BYTES = 600
_RUN_BYTES = 16
_LAYOUT_SEAT_BYTES = 80
# The pause after dates could not be read again.
_REFRESH_PAUSE_SECONDS = 1.0

# Neither occurs inside a JSON string, where a quotation mark has a backslash before it.
_ID = b'"id":%d'
_AVAILABLE = b'"status":"AVAILABLE"'
_HELD = b'"status":"HELD"'
_SOLD = b'"status":"SOLD"'


def json_format(layout: SeatLayout, currency: str) -> bytes:
    """Returns the response body for dates with this layout and no taken seats, as a format with a
    `%d` for the id of each seat. Takes 1 µs for each."""
    ends = [
        b',"price":%b,%b}' % (to_json(money.to_text(category.price, currency)), _AVAILABLE)
        for category in layout.price_categories
    ]
    seats = b",".join(
        [
            b'{"id":%%d,"seatNum":%b%b' % (to_json(seat_num).replace(b"%", b"%%"), ends[category])
            for seat_num, category in zip(layout.seat_nums, layout.categories, strict=True)
        ]
    )
    # Once: the currency of a hall of 20,000 seats would take as much as their prices.
    return b'{"seats":[%b],"currency":%b}' % (seats, to_json(currency))


@dataclass(frozen=True, slots=True)
class FormattedSeats:
    """The seats of one date, and the format of their JSON, which dates share."""

    seat_map: SeatMap
    format: bytes

    def to_json(self, held: Collection[int] = (), sold: Collection[int] = ()) -> bytes:
        """Returns the response body: seats with these ids are HELD and SOLD, all others AVAILABLE.
        Ids of other dates are ignored."""
        format = self.format
        if held or sold:
            seats = format.split(_ID)
            for taken, status in ((held, _HELD), (sold, _SOLD)):
                for index in self.seat_map.indexes_of(taken):
                    # The part before the first id belongs to no seat.
                    seats[index + 1] = seats[index + 1].replace(_AVAILABLE, status)
            format = _ID.join(seats)
        ids = (range(first, first + count) for first, count in self.seat_map.runs())
        return format % tuple(chain.from_iterable(ids))


@dataclass(slots=True)
class _Loaded:
    """The dates of one response. They expire together, and are read again before."""

    refresh_from: float
    expires: float
    # Without the layouts, which others may share.
    weight: int
    layouts: Collection[SeatLayout]
    schedule_ids: Sequence[int]
    refreshing: bool = False


class SeatMaps:
    """Caches the seat maps of dates for at most `ttl` seconds, or `limit()` if that is less, from
    the start of the call that brought them; those that weigh more than `max_bytes` together make
    room, the oldest first.

    `load` asks concert_service for some dates. The response also has other dates of their
    concerts. Concurrent callers share calls, and no date is asked for twice at once. What is used
    after half of its time is read again meanwhile, so that nobody waits.
    """

    def __init__(
        self,
        load: Callable[[Sequence[int]], Awaitable[concert_pb2.GetSeatMapsResponse]],
        *,
        ttl: float,
        max_bytes: int,
        limit: Callable[[], float],
        budget: float,
    ) -> None:
        self._load = load
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._limit = limit
        self._seats: dict[int, tuple[FormattedSeats, _Loaded]] = {}
        self._decoder = SeatMapDecoder()
        # By currency: halls of two countries may have the same seats at the same amounts.
        self._formats = WeakKeyDictionary[SeatLayout, dict[str, bytes]]()
        self._loaded = deque[_Loaded]()
        # How many of these responses share a layout, which counts once.
        self._shared = Counter[SeatLayout]()
        self._weight = 0
        self._outdated = Outdated()
        self._refreshing: set[asyncio.Task[None]] = set()
        self._missing = Batcher[int, FormattedSeats](
            self._load_missing, budget=budget, max_batch=_MAX_BATCH
        )

    def cached(self, schedule_id: int) -> FormattedSeats | None:
        """Returns the seats of a date if they need not be loaded."""
        found = self._seats.get(schedule_id)
        if found is None:
            return None
        seats, loaded = found
        now = time.monotonic()
        if now >= loaded.refresh_from:
            if now >= loaded.expires:
                return None
            if not loaded.refreshing:
                loaded.refreshing = True
                task = asyncio.create_task(self._refresh(schedule_id, loaded))
                self._refreshing.add(task)
                task.add_done_callback(self._refreshing.discard)
        return seats

    def drop(self, schedule_ids: Collection[int] | None) -> None:
        """Forgets the seats of dates that have changed; None: of all."""
        self._outdated.note(schedule_ids)
        if schedule_ids is None:
            self._seats.clear()
            return
        for schedule_id in schedule_ids:
            self._seats.pop(schedule_id, None)

    def known(self) -> Collection[int]:
        """Returns the dates that are in the cache."""
        return self._seats.keys()

    async def get(self, schedule_id: int) -> FormattedSeats:
        """Returns the seats of a date. Raises ScheduleNotFound, and what `load` raises."""
        return self.cached(schedule_id) or await self._missing.submit(schedule_id)

    async def _load_missing(
        self, schedule_ids: Sequence[int]
    ) -> Sequence[FormattedSeats | ScheduleNotFound]:
        found: dict[int, FormattedSeats] = {}
        missing: list[int] = []
        for schedule_id in dict.fromkeys(schedule_ids):
            # An earlier call may have brought it.
            if (known := self.cached(schedule_id)) is not None:
                found[schedule_id] = known
            else:
                missing.append(schedule_id)
        while missing:
            response = await self._load_some(missing, found)
            if not response.more or not response.seat_maps:
                break
            missing = [schedule_id for schedule_id in missing if schedule_id not in found]
        return [found.get(schedule_id) or ScheduleNotFound() for schedule_id in schedule_ids]

    async def _refresh(self, schedule_id: int, loaded: _Loaded) -> None:
        try:
            await self._load_some([schedule_id], {})
        except ServiceError as error:
            # Again after the pause, and at the latest when they have expired.
            log.info("seat_maps_not_refreshed", error=error.code)
        finally:
            pause_over = time.monotonic() + _REFRESH_PAUSE_SECONDS
            loaded.refresh_from = min(loaded.expires, pause_over)
            loaded.refreshing = False

    async def _load_some(
        self, schedule_ids: Sequence[int], found: dict[int, FormattedSeats]
    ) -> concert_pb2.GetSeatMapsResponse:
        """Adds what a call brings to `found` and to the cache."""
        asked = time.monotonic()
        lifetime = min(self._ttl, self._limit())
        response = await self._load(schedule_ids)
        loaded = self._read(response)
        self._store(loaded, asked, lifetime)
        found |= loaded
        return response

    def _read(self, response: concert_pb2.GetSeatMapsResponse) -> dict[int, FormattedSeats]:
        found: dict[int, FormattedSeats] = {}
        for seat_map in self._decoder.decode(response):
            formats = self._formats.setdefault(seat_map.layout, {})
            format = formats.get(seat_map.currency)
            if format is None:
                format = json_format(seat_map.layout, seat_map.currency)
                formats[seat_map.currency] = format
            found[seat_map.schedule_id] = FormattedSeats(seat_map, format)
        return found

    def _store(self, found: dict[int, FormattedSeats], asked: float, lifetime: float) -> None:
        layouts = {seats.seat_map.layout for seats in found.values()}
        weight = sum(_weight(seats.seat_map) for seats in found.values())
        # At random moments: what a crowd loaded together is not read again together.
        refresh_from = asked + lifetime * random.uniform(0.5, 0.8)
        loaded = _Loaded(refresh_from, asked + lifetime, weight, layouts, list(found))
        self._loaded.append(loaded)
        self._weight += weight
        for layout in layouts:
            if not self._shared[layout]:
                self._weight += self._layout_weight(layout)
            self._shared[layout] += 1
        for schedule_id, seats in found.items():
            if not self._outdated.since(asked, schedule_id):
                self._seats[schedule_id] = (seats, loaded)
        now = time.monotonic()
        while self._loaded and (self._weight > self._max_bytes or self._loaded[0].expires <= now):
            self._drop(self._loaded.popleft())

    def _drop(self, loaded: _Loaded) -> None:
        self._weight -= loaded.weight
        for layout in loaded.layouts:
            self._shared[layout] -= 1
            if not self._shared[layout]:
                self._weight -= self._layout_weight(layout)
                del self._shared[layout]
        for schedule_id in loaded.schedule_ids:
            # It may have been loaded again since, or dropped.
            found = self._seats.get(schedule_id)
            if found is not None and found[1] is loaded:
                del self._seats[schedule_id]

    def _layout_weight(self, layout: SeatLayout) -> int:
        return sum(map(len, self._formats[layout].values())) + _LAYOUT_SEAT_BYTES * len(layout)


def _weight(seat_map: SeatMap) -> int:
    return _MAP_BYTES + _RUN_BYTES * sum(1 for _ in seat_map.runs())
