"""A line against a sorted list, and at a million places."""

import gc
import random
import time
import tracemalloc
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from room_view import line
from room_view.line import Line

MILLION = 1_000_000
CHUNK = 65_536

scores = st.integers(0, 60)
ascending = st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=200).map(sorted)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), scores),
        st.tuples(st.just("discard"), scores),
        st.tuples(st.just("extend"), st.integers(1, 20)),
    ),
    max_size=150,
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and groups so small that a few scores split and join them."""
    monkeypatch.setattr(line, "_BLOCK", 4)
    monkeypatch.setattr(line, "_GROUP", 2)


def listed(blocks: Iterable["array[int]"]) -> list[int]:
    return list(chain.from_iterable(blocks))


def change(line: Line, model: list[int], kind: str, value: int) -> None:
    """Changes a line and a sorted list alike."""
    if kind == "add":
        line.add(value)
        if value not in model:
            insort(model, value)
    elif kind == "discard":
        line.discard(value)
        if value in model:
            model.remove(value)
    else:
        first = model[-1] + 1 if model else 0
        line.extend(range(first, first + value))
        model.extend(range(first, first + value))


def check(line: Line, model: list[int]) -> None:
    assert len(line) == len(model)
    assert listed(line.blocks(3)) == listed(line.blocks()) == model
    for score in range(max(model, default=0) + 3):
        rank = bisect_left(model, score) + 1 if score in model else 0
        assert line.rank(score) == rank
        assert (score in line) == (rank > 0)


@pytest.mark.usefixtures("small_blocks")
class TestAgainstASortedList:
    """Hypothesis runs inside of each test, so that the blocks are small in all examples."""

    def test_any_changes(self) -> None:
        @given(changes)
        def run(changes: list[tuple[str, int]]) -> None:
            tested, model = Line(), list[int]()
            for kind, value in changes:
                change(tested, model, kind, value)
            check(tested, model)

        run()

    def test_the_difference_of_two(self) -> None:
        @given(ascending, ascending, st.sets(st.integers(0, 2**63 - 1)))
        def run(mine: list[int], others: list[int], common: set[int]) -> None:
            line = Line(sorted({*mine, *common}))
            other = Line(sorted({*others, *common}))
            assert listed(line.difference(other)) == sorted({*mine, *common} - {*others, *common})

        run()

    def test_the_blocks_of_a_line_that_changes(self) -> None:
        """What stays in line is returned once and in order, whatever comes and leaves."""

        @given(st.sets(scores), changes, st.integers(1, 5), st.randoms())
        def run(
            staying: set[int],
            changes: list[tuple[str, int]],
            size: int,
            when: random.Random,
        ) -> None:
            line = Line(sorted(staying))
            remaining = [c for c in changes if c[0] != "discard" or c[1] not in staying]
            returned: list[int] = []
            model = sorted(staying)
            for block in line.blocks(size):
                assert 0 < len(block) <= size
                returned += block
                while remaining and when.random() < 0.5:
                    change(line, model, *remaining.pop())
            assert returned == sorted(set(returned))
            assert staying <= set(returned)

        run()


def test_the_greatest_and_the_smallest_score() -> None:
    line = Line([0, 2**63 - 1])
    assert (line.rank(0), line.rank(2**63 - 1)) == (1, 2)
    assert listed(line.difference(Line())) == [0, 2**63 - 1]


def test_a_line_that_empties_holds_no_blocks() -> None:
    line = Line(range(10_000))
    for score in random.Random(1).sample(range(10_000), 10_000):
        line.discard(score)
    assert len(line) == 0
    assert not list(line.blocks())
    line.add(5)
    assert line.rank(5) == 1


def seconds(run: Callable[[], object]) -> float:
    """The shortest of five runs: other programs disturb some of them."""
    return min(_timed(run) for _ in range(5))


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    return sorted(random.Random(1).sample(range(2**45), MILLION))


@pytest.mark.long
class TestAMillion:
    def test_takes_at_most_10_megabytes(self, numbers: list[int]) -> None:
        """Also if half of them leave, and as many come back at their numbers or at the end."""
        chance = random.Random(2)
        gone = chance.sample(numbers, MILLION // 2)
        tracemalloc.start()
        line = Line(numbers)
        assert tracemalloc.get_traced_memory()[0] <= 10e6
        for number in gone:
            line.discard(number)
        for number in gone[: MILLION // 4]:
            line.add(number)
        for number in range(2**45, 2**45 + MILLION // 4):
            line.add(number)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(line) == MILLION
        assert used <= 16e6

    def test_rank_and_removal_take_at_most_3_microseconds(self, numbers: list[int]) -> None:
        asked = random.Random(3).sample(numbers, 20_000)
        line = Line(numbers)
        assert seconds(lambda: [line.rank(number) for number in asked]) / len(asked) <= 3e-6

        def remove_and_return() -> None:
            for number in asked:
                line.discard(number)
            for number in asked:
                line.add(number)

        # Adding in the middle takes about as long as removing.
        assert seconds(remove_and_return) / len(asked) <= 6e-6

    def test_adding_at_the_end_takes_at_most_1_microsecond(self, numbers: list[int]) -> None:
        def add() -> None:
            line = Line(numbers[:10_000])
            for number in numbers[10_000:110_000]:
                line.add(number)

        assert seconds(add) / 100_000 <= 1e-6

    def test_is_built_from_chunks_and_cut_into_chunks_without_a_stall(
        self, numbers: list[int]
    ) -> None:
        """No step stops the event loop for more than 20 ms."""
        chunks = [array("q", numbers[n : n + CHUNK]) for n in range(0, MILLION, CHUNK)]
        line = Line(numbers)

        def build() -> Iterator[object]:
            built = Line()
            for chunk in chunks:
                built.extend(chunk)
                yield built

        for taken in (steps(build), steps(partial(line.blocks, CHUNK))):
            assert max(taken) <= 20e-3
            assert sum(taken) <= 0.2
        assert listed(line.blocks(CHUNK)) == numbers

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
    def test_differs_from_another_in_steps_without_a_stall(
        self, numbers: list[int], share: float
    ) -> None:
        """`share` of a million is not in the other line."""
        chance = random.Random(4)
        other = Line(number for number in numbers if chance.random() >= share)
        line = Line(numbers)
        for one, another in ((line, other), (other, line)):
            taken = steps(partial(one.difference, another))
            assert max(taken, default=0) <= 20e-3
            assert sum(taken) <= 3.0
        assert sum(map(len, line.difference(other))) == MILLION - len(other)
        assert sum(map(len, other.difference(line))) == 0


def steps(work: Callable[[], Iterator[object]]) -> list[float]:
    """The seconds that each step takes; the shortest of three runs."""
    return list(map(min, zip(*(_steps(work()) for _ in range(3)), strict=True)))


def _steps(work: Iterator[object]) -> list[float]:
    taken: list[float] = []
    while True:
        start = time.perf_counter()
        if next(work, None) is None:
            return taken
        taken.append(time.perf_counter() - start)
