"""Seat maps by schedule and by seat, within a limit of bytes. No I/O."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seat_maps.layout import SeatLayout
from seat_maps.seat_map import SeatMap

# Measured: what a map takes with its entries here, a further run of ids, and a seat of a layout.
MAP_BYTES = 600
RUN_BYTES = 12
LAYOUT_SEAT_BYTES = 80
# Ids of one schedule with smaller gaps count as one span: a server with auto_increment_increment
# = 3 gives every third id to a schedule.
MAX_GAP = 1_000


@dataclass(slots=True)
class Lease:
    """What the maps of one response have in common: when to ask for them again, and when they are
    too old; on the clock of the caller."""

    refresh_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A map, and how old it may be."""

    seat_map: SeatMap
    lease: Lease


class SeatIndex:
    """Keeps seat maps; evicts the oldest ones above `max_bytes`. A lookup is a binary search."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # The oldest first.
        self._entries: dict[int, Entry] = {}
        # How many maps have a layout.
        self._layouts: Counter[SeatLayout] = Counter()
        self._bytes = 0
        # The first id of each span of ids of a schedule, ascending, and the schedule.
        self._starts: list[int] = []
        self._schedules: list[int] = []
        # No span was ever longer.
        self._longest = 0

    def __len__(self) -> int:
        """Returns the number of maps."""
        return len(self._entries)

    def put(self, seat_maps: Iterable[SeatMap], lease: Lease) -> None:
        """Adds maps, each in place of an older one of its schedule. Call `evict` afterwards."""
        for seat_map in seat_maps:
            old = self._entries.pop(seat_map.schedule_id, None)
            self._entries[seat_map.schedule_id] = Entry(seat_map, lease)
            if old is not None and old.seat_map == seat_map:
                continue  # nearly always
            self._weigh(seat_map, 1)
            if old is not None:
                self._weigh(old.seat_map, -1)
                self._remove_spans(old.seat_map)
            for start, length in _spans(seat_map):
                position = bisect_left(self._starts, start)
                self._starts.insert(position, start)
                self._schedules.insert(position, seat_map.schedule_id)
                self._longest = max(self._longest, length)

    def evict(self, now: float) -> None:
        """Removes maps that have expired, and the oldest ones above the limit."""
        while self._entries:
            schedule_id, entry = next(iter(self._entries.items()))
            if self._bytes <= self._max_bytes and now < entry.lease.expires_at:
                return
            self.remove([schedule_id])

    def remove(self, schedule_ids: Iterable[int]) -> None:
        """Removes the maps of these schedules, of those that have one."""
        for schedule_id in schedule_ids:
            entry = self._entries.pop(schedule_id, None)
            if entry is not None:
                self._weigh(entry.seat_map, -1)
                self._remove_spans(entry.seat_map)

    def clear(self) -> None:
        """Removes all maps."""
        self.remove(list(self._entries))

    def of_schedule(self, schedule_id: int) -> Entry | None:
        """Returns the map of a schedule, also an expired one."""
        return self._entries.get(schedule_id)

    def of_seat(self, seat_id: int) -> tuple[Entry, int] | None:
        """Returns the map that has a seat, also an expired one, and the index of the seat in it."""
        position = bisect_right(self._starts, seat_id) - 1
        # Usually the first one has it, or none.
        while position >= 0 and seat_id - self._starts[position] < self._longest:
            entry = self._entries[self._schedules[position]]
            index = entry.seat_map.index_of(seat_id)
            if index is not None:
                return entry, index
            position -= 1
        return None

    def _weigh(self, seat_map: SeatMap, sign: int) -> None:
        layout = seat_map.layout
        before = self._layouts[layout]
        self._layouts[layout] += sign
        self._bytes += sign * (MAP_BYTES + RUN_BYTES * seat_map.run_count)
        if not before or not self._layouts[layout]:
            self._bytes += sign * LAYOUT_SEAT_BYTES * len(layout)
        if not self._layouts[layout]:
            del self._layouts[layout]

    def _remove_spans(self, seat_map: SeatMap) -> None:
        for start, _ in _spans(seat_map):
            position = bisect_left(self._starts, start)
            while self._schedules[position] != seat_map.schedule_id:
                position += 1
            del self._starts[position], self._schedules[position]


def _spans(seat_map: SeatMap) -> Iterator[tuple[int, int]]:
    """Iterates over the spans of ids: the first id of each, and its length."""
    start = end = 0
    for first_id, count in sorted(seat_map.runs()):
        if end and first_id - end >= MAX_GAP:
            yield start, end - start
            end = 0
        if not end:
            start = first_id
        end = first_id + count
    if end:
        yield start, end - start
