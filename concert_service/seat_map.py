"""Packs the seats of a schedule: a layout, which many schedules share, and runs of ids.

Both are copies of the rows of `seat`, made at the first request for them. A transaction that
changes seats must first lock the row of their schedule (`SELECT … FOR UPDATE`), and delete its
`seat_map`. Making a map takes the same lock, so that no map of older seats is stored. A transaction
that writes what the version before does not know (ranks, companions, removed seats, …) makes the
maps itself, with `seat_map_repository.make_maps`, or that version would make them without it.

Seats that were removed are in no map. The coordinates are, if all seats have them.

Seats of the version before have no row, place and price category. The row and the place are then
those of their numbers (B7: row B, place 7). If a schedule has a number of another form, or the same
place twice, its seats count as one row in seat order, which is what a buyer of adjacent numbers
expects. The price category is then named after the price: "90000.00".
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from concert_service.domain import DEFAULT_ROOM, Seat
from protos import money
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
class SaleFacts:
    """What a schedule and its concert say about the sale of seats; see `domain.Schedule`."""

    concert_id: int = 0
    room: str = DEFAULT_ROOM
    currency: str = money.DEFAULT_CURRENCY
    sales_from: datetime | None = None
    sales_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class PackedSeatMap:
    """The seats of a schedule in seat order: the digest of their layout, and their ids. The facts
    of the sale are not stored with it, and read with each request."""

    schedule_id: int
    layout: bytes
    runs: tuple[Run, ...]
    facts: SaleFacts = SaleFacts()


@dataclass(frozen=True, slots=True)
class MappedSchedule:
    """An upcoming schedule, and its map unless that has to be made; the map is without `facts`."""

    id: int
    seat_count: int
    facts: SaleFacts
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
    found = _rows_and_places(seats)
    rows = _rows(seats, [row for row, _ in found])
    categories: dict[tuple[str, str], int] = {}
    category_of = []
    for seat in seats:
        price = money.to_text(seat.price, seat.currency)
        category = price if seat.price_category is None else seat.price_category
        category_of.append(categories.setdefault((category, price), len(categories)))
    has_places = {seat.section for seat in seats if seat.general_admission}
    x, y = _coordinates(seats)
    packed = concert_pb2.SeatLayout(
        seat_nums=[seat.seat_num for seat in seats],
        row_names=[row for _, row in rows],
        row_sections=[section for section, _ in rows],
        rows=[rows[seat.section, row] for seat, (row, _) in zip(seats, found, strict=True)],
        places=[place for _, place in found],
        price_categories=[
            concert_pb2.SeatLayout.PriceCategory(name=name, price=price)
            for name, price in categories
        ],
        categories=category_of,
        accessible=[seat.accessible for seat in seats],
        # These are empty for most halls: all of them together would double a layout.
        companion=_unless_trivial([seat.companion for seat in seats]),
        general_admission=_unless_trivial([section in has_places for section, _ in rows]),
        x=x,
        y=y,
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


def _rows(seats: Sequence[Seat], names: Sequence[str]) -> dict[tuple[str, str], int]:
    """Returns the number of each row (section, name), from the best one on. A row has the best rank
    of its seats."""
    ranks: dict[tuple[str, str], float] = {}
    for seat, name in zip(seats, names, strict=True):
        rank = math.inf if seat.row_rank is None else seat.row_rank
        row = (seat.section, name)
        ranks[row] = min(rank, ranks.get(row, math.inf))
    return {row: number for number, row in enumerate(sorted(ranks, key=ranks.__getitem__))}


def _unless_trivial(flags: list[bool]) -> list[bool]:
    return flags if any(flags) else []


def _coordinates(seats: Sequence[Seat]) -> tuple[list[int], list[int]]:
    x = [seat.x for seat in seats if seat.x is not None]
    y = [seat.y for seat in seats if seat.y is not None]
    return (x, y) if len(x) == len(y) == len(seats) else ([], [])


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
