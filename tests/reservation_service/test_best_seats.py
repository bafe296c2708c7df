"""The best available seats, against a search by brute force that knows no bits."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from reservation_service.best_seats import Hall, Wish

# The row and the place in it.
Place = tuple[int, int]


@dataclass(frozen=True)
class SmallHall:
    """A hall of a few seats, in an order of seats that is not the order of places."""

    places: tuple[Place, ...]
    categories: tuple[str, ...]
    accessible: tuple[bool, ...]
    taken: frozenset[Place]
    # The section of each row, and the rows of general admission.
    sections: tuple[str, ...] = ()
    general: frozenset[int] = frozenset()

    @property
    def hall(self) -> Hall:
        rows, places = zip(*self.places, strict=True)
        return Hall(rows, places, self.categories, self.accessible, self.sections, self.general)

    def is_general(self, place: Place) -> bool:
        return place[0] in self.general

    @property
    def free(self) -> frozenset[Place]:
        return frozenset(self.places) - self.taken

    def suiting(self, wish: Wish) -> frozenset[Place]:
        return frozenset(
            place
            for place, category, accessible in zip(
                self.places, self.categories, self.accessible, strict=True
            )
            if place in self.free
            and (not wish.section or self.sections[place[0]] == wish.section)
            and wish.price_category in ("", category)
            and (accessible or not wish.accessible)
        )

    def mask(self, hall: Hall, places: frozenset[Place]) -> int:
        return hall.seats([index for index, place in enumerate(self.places) if place in places])

    def best(self, wish: Wish) -> tuple[Place, ...] | None:
        """The choice of the code under test."""
        hall = self.hall
        chosen = hall.best(self.mask(hall, self.taken), wish)
        return None if chosen is None else tuple(self.places[i] for i in hall.indexes(chosen))

    def left_single(self, chosen: frozenset[Place]) -> set[Place]:
        """The single seats of the code under test."""
        hall = self.hall
        left = hall.left_single(self.mask(hall, self.taken), self.mask(hall, chosen))
        return {self.places[index] for index in hall.indexes(left)}


def small_hall(random: random.Random, *, rows: int, places: int, taken: float) -> SmallHall:
    """Rows of different lengths with aisles; a few categories and accessible seats."""
    seats = [
        (row, place)
        for row in range(random.randint(1, rows))
        for place in range(random.randint(1, 3), random.randint(3, places) + 1)
        if random.random() > 0.1
    ] or [(0, 1)]
    random.shuffle(seats)
    return SmallHall(
        tuple(seats),
        tuple(random.choice(("A", "A", "B")) for _ in seats),
        tuple(random.random() < 0.6 for _ in seats),
        frozenset(seat for seat in seats if random.random() < taken),
    )


# The oracle.


def neighbours(place: Place) -> tuple[Place, Place]:
    return (place[0], place[1] - 1), (place[0], place[1] + 1)


def single(free: frozenset[Place]) -> set[Place]:
    return {seat for seat in free if not free.intersection(neighbours(seat))}


def kind_of_single_seats(hall: SmallHall, chosen: frozenset[Place]) -> int:
    """0: the choice leaves none, 1: only at ends of rows, 2: one between taken seats."""
    if all(map(hall.is_general, chosen)):
        return 0
    new = single(hall.free - chosen) - single(hall.free)
    between = [seat for seat in new if set(neighbours(seat)) <= set(hall.places)]
    return 2 if between else 1 if new else 0


def runs(seats: frozenset[Place]) -> Iterator[tuple[Place, ...]]:
    """All sets of adjacent seats."""
    for first in seats:
        run = [first]
        while run[-1] in seats:
            yield tuple(run)
            run.append((first[0], run[-1][1] + 1))


def rank(hall: SmallHall, run: tuple[Place, ...]) -> tuple[int, int, float, int]:
    """The longest first, then the best row, then the nearest to the centre, then the lowest."""
    row = [place for number, place in hall.places if number == run[0][0]]
    centre = (min(row) + max(row)) / 2
    distance = abs((run[0][1] + run[-1][1]) / 2 - centre)
    return -len(run), run[0][0], distance, run[0][1]


def best_by_brute_force(hall: SmallHall, wish: Wish) -> tuple[Place, ...] | None:
    suiting = hall.suiting(wish)
    if len(suiting) < wish.count:
        return None
    seats = frozenset(place for place in suiting if not hall.is_general(place))
    pieces = [run for run in runs(seats) if len(run) <= wish.count]
    # The first places of each area, which count as one piece of its row.
    areas = [
        tuple(places[: wish.count])
        for row in hall.general
        if len(places := sorted(place for place in suiting if place[0] == row)) >= wish.count
    ]
    for number in range(1, (wish.count if wish.allow_split else 1) + 1):
        choices = [
            choice
            for choice in itertools.combinations(pieces, number)
            if sum(map(len, choice)) == wish.count
            and len(set(itertools.chain(*choice))) == wish.count
        ]
        choices += [(area,) for area in areas]
        if choices:
            best = min(
                choices,
                key=lambda choice: (
                    kind_of_single_seats(hall, frozenset(itertools.chain(*choice))),
                    # The lengths first, then their places.
                    sorted(-len(run) for run in choice),
                    sorted(rank(hall, run) for run in choice),
                ),
            )
            return tuple(sorted(itertools.chain(*best)))
    return None


def needless_by_brute_force(hall: SmallHall, chosen: frozenset[Place]) -> set[Place]:
    """New single seats in stretches of free seats where as many others leave none."""
    needless = set()
    for stretch in maximal_runs(hall.free):
        if hall.is_general(stretch[0]):
            continue
        count = len(chosen.intersection(stretch))
        left = single(hall.free - chosen).intersection(stretch) - single(hall.free)
        alternatives = [
            other
            for other in itertools.combinations(stretch, count)
            if not single(hall.free - frozenset(other)).intersection(stretch)
        ]
        if left and alternatives:
            needless |= left
    return needless


def maximal_runs(seats: frozenset[Place]) -> list[tuple[Place, ...]]:
    return [
        run
        for run in runs(seats)
        if not seats.intersection((neighbours(run[0])[0], neighbours(run[-1])[1]))
    ]


def drawn(*rows: str) -> SmallHall:
    """A hall of rows such as "..x. .": free, taken, an aisle."""
    places = [
        (row, place)
        for row, drawing in enumerate(rows)
        for place, sign in enumerate(drawing)
        if sign != " "
    ]
    return SmallHall(
        tuple(places),
        tuple("A" for _ in places),
        tuple(False for _ in places),
        frozenset((row, place) for row, place in places if rows[row][place] == "x"),
    )


@pytest.mark.parametrize(
    ("rows", "wish", "best"),
    [
        # The centre of the best row; of two places, the lower one.
        (("......", "......"), Wish(2), {(0, 2), (0, 3)}),
        ((".......",), Wish(2), {(0, 2), (0, 3)}),
        (("xxxxxx", "......"), Wish(2), {(1, 2), (1, 3)}),
        # Nobody sits on both sides of an aisle. The centre is that of the whole row.
        ((".... ....",), Wish(2), {(0, 2), (0, 3)}),
        ((".. ..",), Wish(3), None),
        # No single seat, neither between taken ones nor at the end of a row or at an aisle.
        (("xx...xx", "....xxx"), Wish(2), {(1, 2), (1, 3)}),
        (("...xxxx", "xxxx...", "..xxxxx"), Wish(2), {(2, 0), (2, 1)}),
        (("... ...", "x....xx"), Wish(2), {(1, 3), (1, 4)}),
        (("......",), Wish(1), {(0, 2)}),
        ((".....",), Wish(3), {(0, 0), (0, 1), (0, 2)}),
        # Rather one at the end than one between taken seats.
        (("xx...xx", "...xxxx"), Wish(2), {(1, 1), (1, 2)}),
        # No other choice.
        (("xx...xx",), Wish(2), {(0, 2), (0, 3)}),
        # A seat that is single already goes first, if it is as good.
        (("..x.x..",), Wish(1), {(0, 3)}),
        # A split has as few parts as possible, and none unless it is asked for.
        (("..x..", "..x.."), Wish(3), None),
        (("..x..", "..x.."), Wish(4, allow_split=True), {(0, 0), (0, 1), (0, 3), (0, 4)}),
        (("..x..", "...xx"), Wish(4, allow_split=True), {(0, 0), (0, 1), (0, 3), (0, 4)}),
        (("..x..", "....x"), Wish(9, allow_split=True), None),
    ],
)
def test_the_best_seats(rows: tuple[str, ...], wish: Wish, best: set[Place] | None) -> None:
    chosen = drawn(*rows).best(wish)
    assert (None if chosen is None else set(chosen)) == best


@pytest.mark.parametrize(
    ("row", "chosen", "left"),
    [
        ("......", {2, 3}, set()),
        ("......", {1, 2}, {0}),
        ("......", {1, 4}, {0, 5}),
        ("......", {1, 3}, {0, 2}),
        ("... ...", {1, 2}, set()),
        ("..... ...", {2, 3}, {4}),
        # One seat is left of these three, whichever two are chosen.
        ("x...x", {1, 2}, set()),
        ("x...x", {1, 3}, set()),
        ("x...x", {2}, {1, 3}),
        ("x..x", {1}, set()),
        # It was single before.
        ("x.x....", {3, 4}, set()),
    ],
)
def test_single_seats_that_a_choice_would_leave(row: str, chosen: set[int], left: set[int]) -> None:
    hall = drawn(row)
    assert hall.left_single(frozenset((0, place) for place in chosen)) == {
        (0, place) for place in left
    }


def test_pairs_fill_a_large_hall_without_a_single_seat() -> None:
    """20 rows of 30 and an aisle: each row is full before the next begins."""
    rows, places = zip(
        *((row, place) for row in range(20) for place in range(31) if place != 14), strict=True
    )
    hall = Hall(rows, places, ["A"] * 600, [False] * 600)
    taken, order = 0, []
    while (chosen := hall.best(taken, Wish(2))) is not None:
        assert not taken & chosen
        taken |= chosen
        order.append(rows[hall.indexes(chosen)[0]])
    assert taken == hall.seats(range(600))
    assert order == sorted(order)


def test_a_hall_without_seats() -> None:
    assert Hall([], [], [], []).best(0, Wish(1, allow_split=True)) is None


def test_the_best_seats_of_6000_small_halls() -> None:
    chance = random.Random(13)
    found = 0
    for _ in range(6000):
        hall = small_hall(chance, rows=4, places=12, taken=chance.choice((0.0, 0.2, 0.5, 0.8)))
        wish = Wish(chance.randint(1, 6), chance.choice(("", "", "A", "C")), chance.random() < 0.3)
        best = best_by_brute_force(hall, wish)
        assert hall.best(wish) == best, (hall, wish)
        found += best is not None
    assert 1500 < found < 4500


def test_the_best_splits_of_2000_small_halls() -> None:
    chance = random.Random(14)
    parts = []
    for _ in range(2000):
        hall = small_hall(chance, rows=4, places=6, taken=chance.choice((0.3, 0.5, 0.7)))
        wish = Wish(chance.randint(2, 6), chance.choice(("", "", "A")), chance.random() < 0.2, True)
        best = best_by_brute_force(hall, wish)
        assert hall.best(wish) == best, (hall, wish)
        parts.append(0 if best is None else len(maximal_runs(frozenset(best))))
    assert all(parts.count(number) > 30 for number in range(4)), parts


def test_needless_single_seats_of_6000_choices() -> None:
    chance = random.Random(15)
    found = 0
    for _ in range(6000):
        hall = small_hall(chance, rows=2, places=8, taken=chance.choice((0.0, 0.2, 0.5)))
        if not hall.free:
            continue
        count = chance.randint(1, min(len(hall.free), 4))
        chosen = frozenset(chance.sample(sorted(hall.free), count))
        needless = needless_by_brute_force(hall, chosen)
        assert hall.left_single(chosen) == needless, (hall, chosen)
        found += bool(needless)
    assert 1000 < found < 5000
