"""The places that wait, in their order: ranks among a million of them, 8 bytes each."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

_BLOCK = 1024
"""Scores of a full block."""

_GROUP = 16
"""Blocks whose lengths are added up in advance: a million scores are 62 groups."""


class Line:
    """A sorted set of scores, which are place numbers as long as a line is first come, first
    served. Scores are from 0 to 2^63 - 1.

    They are kept in blocks, so that a removal moves 8 KB instead of 8 MB. Measurements:
    docs/adr/0040-room-view.md.
    """

    def __init__(self, scores: Iterable[int] = ()) -> None:
        """`scores` must be ascending."""
        self._blocks: list[array[int]] = []
        # A block has no score below its own bound, and none from the next bound on.
        self._bounds: list[int] = []
        self._lengths_of_groups: list[int] = []
        self.extend(scores)

    def __len__(self) -> int:
        return sum(self._lengths_of_groups)

    def __contains__(self, score: int) -> bool:
        b = bisect_right(self._bounds, score) - 1
        if b < 0:
            return False
        block = self._blocks[b]
        n = bisect_left(block, score)
        return n < len(block) and block[n] == score

    @property
    def last(self) -> int:
        """The greatest score; -1 if there is none."""
        return self._blocks[-1][-1] if self._blocks else -1

    def rank(self, score: int) -> int:
        """Returns 1 for the first in line, and so on; 0 if `score` is not in it."""
        b = bisect_right(self._bounds, score) - 1
        if b < 0:
            return 0
        block = self._blocks[b]
        n = bisect_left(block, score)
        if n == len(block) or block[n] != score:
            return 0
        return self._length_before(b) + n + 1

    def count_to(self, score: int) -> int:
        """Returns how many scores are not above this one."""
        b = bisect_right(self._bounds, score) - 1
        return 0 if b < 0 else self._length_before(b) + bisect_right(self._blocks[b], score)

    def add(self, score: int) -> None:
        """Adds a score; no-op if it is in line."""
        b = bisect_right(self._bounds, score) - 1
        if b == len(self._blocks) - 1 and (b < 0 or score > self._blocks[b][-1]):
            # At the end, as nearly always.
            if b < 0 or len(self._blocks[b]) == _BLOCK:
                self.extend((score,))
            else:
                self._blocks[b].append(score)
                self._lengths_of_groups[b // _GROUP] += 1
            return
        b = max(b, 0)
        block = self._blocks[b]
        n = bisect_left(block, score)
        if n < len(block) and block[n] == score:
            return
        block.insert(n, score)
        self._bounds[b] = min(self._bounds[b], score)
        self._lengths_of_groups[b // _GROUP] += 1
        if len(block) > _BLOCK:
            half = _BLOCK // 2
            self._replace(b, b + 1, block[:half], block[half:])

    def extend(self, scores: Iterable[int]) -> None:
        """Adds ascending scores that are greater than all in line."""
        added = array("q", scores)
        if self._blocks and len(self._blocks[-1]) < _BLOCK:
            self._bounds.pop()
            added = self._blocks.pop() + added
        parts = [added[n : n + _BLOCK] for n in range(0, len(added), _BLOCK)]
        self._replace(len(self._blocks), len(self._blocks), *parts)

    def discard(self, score: int) -> None:
        """Removes a score; no-op if it is not in line."""
        b = bisect_right(self._bounds, score) - 1
        if b < 0:
            return
        block = self._blocks[b]
        n = bisect_left(block, score)
        if n == len(block) or block[n] != score:
            return
        del block[n]
        self._lengths_of_groups[b // _GROUP] -= 1
        if len(block) < _BLOCK // 4:
            self._shrink(b)

    def blocks(self, size: int = _BLOCK) -> Iterator["array[int]"]:
        """Returns the scores in order, at most `size` at a time.

        The line may change meanwhile: a score is then returned as it was when its turn came.
        """
        cursor = -1
        while block := self._after(cursor, size):
            yield block
            cursor = block[-1]

    def difference(self, other: "Line") -> Iterator["array[int]"]:
        """Returns the scores in order that `other` does not have, in steps of about a millisecond,
        of which some are empty. Both lines may change meanwhile, as in `blocks`."""
        for block in self.blocks():
            if other._count(block[0], block[-1]) <= 2 * len(block):
                there = other._between(block[0], block[-1])
                yield array("q", (score for score in block if score not in there))
            else:
                yield array("q", (score for score in block if score not in other))

    def _length_before(self, b: int) -> int:
        group = b // _GROUP
        in_group = sum(map(len, self._blocks[group * _GROUP : b]))
        return sum(self._lengths_of_groups[:group]) + in_group

    def _after(self, score: int, size: int) -> "array[int]":
        """The first `size` scores that are greater than `score`."""
        b = max(0, bisect_right(self._bounds, score) - 1)
        found = array("q")
        while len(found) < size and b < len(self._blocks):
            block = self._blocks[b]
            n = 0 if found else bisect_right(block, score)
            found += block[n : n + size - len(found)]
            b += 1
        return found

    def _count(self, lowest: int, highest: int) -> int:
        """How many scores are from `lowest` to `highest`."""
        return self.count_to(highest) - self.count_to(lowest - 1)

    def _between(self, lowest: int, highest: int) -> set[int]:
        first = max(0, bisect_right(self._bounds, lowest) - 1)
        return {
            score
            for block in self._blocks[first : bisect_right(self._bounds, highest)]
            for score in block
        }

    def _shrink(self, b: int) -> None:
        """Joins a small block with a neighbour, if both make one block."""
        blocks = self._blocks
        for first in (b - 1, b):
            pair = blocks[max(0, first) : first + 2]
            if len(pair) == 2 and len(pair[0]) + len(pair[1]) <= _BLOCK:
                self._replace(first, first + 2, pair[0] + pair[1])
                return
        if not blocks[b]:
            self._replace(b, b + 1)

    def _replace(self, first: int, end: int, *blocks: "array[int]") -> None:
        """Puts other blocks in place of those from `first` to before `end`."""
        self._bounds[first:end] = [block[0] for block in blocks]
        self._blocks[first:end] = blocks
        self._lengths_of_groups = [
            sum(map(len, self._blocks[n : n + _GROUP])) for n in range(0, len(self._blocks), _GROUP)
        ]
