"""Seats as CSV: a line for each seat, in seat order.

Columns: section, row, place, label, priceCategory, accessible, companion, rank, x, y, in any order;
the first five are needed. rank is that of the row, the same in all its lines.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import get_args

from pydantic import JsonValue

from concert_service.events.document import MAX_SEATS, Separator
from concert_service.events.problem import MAX_PROBLEMS, Path, Problem

NEEDED = ("section", "row", "place", "label", "priceCategory")
COLUMNS = (*NEEDED, "accessible", "companion", "rank", "x", "y")
_TRUE, _FALSE = {"true", "yes", "1", "x"}, {"false", "no", "0", ""}
SEPARATORS = get_args(Separator)
# The column of what a member of the document is called differently in.
_COLUMN_OF_NAME = {2: "section", 4: "row"}

Json = dict[str, JsonValue]


class _Mistake(Exception):
    """What is wrong with a cell, in one sentence."""


@dataclass(slots=True)
class CsvSeats:
    """The sections that a CSV file describes, and what is wrong with it.

    `lines` has the line of each seat, by the indexes of its section, row and seat.
    """

    sections: list[JsonValue] = field(default_factory=list)
    lines: dict[tuple[int, int, int], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> tuple[str, int]:
        """Returns the column and the line of a path in these sections, whose first index counts
        from the first of them."""
        section = path[1] if len(path) > 1 else 0
        row = path[3] if len(path) > 3 else 0
        seat = path[5] if len(path) > 5 else 0
        assert isinstance(section, int)
        assert isinstance(row, int)
        assert isinstance(seat, int)
        name = next((step for step in reversed(path) if isinstance(step, str)), "")
        if name == "name":
            name = _COLUMN_OF_NAME.get(len(path) - 1, name)
        column = name if name in COLUMNS else "row"
        return column, self.lines.get((section, row, seat), 0)


def read(data: bytes) -> CsvSeats:
    """Reads a CSV file in UTF-8, separated by commas or semicolons. Lines with a mistake are left
    out."""
    found = CsvSeats()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found.problems.append(Problem("", line, "The file is not UTF-8.", in_csv=True))
        return found
    header, _, _ = text.partition("\n")
    separator = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = _Lines(found)
    begin = 1
    try:
        for cells in reader:
            lines.add(begin, cells)
            begin = reader.line_num + 1
            if len(found.problems) >= MAX_PROBLEMS or len(found.lines) > MAX_SEATS:
                break
    except csv.Error as error:
        found.problems.append(Problem("", begin, f"This is not CSV: {error}.", in_csv=True))
    if lines.columns is None and not found.problems:
        found.problems.append(Problem("", 1, "The file is empty.", in_csv=True))
    return found


class _Lines:
    """Turns the lines into sections."""

    def __init__(self, found: CsvSeats) -> None:
        self.columns: list[str] | None = None
        self._found = found
        # The index of each section, and of each row in it, with its seats and its rank.
        self._sections: dict[str, int] = {}
        self._rows: dict[tuple[int, str], int] = {}
        self._seats: dict[tuple[int, int], list[JsonValue]] = {}
        self._row_items: dict[tuple[int, int], Json] = {}
        self._rows_of: list[list[JsonValue]] = []

    def add(self, line: int, cells: list[str]) -> None:
        if not any(cells):
            return  # a blank line
        if self.columns is None:
            self.columns = self._header(line, cells)
            return
        if not self.columns:
            return  # the header has a mistake, which is named
        if len(cells) != len(self.columns):
            self._refuse(
                "", line, f"The line has {len(cells)} cells, the header has {len(self.columns)}."
            )
            return
        self._add_seat(line, dict(zip(self.columns, cells, strict=True)))

    def _header(self, line: int, cells: list[str]) -> list[str]:
        """Returns the columns; none if there is a mistake."""
        columns = [cell.strip() for cell in cells]
        mistakes = [
            *((name, "This column is missing.") for name in NEEDED if name not in columns),
            *((name, "There is no such column.") for name in columns if name not in COLUMNS),
            *((name, "This column is there twice.") for name in COLUMNS if columns.count(name) > 1),
        ]
        for column, reason in mistakes:
            self._refuse(column, line, reason)
        return [] if mistakes else columns

    def _add_seat(self, line: int, cells: dict[str, str]) -> None:
        values: Json = {}
        good = True
        for column, cell in cells.items():
            try:
                values[column] = _READERS.get(column, _text)(cell)
            except _Mistake as mistake:
                self._refuse(column, line, str(mistake))
                good = False
        if not good:
            return
        name, row_name = cells["section"], cells["row"]
        section = self._sections.setdefault(name, len(self._sections))
        if section == len(self._rows_of):
            self._rows_of.append([])
            rows: list[JsonValue] = self._rows_of[section]
            self._found.sections.append({"name": name, "rows": rows})
        row = self._rows.setdefault((section, row_name), len(self._rows_of[section]))
        rank = values.pop("rank", None)
        if (section, row) not in self._seats:
            seats: list[JsonValue] = []
            self._seats[section, row] = seats
            item: Json = {"name": row_name, "rank": rank, "seats": seats}
            self._row_items[section, row] = item
            self._rows_of[section].append(item)
        elif rank != self._row_items[section, row]["rank"]:
            self._refuse("rank", line, "Another line of this row has another rank.")
            return
        seats = self._seats[section, row]
        self._found.lines[section, row, len(seats)] = line
        del values["section"], values["row"]
        seats.append(values)

    def _refuse(self, column: str, line: int, reason: str) -> None:
        self._found.problems.append(Problem(column, line, reason, in_csv=True))


def _text(cell: str) -> JsonValue:
    return cell


def _number(cell: str) -> JsonValue:
    digits = cell.strip().removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 10:
        raise _Mistake("Must be a whole number.")
    return int(cell)


def _optional_number(cell: str) -> JsonValue:
    return _number(cell) if cell.strip() else None


def _boolean(cell: str) -> JsonValue:
    lowered = cell.strip().lower()
    if lowered not in _TRUE | _FALSE:
        raise _Mistake("Must be true or false.")
    return lowered in _TRUE


_READERS: dict[str, Callable[[str], JsonValue]] = {
    "place": _number,
    "accessible": _boolean,
    "companion": _boolean,
    "rank": _optional_number,
    "x": _optional_number,
    "y": _optional_number,
}


def compact(sections: list[JsonValue]) -> Iterator[JsonValue]:
    """Yields the sections of a CSV file as an operator would write them: rows whose labels follow
    from their numbers become `from` and `to`. Expects sections without mistakes."""
    for section in sections:
        assert isinstance(section, dict)
        rows = section["rows"]
        assert isinstance(rows, list)
        yield {**section, "rows": [_compact_row(row) for row in rows if isinstance(row, dict)]}


def _compact_row(row: Json) -> Json:
    seats = list(_objects(row["seats"]))
    first, name = seats[0], row["name"]
    rank: Json = {} if row["rank"] is None else {"rank": row["rank"]}
    from_, x = _int(first["place"]), first.get("x")
    step = _int(seats[1]["x"]) - _int(x) if len(seats) > 1 and x is not None else 1
    prefix = str(first["label"]).removesuffix(str(from_))
    separator = prefix.removeprefix(str(name))
    numbered = (
        prefix == f"{name}{separator}"
        and separator in SEPARATORS
        and all(
            seat["place"] == from_ + n
            and seat["label"] == f"{prefix}{from_ + n}"
            and seat["priceCategory"] == first["priceCategory"]
            and seat.get("y") == first.get("y")
            and (x is None or seat["x"] == _int(x) + n * step)
            for n, seat in enumerate(seats)
        )
    )
    if not numbered:
        return {
            "name": name,
            **rank,
            "seats": [
                {key: value for key, value in seat.items() if value not in (None, False)}
                for seat in seats
            ],
        }
    special: Json = {
        key: numbers
        for key, column in (("accessible", "accessible"), ("companions", "companion"))
        if (numbers := [seat["place"] for seat in seats if seat.get(column)])
    }
    coordinates: Json = {} if x is None else {"x": x, "y": first["y"], "step": step}
    return {
        "name": name,
        **rank,
        "priceCategory": first["priceCategory"],
        "from": from_,
        "to": from_ + len(seats) - 1,
        **({"separator": separator} if separator else {}),
        **special,
        **coordinates,
    }


def _objects(value: JsonValue) -> Iterator[Json]:
    assert isinstance(value, list)
    yield from (item for item in value if isinstance(item, dict))


def _int(value: JsonValue) -> int:
    assert isinstance(value, int)
    return value
