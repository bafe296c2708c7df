"""Finds the best available seats of a hall, and the single seats that a choice would leave. No I/O.

A set of seats is an integer with a bit for each seat. Neighbours have neighbouring bits; between
seats that are not adjacent is a bit that no seat has. So a search among 20,000 seats is a few dozen
operations on integers of 3 kB. See docs/adr/0047-best-available.md.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

# A set of seats of one hall.
Seats = int

# How many divisions, and places for their parts, a search for a split tries before it accepts more
# single seats: about 4 ms among 20,000 seats. Up to 8 seats needed fewer than 50 in 4,500 random
# halls.
MAX_TRIALS = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """Which seats somebody wants.

    `price_category` and `section` are names, "" for any. `accessible` wants only accessible seats.
    `allow_split` accepts several rows if no row has `count` adjacent seats.
    """

    count: int
    price_category: str = ""
    accessible: bool = False
    allow_split: bool = False
    section: str = ""


class _Leaves(IntEnum):
    """What a choice may leave beside it. A single seat at the end of a row, or at an aisle, has no
    neighbour on one side; one between taken seats has two."""

    NO_SINGLE_SEAT = 0
    SINGLE_SEATS_AT_ENDS = 1
    ANY = 2


@dataclass(frozen=True, slots=True)
class _Row:
    """The places of a row, and for each its bit, counted from `first_bit`; both ascend."""

    first_bit: int
    places: list[int]
    bits: list[int]


class Hall:
    """The seats of a layout, prepared for searches; about 0.3 kB for each seat.

    The arguments have an element for each seat, in seat order: the index of its row (0 is the best
    row), its place in the row, the name of its price category, and whether it is accessible. Seats
    of one row whose places follow one another are adjacent. `sections` has the name of each row's
    section. The rows whose indexes are in `general` have no seats but places that are assigned in
    any order (general admission); each of their sections is an area.
    """

    def __init__(
        self,
        rows: Sequence[int],
        places: Sequence[int],
        categories: Sequence[str],
        accessible: Sequence[bool],
        sections: Sequence[str] = (),
        general: Collection[int] = (),
    ) -> None:
        seats = range(len(rows))
        self._bit_of = [0] * len(rows)
        self._seat_at: dict[int, int] = {}
        self._rows: list[_Row] = []
        row, place, bit = -1, -1, -1
        for seat in sorted(seats, key=lambda seat: (rows[seat], places[seat])):
            bit += 1 if rows[seat] == row and places[seat] == place + 1 else 2
            if rows[seat] != row:
                self._rows.append(_Row(bit, [], []))
            row, place = rows[seat], places[seat]
            self._rows[-1].places.append(place)
            self._rows[-1].bits.append(bit - self._rows[-1].first_bit)
            self._bit_of[seat] = bit
            self._seat_at[bit] = seat
        self._last_bit = max(bit, 0)
        self._first_bits = [row.first_bit for row in self._rows]
        self._all = self.seats(seats)
        self._of_category = {
            name: self.seats([seat for seat in seats if categories[seat] == name])
            for name in set(categories)
        }
        self._accessible = self.seats([seat for seat in seats if accessible[seat]])
        self._of_section = {
            name: self.seats([seat for seat in seats if sections[rows[seat]] == name])
            for name in dict.fromkeys(sections)
        }
        self._general = self.seats([seat for seat in seats if rows[seat] in general])
        # The area with the best row first.
        self._areas = sorted(
            filter(None, (seats & self._general for seats in self._of_section.values())),
            key=_lowest,
        )

    def seats(self, indexes: Sequence[int]) -> Seats:
        """Returns the set of the seats with these indexes in seat order."""
        # 20,000 seats take 1 ms; as many shifts would take 10.
        digits = bytearray(b"0" * (self._last_bit + 1))
        for index in indexes:
            digits[self._last_bit - self._bit_of[index]] = ord("1")
        return int(digits, 2)

    def indexes(self, seats: Seats) -> list[int]:
        """Returns the indexes of a set's seats: the best row first, in the order of the places."""
        return [self._seat_at[bit] for bit in _bits(seats)]

    def best(self, taken: Seats, wish: Wish, unwanted: Seats = 0) -> Seats | None:
        """Returns the best seats that are neither taken nor unwanted, or None if there are not so
        many. Others may still take unwanted seats.

        They are adjacent seats of one row. A choice that leaves no single free seat comes before
        one that leaves a single seat at the end of a row or at an aisle, and that before one that
        leaves a single seat between taken ones. Then the best row comes first, then the choice
        nearest to the centre of the row, then the lowest place.

        If there are none and the wish allows a split, the parts are as few as possible. Then
        single seats count, as above; then the longest part is as long as possible, then the next;
        then the longest part gets the best place, then the next. After MAX_TRIALS it accepts more
        single seats.

        Places of general admission need not be adjacent and are never single: the first free ones
        of an area count as a choice of its row that leaves no single seat. They are no part of a
        split.

        Takes about 10 µs for 150 seats and 30 µs for 20,000, a split several times that.
        """
        free = self._all & ~taken
        suitable = free & ~unwanted
        if wish.price_category:
            suitable &= self._of_category.get(wish.price_category, 0)
        if wish.accessible:
            suitable &= self._accessible
        if wish.section:
            suitable &= self._of_section.get(wish.section, 0)
        places = self._first_of_an_area(suitable, wish.count)
        suitable &= ~self._general
        starts = _starts(suitable, wish.count)
        if starts:
            for leaves in _Leaves:
                if allowed := self._leaving(leaves, free, starts, wish.count):
                    if places and (leaves or _lowest(places) < _lowest(allowed)):
                        return places
                    return _adjacent(self._most_central(allowed, wish.count), wish.count)
        if places:
            return places
        if wish.allow_split:
            return self._best_split(free, suitable, wish.count)
        return None

    def left_single(self, taken: Seats, chosen: Seats) -> Seats:
        """Returns the free seats that this choice would leave single without need.

        A free seat is single if no adjacent seat is free: the end of a row, or an aisle, counts
        like a taken neighbour. Seats that were single before do not count, nor the only seat that
        would be left of the adjacent free seats: any choice of as many of them leaves it. Places of
        general admission are never single.
        """
        free = self._all & ~taken & ~self._general
        left = free & ~chosen
        beside = (chosen << 1) | (chosen >> 1)
        single = left & beside & ~(left << 1) & ~(left >> 1)
        needless = 0
        for bit in _bits(single):
            if (_run_around(free, bit) & left).bit_count() > 1:
                needless |= 1 << bit
        return needless

    def _first_of_an_area(self, suitable: Seats, count: int) -> Seats:
        """Returns the first `count` suitable places of the first area that has so many, else 0."""
        for area in self._areas:
            places = suitable & area
            if places.bit_count() >= count:
                return sum(1 << bit for bit in itertools.islice(_bits(places), count))
        return 0

    def _leaving(self, leaves: _Leaves, free: Seats, starts: Seats, count: int) -> Seats:
        """Returns the starts from which `count` seats leave no more single seats than allowed."""
        if leaves == _Leaves.ANY:
            return starts
        beyond = ~free
        if leaves == _Leaves.SINGLE_SEATS_AT_ENDS:
            beyond &= self._all
        single_below = (free << 1) & (beyond << 2)
        single_above = (free >> count) & (beyond >> (count + 1))
        return starts & ~(single_below | single_above)

    def _most_central(self, starts: Seats, count: int) -> int:
        """Returns the start of the `count` seats that are nearest to the centre of the best row."""
        index = bisect_right(self._first_bits, _lowest(starts)) - 1
        row = self._rows[index]
        starts >>= row.first_bit
        if index + 1 < len(self._rows):
            starts &= (1 << (self._rows[index + 1].first_bit - row.first_bit)) - 1
        # Twice the place at which central seats start, so that it is an integer.
        central = row.places[0] + row.places[-1] - (count - 1)
        middle = bisect_left(row.places, central / 2)
        split = row.bits[middle] if middle < len(row.bits) else row.bits[-1] + 1
        below = starts & ((1 << split) - 1)
        above = starts >> split << split
        candidates = []
        if below:
            candidates.append(below.bit_length() - 1)
        if above:
            candidates.append(_lowest(above))

        def distance(bit: int) -> int:
            return abs(2 * row.places[bisect_left(row.bits, bit)] - central)

        return row.first_bit + min(candidates, key=distance)

    def _in_order(self, starts: Seats, count: int) -> Iterator[int]:
        while starts:
            start = self._most_central(starts, count)
            yield start
            starts ^= 1 << start

    def _best_split(self, free: Seats, suitable: Seats, count: int) -> Seats | None:
        lengths = _fewest_lengths(suitable, count)
        if lengths is None:
            return None
        for leaves in _Leaves:
            # With any single seats, the first division succeeds at once.
            trials = iter(range(MAX_TRIALS + count))
            for _, parts in zip(trials, _partitions(count, lengths), strict=False):
                chosen = self._place(free, suitable, parts, leaves, trials)
                if chosen is not None:
                    return chosen
        raise AssertionError("the longest runs always hold a split")

    def _place(
        self,
        free: Seats,
        suitable: Seats,
        parts: Sequence[int],
        leaves: _Leaves,
        trials: Iterator[int],
        failed: Seats = 0,
    ) -> Seats | None:
        """Returns the best seats for parts of these lengths, None if there are none or after the
        last trial. The first part does not start at seats that have `failed`."""
        if not parts:
            return 0
        starts = self._leaving(leaves, free, _starts(suitable, parts[0]), parts[0]) & ~failed
        if _runs(starts) < parts.count(parts[0]):
            return None
        for start in self._in_order(starts, parts[0]):
            if next(trials, None) is None:
                return None
            part = _adjacent(start, parts[0])
            rest = self._place(
                free & ~part,
                suitable & ~part,
                parts[1:],
                leaves,
                trials,
                # Another part of the same length would fail there as well.
                failed if parts[1:2] == parts[:1] else 0,
            )
            if rest is not None:
                return part | rest
            failed |= 1 << start
        return None


