"""The ids of the seats of one schedule."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

from protos.money import DEFAULT_CURRENCY
from seat_maps.layout import SeatLayout


class SeatMap:
    """The seats of one schedule in seat order: a layout, and runs of ids that follow one another.

    Also what else decides about them: the concert and the waiting room that leads to it, when seats
    may be held (Unix time in milliseconds; 0: no such limit), and the currency of the prices.

    An index is the position of a seat in this order, from 0. Maps of the same content are equal,
    and hashable. Takes 0.5 kB with one run, and 12 bytes for each further one.
    """

    __slots__ = (
        "_by_id",
        "_first_ids",
        "_first_indexes",
        "concert_id",
        "currency",
        "layout",
        "room",
        "sales_from_ms",
        "sales_until_ms",
        "schedule_id",
    )

    def __init__(
        self,
        schedule_id: int,
        layout: SeatLayout,
        runs: Iterable[tuple[int, int]],
        *,
        concert_id: int = 0,
        room: str = "main",
        sales_from_ms: int = 0,
        sales_until_ms: int = 0,
        currency: str = DEFAULT_CURRENCY,
    ) -> None:
        """`runs` has the first id and the number of seats of each run. Raises ValueError unless
        there are as many seats as in the layout, each once."""
        self.schedule_id = schedule_id
        self.layout = layout
        self.concert_id = concert_id
        self.room = room
        self.sales_from_ms = sales_from_ms
        self.sales_until_ms = sales_until_ms
        self.currency = currency
        first_ids, counts = [], []
        for first_id, count in runs:
            first_ids.append(first_id)
            counts.append(count)
        self._first_ids = array("q", first_ids)
        self._first_indexes = array("i", [0])
        for count in counts:
            self._first_indexes.append(self._first_indexes[-1] + count)
        if self._first_indexes.pop() != len(layout) or min(counts, default=1) < 1:
            raise ValueError(f"schedule {schedule_id}: another number of seats than its layout")
        self._by_id: array[int] | None = None
        if len(first_ids) <= 1:
            return
        by_id = sorted(range(len(first_ids)), key=first_ids.__getitem__)
        for run, following in pairwise(by_id):
            if first_ids[run] + counts[run] > first_ids[following]:
                raise ValueError(f"schedule {schedule_id}: a seat that it has twice")
        # The runs by id; None if that is their order.
        if by_id != list(range(len(by_id))):
            self._by_id = array("i", by_id)

    def __len__(self) -> int:
        """Returns the number of seats."""
        return len(self.layout)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SeatMap)
            and self._facts() == other._facts()
            and self.layout == other.layout
            and self._first_ids == other._first_ids
            and self._first_indexes == other._first_indexes
        )

    def __hash__(self) -> int:
        return hash((self.schedule_id, self.layout))

    def _facts(self) -> tuple[int | str, ...]:
        return (
            self.schedule_id,
            self.concert_id,
            self.room,
            self.sales_from_ms,
            self.sales_until_ms,
            self.currency,
        )

    @property
    def run_count(self) -> int:
        """The number of runs."""
        return len(self._first_ids)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Iterates over the runs: the first id and the number of seats of each."""
        ends = self._first_indexes[1:]
        ends.append(len(self))
        # Not strict, because a schedule without seats has no run.
        for first_id, start, end in zip(self._first_ids, self._first_indexes, ends, strict=False):
            yield first_id, end - start

    def ids(self) -> "array[int]":
        """Returns the ids of all seats, in seat order."""
        ids = array("q")
        for first_id, count in self.runs():
            ids.extend(range(first_id, first_id + count))
        return ids

    def id_at(self, index: int) -> int:
        """Returns the id of the seat with this index, which is not negative. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        run = bisect_right(self._first_indexes, index) - 1
        return self._first_ids[run] + index - self._first_indexes[run]

    def index_of(self, seat_id: int) -> int | None:
        """Returns the index of a seat; None if this schedule has no such seat."""
        if self._by_id is None:
            run = bisect_right(self._first_ids, seat_id) - 1
        else:
            run = bisect_right(self._by_id, seat_id, key=self._first_ids.__getitem__) - 1
            run = self._by_id[run] if run >= 0 else -1
        if run < 0:
            return None
        index = self._first_indexes[run] + seat_id - self._first_ids[run]
        following = run + 1
        is_last = following == len(self._first_indexes)
        end = len(self) if is_last else self._first_indexes[following]
        return index if index < end else None

    def indexes_of(self, seat_ids: Iterable[int]) -> list[int]:
        """Returns the indexes of seats, in their order; leaves out those that this schedule does
        not have. With one run, takes 0.1 µs for each seat, else 1 to 2 µs."""
        if len(self._first_ids) == 1:
            first_id, end = self._first_ids[0], self._first_ids[0] + len(self)
            return [id - first_id for id in seat_ids if first_id <= id < end]
        found = map(self.index_of, seat_ids)
        return [index for index in found if index is not None]
