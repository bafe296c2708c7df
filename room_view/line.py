"""The places that wait, in their order: ranks among a million of them, 8 bytes each."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator


class Line:
    """A sorted set of scores, which are place numbers as long as a line is first come, first
    served. Scores are below 2^63."""

    def __init__(self, scores: Iterable[int] = ()) -> None:
        """`scores` must be ascending."""
        self._scores = array("q", scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, score: int) -> bool:
        return self.rank(score) > 0

    def rank(self, score: int) -> int:
        """Returns 1 for the first in line, and so on; 0 if `score` is not in it."""
        n = bisect_left(self._scores, score)
        return n + 1 if n < len(self._scores) and self._scores[n] == score else 0

    def add(self, score: int) -> None:
        """Adds a score; no-op if it is in line."""
        if not self.rank(score):
            insort(self._scores, score)

    def extend(self, scores: Iterable[int]) -> None:
        """Adds ascending scores that are greater than all in line."""
        self._scores.extend(scores)

    def discard(self, score: int) -> None:
        """Removes a score; no-op if it is not in line."""
        if rank := self.rank(score):
            del self._scores[rank - 1]

    def blocks(self) -> Iterator["array[int]"]:
        """Returns the scores in order, in blocks of at most some thousands; not while the line
        changes."""
        yield self._scores
