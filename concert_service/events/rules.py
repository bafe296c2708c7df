"""What the values of an event document have to do with each other: names that occur once,
references that lead somewhere, prices that fit the currency, times in order.

Works on the JSON and not on the model, so that one value with a mistake hides no other mistake:
what is not valid by itself is left out, and what refers to it is not blamed.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from concert_service.events.document import (
    MAX_LABEL,
    MAX_NAME,
    MAX_PLACE,
    MAX_SEATS,
    MAX_SEATS_OF_ALL_SCHEDULES,
    Allowance,
    EventSchedule,
    ListedRow,
    NumberedRow,
    PriceCategory,
    Row,
    SeatReference,
    StandingPlaces,
    labels_of,
    standing_label,
)
from concert_service.events.instants import zone_names
from concert_service.events.problem import Findings, Path
from concert_service.venue_time import date_at_venue, end_of_date
from protos import money

Model = TypeVar("Model", bound=BaseModel)
Json = Mapping[str, JsonValue]


@dataclass(slots=True)
class _Section:
    """The labels of a section, and how they look. `complete`: none was left out."""

    labels: set[str] = field(default_factory=set)
    looks: set[str] = field(default_factory=set)
    complete: bool = True


def check(document: Json, findings: Findings, *, complete: bool = True) -> None:
    """Adds every mistake that is not one of a single value. `complete` is False if some seats were
    left out already."""
    _Rules(document, findings, complete).check()


class _Rules:
    def __init__(self, document: Json, findings: Findings, complete: bool) -> None:
        self._document = document
        self._findings = findings
        self._complete = complete
        # None: some category has a mistake, so nobody knows which ones there are.
        self._categories: set[str] | None = set()
        self._sections: dict[str, _Section] = {}
        self._names: set[str] = set()
        self._seats = 0
        self._without_coordinates: Path | None = None
        self._with_coordinates: Path | None = None

    def check(self) -> None:
        self._check_categories()
        for path, section in _items(self._document, "sections"):
            self._check_section(path, section)
        self._check_numbers()
        if self._with_coordinates is not None and self._without_coordinates is not None:
            self._findings.add(
                self._without_coordinates,
                "Either every seat has x and y, or none: other seats have them.",
            )
        self._check_schedules()

    def _check_categories(self) -> None:
        currency = self._document.get("currency")
        names: set[str] = set()
        broken = False
        for path, item in _items(self._document, "priceCategories"):
            category = _valid(PriceCategory, item)
            if category is None:
                broken = True
                continue
            self._once(names, category.name, (*path, "name"), "price category")
            if isinstance(currency, str) and money.is_currency(currency):
                places = money.decimal_places(currency)
                if category.price != round(category.price, places):
                    self._findings.add(
                        (*path, "price"), f"{currency} has at most {places} decimal places."
                    )
        self._categories = None if broken else names

    def _check_section(self, path: Path, section: JsonValue) -> None:
        if not isinstance(section, dict):
            self._complete = False
            return
        name = section.get("name")
        found = _Section()
        if not isinstance(name, str) or len(name) > MAX_NAME:
            self._complete = False
        else:
            self._once(self._names, name, (*path, "name"), "section")
            found = self._sections.setdefault(name, found)
        if "generalAdmission" in section:
            self._check_standing((*path, "generalAdmission"), section["generalAdmission"], found)
            return
        names: set[str] = set()
        for row_path, item in _items(section, "rows", path):
            seats = isinstance(item, dict) and "seats" in item
            row = _valid(ListedRow, item) if seats else _valid(NumberedRow, item)
            if row is None:
                found.complete = False
                continue
            self._once(names, row.name, (*row_path, "name"), "row of this section")
            self._check_row(row_path, row, found)

    def _check_standing(self, path: Path, item: JsonValue, section: _Section) -> None:
        places = _valid(StandingPlaces, item)
        if places is None:
            section.complete = False
            return
        self._check_category((*path, "priceCategory"), places.price_category)
        if not self._count(places.capacity, section):
            return
        section.labels.update(standing_label(n) for n in range(1, places.capacity + 1))

    def _check_row(self, path: Path, row: Row, section: _Section) -> None:
        if isinstance(row, NumberedRow):
            if not self._check_numbered(path, row):
                section.complete = False
                return
        else:
            self._check_listed(path, row)
        size = len(row.seats) if isinstance(row, ListedRow) else row.last - row.first + 1
        if not self._count(size, section):
            return
        for number, (label, _) in enumerate(labels_of(row)):
            where = (*path, "seats", number, "label") if isinstance(row, ListedRow) else path
            if len(label) > MAX_LABEL:
                self._findings.add(
                    where, f"The label {label!r} has more than {MAX_LABEL} characters."
                )
            self._once(section.looks, label, where, "seat", " in this section")
            section.labels.add(label)

    def _count(self, seats: int, section: _Section) -> bool:
        """Counts seats; returns whether they are so few that looking at each is worth it: a short
        document can have billions."""
        self._seats += seats
        section.complete &= self._seats <= MAX_SEATS
        return self._seats <= MAX_SEATS

    def _check_numbered(self, path: Path, row: NumberedRow) -> bool:
        """Returns whether it is known which seats the row has."""
        self._check_category((*path, "priceCategory"), row.price_category)
        if row.last < row.first:
            self._findings.add((*path, "to"), "Must not be below `from`.")
            return False
        special: set[int] = set()
        for key, numbers in (("accessible", row.accessible), ("companions", row.companions)):
            for index, number in enumerate(numbers):
                where = (*path, key, index)
                if not row.first <= number <= row.last:
                    self._findings.add(where, f"The row has no seat {number}.")
                if number in special:
                    self._findings.add(where, f"Seat {number} is listed twice.")
                special.add(number)
        last_x = (row.x or 0) + row.step * (row.last - row.first)
        if abs(last_x) > 2**31 - 1:
            self._findings.add((*path, "step"), "The last seat is too far out.")
        self._check_coordinates(path, row.x, row.y)
        return True

    def _check_listed(self, path: Path, row: ListedRow) -> None:
        if row.price_category is not None:
            self._check_category((*path, "priceCategory"), row.price_category)
        places: set[int] = set()
        for index, seat in enumerate(row.seats):
            where = (*path, "seats", index)
            if seat.price_category is not None:
                self._check_category((*where, "priceCategory"), seat.price_category)
            elif row.price_category is None:
                self._findings.add(
                    (*where, "priceCategory"), "Neither the seat nor its row has a price category."
                )
            if seat.place in places:
                self._findings.add(
                    (*where, "place"), f"There is another seat in place {seat.place} of this row."
                )
            places.add(seat.place)
            if seat.accessible and seat.companion:
                self._findings.add(
                    (*where, "companion"), "A seat is either accessible or a companion's."
                )
            self._check_coordinates(where, seat.x, seat.y)

    def _check_coordinates(self, path: Path, x: int | None, y: int | None) -> None:
        if (x is None) != (y is None):
            missing = "x" if x is None else "y"
            self._findings.add((*path, missing), "A seat has both x and y, or none of them.")
        elif x is None:
            self._without_coordinates = self._without_coordinates or path
        else:
            self._with_coordinates = self._with_coordinates or path

    def _check_category(self, path: Path, name: str) -> None:
        if self._categories is not None and name not in self._categories:
            self._findings.add(path, f"There is no price category {name!r}.")

    def _check_numbers(self) -> None:
        if self._seats > MAX_SEATS:
            self._findings.add(
                ("sections",),
                f"These are {self._seats:,} seats; at most {MAX_SEATS:,} are allowed.",
            )
        schedules = sum(1 for _ in _items(self._document, "schedules"))
        if self._seats * schedules > MAX_SEATS_OF_ALL_SCHEDULES:
            self._findings.add(
                ("schedules",),
                f"All schedules together have {self._seats * schedules:,} seats; at most"
                f" {MAX_SEATS_OF_ALL_SCHEDULES:,} are allowed.",
            )

    def _check_schedules(self) -> None:
        zone = self._document.get("timeZone")
        ids: set[str] = set()
        for path, item in _items(self._document, "schedules"):
            self._check_blocked(path, item)
            schedule = _valid(EventSchedule, item)
            if schedule is None:
                continue
            self._once(ids, schedule.external_id, (*path, "externalId"), "schedule")
            start, until = schedule.sales_from, schedule.sales_until
            if start and until and start >= until:
                self._findings.add((*path, "salesUntil"), "Must be after salesFrom.")
            if isinstance(zone, str) and zone in zone_names() and start is not None:
                end = end_of_date(date_at_venue(schedule.starts_at, zone), zone)
                if start >= end:
                    self._findings.add(
                        (*path, "salesFrom"),
                        "Must be before the end of the schedule's date at the venue.",
                    )

    def _check_blocked(self, path: Path, schedule: JsonValue) -> None:
        if not isinstance(schedule, dict):
            return
        blocked: set[tuple[str, str]] = set()
        for where, item in _items(schedule, "blocked", path):
            seat = _valid(SeatReference, item)
            if seat is None:
                continue
            self._check_exists(where, seat)
            if (seat.section, seat.label) in blocked:
                self._findings.add(where, f"Seat {seat.label!r} is listed twice.")
            blocked.add((seat.section, seat.label))

    def _check_exists(self, path: Path, seat: SeatReference) -> None:
        section = self._sections.get(seat.section)
        if section is None:
            if self._complete:
                self._findings.add((*path, "section"), f"There is no section {seat.section!r}.")
        elif seat.label not in section.labels and section.complete and self._complete:
            self._findings.add(
                (*path, "label"), f"Section {seat.section!r} has no seat {seat.label!r}."
            )

    def _once(self, looks: set[str], name: str, path: Path, kind: str, where: str = "") -> None:
        """Names that look the same are the same to buyers: é may be one character or two."""
        look = name if name.isascii() else unicodedata.normalize("NFC", name)
        if look in looks:
            self._findings.add(path, f"There is another {kind} {name!r}{where}.")
        looks.add(look)


def _items(parent: Json, key: str, path: Path = ()) -> Iterator[tuple[Path, JsonValue]]:
    """Yields each item of a list and its path; nothing if it is no list."""
    value = parent.get(key)
    if isinstance(value, list):
        yield from (((*path, key, index), item) for index, item in enumerate(value))


def _valid(model: type[Model], value: JsonValue) -> Model | None:
    try:
        return model.model_validate(value, context=Allowance(1))
    except ValidationError:
        return None


assert MAX_SEATS <= MAX_PLACE  # so that the places of a section without seats can be numbered
