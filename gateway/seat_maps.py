"""The seats of dates: facts, which concert_service sends packed, and the JSON that is made of them.

Dates of the same hall share one layout. The JSON of a date is formatted from it with its ids, which
takes 20 µs for 150 seats.
"""

import random
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from weakref import WeakValueDictionary

from pydantic_core import to_json

from gateway.errors import ScheduleNotFound
from protos.frontrow.concert.v1 import concert_pb2
from servicekit.batching import Batcher

# Dates that one call asks for; it brings the other dates of their concerts as well.
_MAX_BATCH = 64
# Measured: what a date takes if its ids follow one another.
_MAP_BYTES = 400

# Neither occurs inside a JSON string, where a quotation mark has a backslash before it.
_ID = b'"id":%d'
_STATUS = b'"status":"%b"'
_AVAILABLE = _STATUS % b"AVAILABLE"


class SeatLayout:
    """What many dates share: the JSON of their seats, with a place for each id."""

    __slots__ = ("__weakref__", "size", "template")

    def __init__(self, layout: concert_pb2.SeatLayout) -> None:
        ends = [
            b',"price":%b,%b}' % (to_json(category.price), _AVAILABLE)
            for category in layout.price_categories
        ]
        seats = b",".join(
            [
                b'{"id":%%d,"seatNum":%b%b'
                % (to_json(seat_num).replace(b"%", b"%%"), ends[category])
                for seat_num, category in zip(layout.seat_nums, layout.categories, strict=True)
            ]
        )
        self.template = b'{"seats":[%b]}' % seats
        self.size = len(layout.seat_nums)


@dataclass(frozen=True, slots=True)
class SeatMap:
    """The seats of one date, in seat order."""

    layout: SeatLayout
    ids: Sequence[int]

    def to_json(self, held: Collection[int] = (), sold: Collection[int] = ()) -> bytes:
        """Returns the response body: seats with these ids are HELD and SOLD, all others AVAILABLE.
        Ids of other dates are ignored."""
        template = self.layout.template
        if held or sold:
            seats = template.split(_ID)
            for status, ids in ((b"HELD", held), (b"SOLD", sold)):
                for position in self._positions(ids):
                    # The part before the first id belongs to no seat.
                    seats[position + 1] = seats[position + 1].replace(_AVAILABLE, _STATUS % status)
            template = _ID.join(seats)
        return template % tuple(self.ids)

    def _positions(self, ids: Collection[int]) -> Iterable[int]:
        if isinstance(self.ids, range):
            return [self.ids.index(seat_id) for seat_id in ids if seat_id in self.ids]
        wanted = frozenset(ids)
        return [n for n, seat_id in enumerate(self.ids) if seat_id in wanted] if wanted else []


@dataclass(slots=True)
class _Loaded:
    """The dates of one response. They expire together."""

    expires: float
    weight: int
    schedule_ids: Sequence[int]


class SeatMaps:
    """Caches the seat maps of dates for at most `ttl` seconds, or `limit()` if that is less, from
    the start of the call that brought them; those that weigh more than `max_bytes` together make
    room, the oldest first.

    `load` asks concert_service for some dates. The response also has other dates of their
    concerts. Concurrent callers share calls, and no date is asked for twice at once.
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
        self._maps: dict[int, tuple[SeatMap, _Loaded]] = {}
        self._layouts = WeakValueDictionary[bytes, SeatLayout]()
        self._loaded = deque[_Loaded]()
        self._weight = 0
        self._missing = Batcher[int, SeatMap](
            self._load_missing, budget=budget, max_batch=_MAX_BATCH
        )

    def cached(self, schedule_id: int) -> SeatMap | None:
        """Returns the seat map of a date if it need not be loaded."""
        found = self._maps.get(schedule_id)
        if found is None or found[1].expires <= time.monotonic():
            return None
        return found[0]

    async def get(self, schedule_id: int) -> SeatMap:
        """Returns the seat map of a date. Raises ScheduleNotFound, and what `load` raises."""
        return self.cached(schedule_id) or await self._missing.submit(schedule_id)

    async def _load_missing(
        self, schedule_ids: Sequence[int]
    ) -> Sequence[SeatMap | ScheduleNotFound]:
        found: dict[int, SeatMap] = {}
        missing: list[int] = []
        for schedule_id in dict.fromkeys(schedule_ids):
            # An earlier call may have brought it.
            if (known := self.cached(schedule_id)) is not None:
                found[schedule_id] = known
            else:
                missing.append(schedule_id)
        while missing:
            # At a random moment in the second half of their time, as in LoadingCache.
            lifetime = min(self._ttl * random.uniform(0.5, 1.0), self._limit())
            expires = time.monotonic() + lifetime
            response = await self._load(missing)
            loaded = self._read(response)
            self._store(loaded, expires)
            found |= loaded
            if not response.more or not loaded:
                break
            missing = [schedule_id for schedule_id in missing if schedule_id not in loaded]
        return [found.get(schedule_id) or ScheduleNotFound() for schedule_id in schedule_ids]

    def _read(self, response: concert_pb2.GetSeatMapsResponse) -> dict[int, SeatMap]:
        layouts: list[SeatLayout] = []
        for message in response.layouts:
            layout = self._layouts.get(message.digest)
            if layout is None:
                layout = self._layouts[message.digest] = SeatLayout(message)
            layouts.append(layout)
        maps: dict[int, SeatMap] = {}
        for seat_map in response.seat_maps:
            layout, ids = layouts[seat_map.layout], _ids(seat_map.runs)
            if len(ids) != layout.size:
                raise ValueError(f"schedule {seat_map.schedule_id} has {len(ids)} seat ids")
            maps[seat_map.schedule_id] = SeatMap(layout, ids)
        return maps

    def _store(self, maps: dict[int, SeatMap], expires: float) -> None:
        layouts = {seat_map.layout for seat_map in maps.values()}
        weight = sum(len(layout.template) for layout in layouts)
        weight += sum(_weight(seat_map) for seat_map in maps.values())
        loaded = _Loaded(expires, weight, list(maps))
        self._loaded.append(loaded)
        self._weight += weight
        for schedule_id, seat_map in maps.items():
            self._maps[schedule_id] = (seat_map, loaded)
        now = time.monotonic()
        while self._loaded and (self._weight > self._max_bytes or self._loaded[0].expires <= now):
            self._drop(self._loaded.popleft())

    def _drop(self, loaded: _Loaded) -> None:
        self._weight -= loaded.weight
        for schedule_id in loaded.schedule_ids:
            # It may have been loaded again since.
            if self._maps[schedule_id][1] is loaded:
                del self._maps[schedule_id]


def _ids(runs: Collection[concert_pb2.SeatMap.Run]) -> Sequence[int]:
    ranges = [range(run.first_seat_id, run.first_seat_id + run.count) for run in runs]
    return ranges[0] if len(ranges) == 1 else array("q", chain.from_iterable(ranges))


def _weight(seat_map: SeatMap) -> int:
    ids = seat_map.ids
    return _MAP_BYTES + (len(ids) * ids.itemsize if isinstance(ids, array) else 0)
