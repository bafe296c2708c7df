"""The draw: which rank each place of a cohort gets. No I/O.

docs/draw.md describes it in so much detail that others can write it, and docs/adr/0058-draw.md says
why it is done so.
"""

import hashlib
import hmac
import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from math import isqrt

FIRST_NUMBER = 2**32
"""Place numbers are greater: they count milliseconds since 2026 times 4096. Scores below are those
of drawn places."""

STEP = 250
"""Places that get their rank in one step: 2.5 ms for Redis in a line of a million."""

_ROUNDS = 8
# Few values mix little in a round: two rounds bring the ranks of two places nearer to chance by a
# factor of `side`. With this, no side is further from it than 10^-7.
_SMALL_SIDE = 64
_ROUNDS_OF_A_SMALL_SIDE = 32


class Permutation:
    """A permutation of 0 to `size` - 1, chosen by a key of 32 bytes, that is computed in both
    directions for one value at a time.

    A Feistel network over pairs of numbers below `side`, which is even. A value that leaves the
    range goes through it until it comes back (cycle walking): hardly ever from some thousand values
    on. The round functions are tables: for a million values 8,000 numbers, which take 20 ms to
    compute.
    """

    def __init__(self, key: bytes, size: int) -> None:
        """Raises ValueError if the size is below 0 or not below 2^32."""
        if not 0 <= size < FIRST_NUMBER:
            raise ValueError(f"A draw has from 0 to {FIRST_NUMBER - 1} places.")
        self.size = size
        # Even: with an odd side, no round changes the sign of a permutation, and half of all orders
        # would be impossible or rare.
        self._side = 2 * (isqrt(max(size, 1) - 1) // 2 + 1)
        rounds = _ROUNDS if self._side >= _SMALL_SIDE else _ROUNDS_OF_A_SMALL_SIDE
        tables = [_table(key, number, self._side) for number in range(rounds)]
        self._pairs = tuple(zip(tables[::2], tables[1::2], strict=True))
        self._reversed = self._pairs[::-1]

    def forward(self, value: int) -> int:
        """Returns where a value goes; about 1 µs."""
        side, size = self._side, self.size
        while True:
            left, right = divmod(value, side)
            for even, odd in self._pairs:
                left = (left + even[right]) % side
                right = (right + odd[left]) % side
            value = left * side + right
            if value < size:
                return value

    def inverse(self, value: int) -> int:
        """Returns which value goes there; about 1 µs."""
        side, size = self._side, self.size
        while True:
            left, right = divmod(value, side)
            for even, odd in self._reversed:
                right = (right - odd[left]) % side
                left = (left - even[right]) % side
            value = left * side + right
            if value < size:
                return value


class Draw:
    """A cohort and the ranks of its places, from 0. Takes 8 bytes for each place."""

    def __init__(self, numbers: "array[int]", key: bytes) -> None:
        """`numbers`: of typecode q, ascending. `key`: see `draw_key`."""
        self.numbers = numbers
        self._permutation = Permutation(key, len(numbers))

    def __len__(self) -> int:
        return len(self.numbers)

    def rank(self, number: int) -> int | None:
        """Returns the rank of a place; None if it is not in the cohort. About 2 µs."""
        index = bisect_left(self.numbers, number)
        if index == len(self.numbers) or self.numbers[index] != number:
            return None
        return self._permutation.forward(index)

    def places(self, first: int, end: int) -> list[int]:
        """Returns the numbers of the places with the ranks from `first` to before `end`, as far as
        there are so many."""
        numbers, inverse = self.numbers, self._permutation.inverse
        return [numbers[inverse(rank)] for rank in range(first, min(end, len(numbers)))]


def draw_key(seed: bytes, public_value: str) -> bytes:
    """Returns the key of a draw. `public_value` is empty if no source of one was announced."""
    return hashlib.sha256(seed + public_value.encode()).digest()


def score(rank: int) -> int:
    """Returns the score that puts a drawn place in front of every place that has none."""
    return rank + 1


def cohort_sha256(numbers: Sequence[int]) -> bytes:
    """Returns SHA-256 of a cohort: each number as 8 bytes, big-endian. `numbers` ascend."""
    digest = hashlib.sha256()
    for first in range(0, len(numbers), 65_536):
        part = array("q", numbers[first : first + 65_536])
        if sys.byteorder == "little":
            part.byteswap()
        digest.update(part)
    return digest.digest()


def _table(key: bytes, number: int, side: int) -> list[int]:
    """The function of one round: HMAC-SHA-256 of the number of the round and a value, reduced."""
    return [
        int.from_bytes(
            hmac.digest(key, bytes([number]) + value.to_bytes(8, "big"), "sha256")[:8], "big"
        )
        % side
        for value in range(side)
    ]
