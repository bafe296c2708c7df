"""Where the places of a draw stand among those who wait."""

from array import array
from collections.abc import Iterator

from room_view.draw import STEP, Draw
from room_view.line import Line


class Ranks:
    """The order of the places up to `last`, the greatest number that can be in the cohort: those
    that have been drawn by their ranks, then those that are not in the cohort by their numbers.

    The places that wait are in `line`, by their numbers; tell what joins and leaves it. They get
    their ranks in steps: the order is right once `has` says so.
    """

    def __init__(self, draw: Draw, line: Line, last: int) -> None:
        self.draw = draw
        self._line = line
        self._last = last
        self._drawn = 0
        # An empty cohort is drawn with the first rank, which nobody has.
        self._size = max(1, len(draw))
        # The ranks of those who wait and have theirs, and the numbers of those who get none.
        self._ranked = Line()
        self._unranked = Line()
        self._finding: Iterator[array[int]] | None = line.difference(Line(draw.numbers))

    def has(self, drawn: int) -> bool:
        """Whether all ranks below `drawn` are here."""
        return self._finding is None and self._drawn >= min(drawn, self._size)

    def advance(self, drawn: int) -> bool:
        """Takes the next step towards the ranks below `drawn`, in some milliseconds; returns
        whether there are more."""
        if self._finding is not None:
            self._find(self._finding)
        else:
            first, self._drawn = self._drawn, min(drawn, self._size, self._drawn + STEP)
            line = self._line
            numbers = self.draw.places(first, self._drawn)
            self._ranked.extend(rank for rank, n in enumerate(numbers, first) if n in line)
        return not self.has(drawn)

    def order(self, number: int) -> int:
        """Returns the position in line of a place up to `last`, from 1; 0 if it does not wait or
        has not been drawn yet."""
        rank = self.draw.rank(number)
        if rank is not None:
            return self._ranked.rank(rank) if rank < self._drawn else 0
        if self._drawn < self._size:
            return 0
        order = self._unranked.rank(number)
        return order and len(self._ranked) + order

    def added(self, number: int) -> None:
        """Notes that a place up to `last` waits now."""
        rank = self.draw.rank(number)
        if rank is None:
            self._unranked.add(number)
        elif rank < self._drawn:
            self._ranked.add(rank)

    def discarded(self, number: int) -> None:
        """Notes that a place up to `last` does not wait."""
        rank = self.draw.rank(number)
        if rank is None:
            self._unranked.discard(number)
        elif rank < self._drawn:
            self._ranked.discard(rank)

    def _find(self, finding: Iterator["array[int]"]) -> None:
        step = next(finding, None)
        if step is None or (step and step[-1] > self._last):
            self._finding = None
        for number in step or ():
            if number <= self._last:
                self._unranked.add(number)
