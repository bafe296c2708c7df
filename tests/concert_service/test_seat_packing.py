"""Packing the seats of a schedule."""

from dataclasses import replace
from decimal import Decimal

import pytest

from concert_service.domain import Seat
from concert_service.seat_map import (
    MAX_LAYOUT_BYTES,
    PackedSeatMap,
    Run,
    SeatLayoutTooLarge,
    pack,
    runs_from_text,
    runs_to_text,
)
from protos.frontrow.concert.v1 import concert_pb2


def old_seats(*numbers: str) -> list[Seat]:
    """As the version before has added them."""
    return [Seat(100 + n, 1, number, Decimal(90_000)) for n, number in enumerate(numbers)]


def layout_of(seats: list[Seat]) -> concert_pb2.SeatLayout:
    return concert_pb2.SeatLayout.FromString(pack(1, seats)[1].packed)


def test_a_layout_has_a_column_for_each_fact() -> None:
    seats = [
        Seat(7, 1, "A1", Decimal("150000"), "A", 1, "Front", "Stalls", accessible=True),
        Seat(8, 1, "A2", Decimal("150000"), "A", 2, "Front", "Stalls"),
        Seat(3, 1, "A4", Decimal("90000.5"), "A", 4, "Rear", "Stalls"),
        Seat(4, 1, "Box A/1", Decimal("90000.5"), "A", 1, "Rear", "Balcony"),
        # One category may have several prices.
        Seat(5, 1, "Box A/2", Decimal("80000"), "A", 2, "Rear", "Balcony"),
    ]
    seat_map, layout = pack(1, seats)
    assert seat_map == PackedSeatMap(1, layout.digest, (Run(7, 2), Run(3, 3)))
    message = concert_pb2.SeatLayout.FromString(layout.packed)
    assert list(message.seat_nums) == ["A1", "A2", "A4", "Box A/1", "Box A/2"]
    assert list(message.row_names) == ["A", "A"]
    assert list(message.row_sections) == ["Stalls", "Balcony"]
    assert list(message.rows) == [0, 0, 0, 1, 1]
    assert list(message.places) == [1, 2, 4, 1, 2]
    assert [(category.name, category.price) for category in message.price_categories] == [
        ("Front", "150000.00"),
        ("Rear", "90000.50"),
        ("Rear", "80000.00"),
    ]
    assert list(message.categories) == [0, 0, 1, 1, 2]
    assert list(message.accessible) == [True, False, False, False, False]


def test_what_most_halls_lack_takes_no_bytes() -> None:
    message = layout_of([Seat(n, 1, f"A{n}", Decimal(1), "A", n, "All", "Hall") for n in (1, 2)])
    for column in (message.companion, message.general_admission, message.x, message.y):
        assert list(column) == []


def test_layouts_of_the_version_before_are_the_same_bytes() -> None:
    """So the maps that it has stored stay valid, and halls of both versions share a layout."""
    seats = [Seat(7, 1, "A1", Decimal("150000"), "A", 1, "Front", "Stalls", accessible=True)]
    before = concert_pb2.SeatLayout(
        seat_nums=["A1"],
        row_names=["A"],
        row_sections=["Stalls"],
        rows=[0],
        places=[1],
        price_categories=[concert_pb2.SeatLayout.PriceCategory(name="Front", price="150000.00")],
        categories=[0],
        accessible=[True],
    )
    assert pack(1, seats)[1].packed == before.SerializeToString(deterministic=True)


def test_a_layout_has_rows_by_rank_and_what_an_event_document_knows() -> None:
    def seat(id: int, row: str, rank: int | None, section: str = "Stalls") -> Seat:
        return Seat(
            *(id, 1, f"{row}{id}", Decimal("1.5"), row, id, "All", section),
            currency="KWD",
            row_rank=rank,
            x=10 * id,
            y=-id,
        )

    seats = [
        replace(seat(1, "A", 5), accessible=True),
        replace(seat(2, "A", 9), companion=True),
        seat(3, "B", 1),
        seat(4, "C", None),
        # The same name in another section: another row, behind the first one with its rank.
        seat(5, "A", 5, "Balcony"),
        replace(seat(6, "", None, "Floor"), general_admission=True),
    ]
    message = layout_of(seats)
    assert list(zip(message.row_sections, message.row_names, strict=True)) == [
        ("Stalls", "B"),
        ("Stalls", "A"),
        ("Balcony", "A"),
        ("Stalls", "C"),
        ("Floor", ""),
    ]
    assert list(message.rows) == [1, 1, 0, 3, 2, 4]
    assert list(message.accessible) == [True] + [False] * 5
    assert list(message.companion) == [False, True] + [False] * 4
    assert list(message.general_admission) == [False] * 4 + [True]
    assert list(message.x) == [10, 20, 30, 40, 50, 60]
    assert list(message.y) == [-1, -2, -3, -4, -5, -6]
    assert [category.price for category in message.price_categories] == ["1.500"]
    # One seat without coordinates: they are unknown.
    message = layout_of([*seats, Seat(9, 1, "Z", Decimal(1))])
    assert list(message.x) == list(message.y) == []


def test_the_digest_is_that_of_the_content() -> None:
    seats = old_seats("A1", "A2")
    others = [Seat(seat.id + 500, 2, seat.seat_num, seat.price) for seat in seats]
    assert pack(1, seats)[1] == pack(2, others)[1]
    for change in (old_seats("A1", "A3"), old_seats("A1")):
        assert pack(1, change)[1].digest != pack(1, seats)[1].digest


@pytest.mark.parametrize(
    ("numbers", "rows", "places"),
    [
        (["A1", "A2", "AB10", "ä-7", "B 3"], ["A", "A", "AB", "ä", "B"], [1, 2, 10, 7, 3]),
        (["A1", "A2", "Box"], ["", "", ""], [1, 2, 3]),
        (["1", "2"], ["", ""], [1, 2]),
        (["A1", "A-1"], ["", ""], [1, 2]),  # the same place twice
        (["A1", "A65536"], ["", ""], [1, 2]),
        (["A1B2"], [""], [1]),
        ([], [], []),
    ],
)
def test_row_and_place_follow_from_the_number(
    numbers: list[str], rows: list[str], places: list[int]
) -> None:
    layout = layout_of(old_seats(*numbers))
    assert [layout.row_names[row] for row in layout.rows] == rows
    assert list(layout.places) == places
    assert [layout.price_categories[c].name for c in layout.categories] == ["90000.00"] * len(rows)


def test_a_layout_that_no_response_can_carry_is_refused() -> None:
    name = "x" * (MAX_LAYOUT_BYTES // 10)
    with pytest.raises(SeatLayoutTooLarge):
        pack(1, [Seat(n, 1, name + str(n), Decimal(1)) for n in range(10)])


def test_runs_are_stored_as_text() -> None:
    runs = (Run(1, 150), Run(9_000_000_000, 20), Run(5, 1))
    assert runs_to_text(runs) == "1+150 9000000000+20 5+1"
    assert runs_from_text(runs_to_text(runs)) == runs
    assert runs_from_text(runs_to_text(())) == ()
