"""Packs the seats of a schedule: a layout, which many schedules share, and runs of ids.

Both are copies of the rows of `seat`, made at the first request for them. A transaction that
changes seats must first lock the row of their schedule (`SELECT … FOR UPDATE`), and delete its
`seat_map`. Making a map takes the same lock, so that no map of older seats is stored.

Seats of the version before have no row, place and price category. The row and the place are then
those of their numbers (B7: row B, place 7). If a schedule has a number of another form, or the same
place twice, its seats count as one row in seat order, which is what a buyer of adjacent numbers
expects. The price category is then named after the price: "90000.00".
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from concert_service.domain import Seat
from protos.frontrow.concert.v1 import concert_pb2

DIGEST_BYTES = 16
# 65,536 seats, the most of a schedule, with the longest numbers take 5 MB.
MAX_LAYOUT_BYTES = 6_000_000
_MAX_PLACE = 65_535
_ROW_AND_PLACE = re.compile(r"([^\W\d_]+)[ -]?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """A frontrow.concert.v1.SeatLayout, serialized without its digest, and the digest."""

    digest: bytes
    packed: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Seats whose ids follow one another."""

    first_seat_id: int
    count: int


@dataclass(frozen=True, slots=True)
class PackedSeatMap:
    """The seats of a schedule in seat order: the digest of their layout, and their ids."""

    schedule_id: int
    layout: bytes
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class MappedSchedule:
    """An upcoming schedule, and its map unless that has to be made."""

    id: int
    seat_count: int
    seat_map: PackedSeatMap | None


@dataclass(frozen=True, slots=True)
class MapsOfConcerts:
    """The schedules that were asked for, and others of the same concerts."""

    asked: Sequence[MappedSchedule]
    siblings: Sequence[MappedSchedule]


class SeatLayoutTooLarge(Exception):
    """The seats of a schedule take more bytes than a response may have: their names are too long
    for their number."""


def pack_layout(schedule_id: int, seats: Sequence[Seat]) -> PackedLayout:
    """Packs what all seats of a schedule, which are in seat order, may have in common with those of
    other schedules. Raises SeatLayoutTooLarge if that takes more than 6 MB."""
    rows: dict[tuple[str, str], int] = {}
    categories: dict[tuple[str, str], int] = {}
    row_of, place_of, category_of = [], [], []
    for seat, (row, place) in zip(seats, _rows_and_places(seats), strict=True):
        price = f"{seat.price:.2f}"
        category = price if seat.price_category is None else seat.price_category
        row_of.append(rows.setdefault((seat.section, row), len(rows)))
        place_of.append(place)
        category_of.append(categories.setdefault((category, price), len(categories)))
    packed = concert_pb2.SeatLayout(
        seat_nums=[seat.seat_num for seat in seats],
        row_names=[row for _, row in rows],
        row_sections=[section for section, _ in rows],
        rows=row_of,
        places=place_of,
        price_categories=[
            concert_pb2.SeatLayout.PriceCategory(name=name, price=price)
            for name, price in categories
        ],
        categories=category_of,
        accessible=[seat.accessible for seat in seats],
    ).SerializeToString(deterministic=True)
    if len(packed) > MAX_LAYOUT_BYTES:
        raise SeatLayoutTooLarge(f"schedule {schedule_id}: {len(packed):,} bytes")
    return PackedLayout(hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest(), packed)


def pack(schedule_id: int, seats: Sequence[Seat]) -> tuple[PackedSeatMap, PackedLayout]:
    """Packs all seats of a schedule, which are in seat order. Raises SeatLayoutTooLarge."""
    layout = pack_layout(schedule_id, seats)
    runs = runs_of(seat.id for seat in seats)
    return PackedSeatMap(schedule_id, layout.digest, runs), layout


def runs_of(seat_ids: Iterable[int]) -> tuple[Run, ...]:
    """Returns the runs of these ids, in their order."""
    runs: list[Run] = []
    first, count = 0, 0
    for seat_id in seat_ids:
        if count and seat_id == first + count:
            count += 1
            continue
        if count:
            runs.append(Run(first, count))
        first, count = seat_id, 1
    if count:
        runs.append(Run(first, count))
    return tuple(runs)


def runs_to_text(runs: Sequence[Run]) -> str:
    """Returns the runs as they are stored: "1+150 301+20"."""
    return " ".join(f"{run.first_seat_id}+{run.count}" for run in runs)


def runs_from_text(text: str) -> tuple[Run, ...]:
    """Reads what `runs_to_text` returned."""
    pairs = (run.split("+") for run in text.split())
    return tuple(Run(int(first), int(count)) for first, count in pairs)


def _rows_and_places(seats: Sequence[Seat]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for seat in seats:
        if seat.row_name is not None and seat.place is not None:
            found.append((seat.row_name, seat.place))
            continue
        match = _ROW_AND_PLACE.fullmatch(seat.seat_num)
        if match is None or int(match[2]) > _MAX_PLACE:
            return _one_row(seats)
        found.append((match[1], int(match[2])))
    taken = {(seat.section, *place) for seat, place in zip(seats, found, strict=True)}
    return found if len(taken) == len(seats) else _one_row(seats)


def _one_row(seats: Sequence[Seat]) -> list[tuple[str, int]]:
    return [("", place) for place in range(1, len(seats) + 1)]
