"""The use case of packed seats: schedules that callers ask for, and others of their concerts."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from cachetools import LRUCache, TTLCache

from concert_service.domain import check_ids
from concert_service.ports import SeatMapStore
from concert_service.seat_map import DIGEST_BYTES, MappedSchedule, PackedLayout, PackedSeatMap

# A response stays below the limit of its receivers (`seat_maps.MAX_RESPONSE_BYTES`), also with one
# layout of the greatest size.
ASKED_BYTES = 3_000_000
SIBLINGS_BYTES = 512_000
# They take 10 ms in this process and as long in the caller's, in one piece each.
MAX_SIBLINGS = 2_000
# How many seats one call packs, which takes 5 µs each: in larger pieces, other calls would wait.
SEATS_PACKED = 20_000
# 16,000 layouts of 150 seats, or 130 of a stadium with 20,000. They never change.
CACHED_LAYOUT_BYTES = 32_000_000
_LAYOUTS_AT_ONCE = 16
# Schedules that cannot be packed are not tried again for so long: they would take the place of
# others in every call.
UNPACKABLE_SECONDS = 10.0
_MAX_UNPACKABLE = 10_000


@dataclass(frozen=True, slots=True)
class SeatMaps:
    """Seat maps, those that were asked for first, and their layouts, each once.

    `more`: the response would be too large with all that were asked for, or too many had to be
    packed; a caller asks again for those that are missing.
    """

    seat_maps: Sequence[PackedSeatMap]
    layouts: Sequence[PackedLayout]
    more: bool


class SeatMapService:
    """Reads packed seats, and packs those of a schedule that nobody has asked for before. Caches
    layouts only: maps are small, and a change of seats or of a date shows at once."""

    def __init__(self, store: SeatMapStore) -> None:
        self._store = store
        self._cache: LRUCache[bytes, PackedLayout] = LRUCache(
            CACHED_LAYOUT_BYTES, getsizeof=lambda layout: len(layout.packed)
        )
        self._unpackable: TTLCache[int, bool] = TTLCache(_MAX_UNPACKABLE, UNPACKABLE_SECONDS)

    async def get_seat_maps(self, schedule_ids: Sequence[int], seat_ids: Sequence[int]) -> SeatMaps:
        """Returns the seats of these upcoming schedules and of those of these seats: at least one,
        if there is one. Adds further schedules of their concerts while the response stays below
        512 kB. Raises InvalidRequest for more than 1,000 ids."""
        check_ids(schedule_ids, seat_ids)
        if not schedule_ids and not seat_ids:
            return SeatMaps([], [], more=False)
        found = await self._store.maps_of_concerts(schedule_ids, seat_ids, MAX_SIBLINGS)
        missing = [
            schedule
            for schedule in (*found.asked, *found.siblings)
            if schedule.seat_map is None and schedule.id not in self._unpackable
        ]
        to_make = list(_to_make(missing))
        made = {m.schedule_id: m for m in await self._store.make_maps(to_make)} if to_make else {}
        self._unpackable.update((id, True) for id in to_make if id not in made)
        response = _Response()
        asked = _maps(found.asked, made)
        left = {schedule.id for schedule in missing}.difference(to_make)
        more = any(schedule.id in left for schedule in found.asked)
        more |= not await self._add(response, asked, ASKED_BYTES)
        if not more:
            await self._add(response, _maps(found.siblings, made), SIBLINGS_BYTES)
        return SeatMaps(response.maps, list(response.layouts.values()), more)

    async def _add(self, response: "_Response", maps: Iterator[PackedSeatMap], limit: int) -> bool:
        """Returns whether all of them were added."""
        while some := list(islice(maps, _LAYOUTS_AT_ONCE)):
            layouts = await self._layouts({m.layout for m in some})
            if not all(response.add(m, layouts[m.layout], limit) for m in some):
                return False
        return True

    async def _layouts(self, digests: Collection[bytes]) -> dict[bytes, PackedLayout]:
        found = {d: layout for d in digests if (layout := self._cache.get(d)) is not None}
        if missing := [digest for digest in digests if digest not in found]:
            for layout in await self._store.layouts(missing):
                found[layout.digest] = self._cache[layout.digest] = layout
        return found


class _Response:
    """Collects maps and layouts, and counts at least as many bytes as their message has."""

    def __init__(self) -> None:
        self.maps: list[PackedSeatMap] = []
        self.layouts: dict[bytes, PackedLayout] = {}
        self._bytes = 0

    def add(self, seat_map: PackedSeatMap, layout: PackedLayout, limit: int) -> bool:
        """Adds a map unless the response would exceed the limit; returns whether it did. Adds the
        first one in any case."""
        size = 67 + len(seat_map.facts.room.encode()) + 16 * len(seat_map.runs)
        if layout.digest not in self.layouts:
            size += 8 + DIGEST_BYTES + len(layout.packed)
        if self.maps and self._bytes + size > limit:
            return False
        self.layouts.setdefault(layout.digest, layout)
        self.maps.append(seat_map)
        self._bytes += size
        return True


def _to_make(schedules: Iterable[MappedSchedule]) -> Iterator[int]:
    """Yields those of the schedules without maps whose maps this call makes: the first one, and
    others as long as all together have few seats."""
    seats = 0
    for schedule in schedules:
        if seats and seats + schedule.seat_count > SEATS_PACKED:
            return
        seats += max(1, schedule.seat_count)
        yield schedule.id


def _maps(
    schedules: Sequence[MappedSchedule], made: dict[int, PackedSeatMap]
) -> Iterator[PackedSeatMap]:
    for schedule in schedules:
        seat_map = schedule.seat_map or made.get(schedule.id)
        if seat_map is not None:
            yield replace(seat_map, facts=schedule.facts)
