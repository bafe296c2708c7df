"""The draw: a permutation, as described, and as random as a shuffle."""

import itertools
import math
import re
from array import array
from collections import Counter
from pathlib import Path

import pytest

from room_view.draw import Draw, Permutation, cohort_sha256, draw_key
from tests.room_view import described_draw

SEED = bytes(range(32))
FIRST = 1_000_000 * 4096


def key(number: int) -> bytes:
    return draw_key(SEED, str(number))


def cohort(size: int, step: int = 4096) -> "array[int]":
    return array("q", range(FIRST, FIRST + size * step, step))


def chi_square(counts: Counter[int], cells: int) -> float:
    """How far counts are from equal ones, in standard deviations of the chi-square distribution."""
    expected = counts.total() / cells
    statistic = sum((counts[cell] - expected) ** 2 / expected for cell in range(cells))
    assert set(counts) <= set(range(cells))
    return (statistic - (cells - 1)) / math.sqrt(2 * (cells - 1))


def test_gives_each_rank_to_one_index_and_can_be_undone() -> None:
    for size in range(301):
        permutation = Permutation(key(size), size)
        ranks = [permutation.forward(index) for index in range(size)]
        assert sorted(ranks) == list(range(size))
        assert [permutation.inverse(rank) for rank in ranks] == list(range(size))


@pytest.mark.parametrize("size", [3_844, 3_845, 4_096, 4_097])
def test_gives_each_rank_once_where_the_rounds_change(size: int) -> None:
    permutation = Permutation(key(size), size)
    assert sorted(map(permutation.forward, range(size))) == list(range(size))


@pytest.mark.parametrize("size", [999_999, 1_000_000, 20_000_003])
def test_can_be_undone_at_any_size(size: int) -> None:
    permutation = Permutation(key(size), size)
    ranks = set()
    for index in range(0, size, size // 300):
        rank = permutation.forward(index)
        assert 0 <= rank < size
        assert permutation.inverse(rank) == index
        ranks.add(rank)
    assert len(ranks) >= 300


def test_refuses_a_size_out_of_range() -> None:
    for size in (-1, 2**32):
        with pytest.raises(ValueError, match="A draw has from 0"):
            Permutation(SEED, size)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 16, 17, 100, 3_844, 3_845, 5_000])
def test_draws_as_it_is_described(size: int) -> None:
    numbers = cohort(size)
    draw = Draw(numbers, draw_key(SEED, "7 12 19 ✓"))
    expected = described_draw.order(SEED, "7 12 19 ✓", list(numbers))
    assert draw.places(0, size) == expected
    assert [draw.rank(number) for number in expected] == list(range(size))
    assert cohort_sha256(numbers).hex() == described_draw.list_hash(list(numbers))


def test_the_example_of_the_description_is_right() -> None:
    text = Path("docs/draw.md").read_text()
    numbers = list(range(1_000, 1_010))
    row = re.search(r"in the order of their ranks \| (.*) \|", text)
    assert row
    assert [int(number) for number in row[1].split(", ")] == described_draw.order(
        bytes(32), "", numbers
    )
    assert f"| `{described_draw.list_hash(numbers)}` |" in text
    assert f"| `{draw_key(bytes(32), '').hex()}` |" in text


def test_hashes_a_list_of_several_blocks() -> None:
    numbers = cohort(140_000)
    assert cohort_sha256(numbers).hex() == described_draw.list_hash(list(numbers))


def test_a_place_outside_of_the_cohort_has_no_rank() -> None:
    draw = Draw(cohort(10), key(0))
    assert len(draw) == 10
    for number in (1, FIRST - 1, FIRST + 1, FIRST + 10 * 4096, 2**53):
        assert draw.rank(number) is None
    assert Draw(array("q"), key(0)).rank(FIRST) is None


def test_returns_places_in_steps() -> None:
    draw = Draw(cohort(100), key(1))
    steps = [draw.places(first, first + 30) for first in range(0, 150, 30)]
    assert [len(step) for step in steps] == [30, 30, 30, 10, 0]
    assert list(itertools.chain(*steps)) == draw.places(0, 100)


def test_the_public_value_decides_too() -> None:
    orders = {
        tuple(Draw(cohort(20), draw_key(SEED, value)).places(0, 20)) for value in ("", "1", "2")
    }
    assert len(orders) == 3


# The draws below are fixed, so these tests cannot fail by chance. A fair draw is beyond four
# standard deviations once in some thousand tests.


@pytest.mark.parametrize("size", [2, 3, 4, pytest.param(5, marks=pytest.mark.long)])
def test_every_order_of_a_few_places_is_as_likely(size: int) -> None:
    draws = math.factorial(size) * 15
    orders = {order: n for n, order in enumerate(itertools.permutations(range(size)))}
    counts = Counter(
        orders[tuple(map(Permutation(key(n), size).forward, range(size)))] for n in range(draws)
    )
    assert chi_square(counts, math.factorial(size)) < 4


@pytest.mark.parametrize("size", [9, pytest.param(60, marks=pytest.mark.long)])
def test_every_rank_is_as_likely_for_the_first_the_last_and_one_between(size: int) -> None:
    counts = {index: Counter[int]() for index in (0, size // 2, size - 1)}
    for n in range(20 * size):
        permutation = Permutation(key(n), size)
        for index, ranks in counts.items():
            ranks[permutation.forward(index)] += 1
    for ranks in counts.values():
        assert chi_square(ranks, size) < 4


@pytest.mark.parametrize("size", [9, pytest.param(16, marks=pytest.mark.long)])
def test_the_ranks_of_two_places_say_nothing_about_each_other(size: int) -> None:
    # Neighbours, those that share the left or the right half at first, and the ends.
    side = 4
    pairs = {pair: Counter[int]() for pair in ((0, 1), (0, side), (side, side + 1), (0, size - 1))}
    for n in range(3_000):
        permutation = Permutation(key(n), size)
        for (first, second), counts in pairs.items():
            rank, other = permutation.forward(first), permutation.forward(second)
            counts[rank * (size - 1) + other - (other > rank)] += 1
    for counts in pairs.values():
        assert chi_square(counts, size * (size - 1)) < 4


def test_a_large_draw_mixes_those_who_came_early_with_those_who_came_late() -> None:
    size, parts = 40_000, 10
    permutation = Permutation(key(0), size)
    counts = Counter(
        index * parts // size * parts + permutation.forward(index) * parts // size
        for index in range(size)
    )
    # 400 in each cell.
    assert chi_square(counts, parts * parts) < 4
    # Neighbours: the distance of their ranks is that of two random ranks, a third of the size.
    ranks = list(map(permutation.forward, range(10_000)))
    mean = sum(abs(a - b) for a, b in itertools.pairwise(ranks)) / (len(ranks) - 1)
    assert abs(mean / size - 1 / 3) < 0.01


@pytest.mark.parametrize("size", [9, pytest.param(16, marks=pytest.mark.long)])
def test_odd_and_even_orders_are_as_likely(size: int) -> None:
    draws, odd = 1_000, 0
    for n in range(draws):
        ranks = list(map(Permutation(key(n), size).forward, range(size)))
        odd += sum(a > b for a, b in itertools.combinations(ranks, 2)) % 2
    assert abs(odd - draws / 2) < 4 * (draws / 4) ** 0.5