def _bits(seats: Seats) -> Iterator[int]:
    while seats:
        bit = _lowest(seats)
        yield bit
        seats ^= 1 << bit


def _lowest(seats: Seats) -> int:
    return (seats & -seats).bit_length() - 1


def _adjacent(start: int, count: int) -> Seats:
    return ((1 << count) - 1) << start


def _starts(seats: Seats, count: int) -> Seats:
    """Returns the seats at which `count` adjacent seats of the set start."""
    length = 1
    while length < count:
        step = min(length, count - length)
        seats &= seats >> step
        length += step
    return seats


def _runs(seats: Seats) -> int:
    """Counts the stretches of adjacent seats."""
    return (seats & ~(seats << 1)).bit_count()


def _run_around(seats: Seats, bit: int) -> Seats:
    """Returns the adjacent seats of the set around one of them."""
    first = last = bit
    while first and seats >> (first - 1) & 1:
        first -= 1
    while seats >> (last + 1) & 1:
        last += 1
    return _adjacent(first, last - first + 1)


def _fewest_lengths(seats: Seats, count: int) -> list[int] | None:
    """Returns the lengths of the longest runs that together have `count` seats, descending; None if
    the set has fewer. No run may have `count` seats."""
    if seats.bit_count() < count:
        return None
    # at_least[n - 1]: how many runs have n seats or more.
    at_least = []
    while seats:
        at_least.append(_runs(seats))
        seats &= seats >> 1
    lengths: list[int] = []
    for length in range(len(at_least), 0, -1):
        while len(lengths) < at_least[length - 1]:
            lengths.append(length)
            count -= length
            if count <= 0:
                return lengths
    raise AssertionError("the runs have as many seats as the set")


def _partitions(
    count: int, lengths: Sequence[int], longest: int | None = None
) -> Iterator[tuple[int, ...]]:
    """Divides `count` into as many parts as there are lengths, none longer than the length in its
    position or the part before it: first those with the longest first part, then the second."""
    if len(lengths) == 1:
        if count <= min(lengths[0], longest or count):
            yield (count,)
        return
    most = min(lengths[0], longest or count, count - len(lengths) + 1)
    for part in range(most, 0, -1):
        if count - part > sum(min(part, length) for length in lengths[1:]):
            return
        for rest in _partitions(count - part, lengths[1:], part):
            yield (part, *rest)
