"""The seats and the dates that follow from an event document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from concert_service.events.document import (
    EventDocument,
    EventSchedule,
    ListedRow,
    NumberedRow,
    Row,
    StandingSection,
    standing_label,
)
from concert_service.venue_time import date_at_venue, end_of_date

# The section and the label of a seat: which seat it is, in whatever version of the document.
SeatName = tuple[str, str]


class SeatFacts(NamedTuple):
    """A seat as the table stores it, the same on every date."""

    section: str
    label: str
    row_name: str
    place: int
    price_category: str
    price: Decimal
    accessible: bool
    companion: bool
    general_admission: bool
    row_rank: int | None
    x: int | None
    y: int | None

    @property
    def name(self) -> SeatName:
        return self.section, self.label


@dataclass(frozen=True, slots=True)
class ScheduleFacts:
    """A date as the table stores it. Instants are in UTC. `listed_until`: the end of its date at
    the venue."""

    external_id: str
    date: date
    starts_at: datetime
    listed_until: datetime
    sales_from: datetime | None
    sales_until: datetime | None
    cancelled: bool


def seats_of(event: EventDocument) -> list[SeatFacts]:
    """Returns the seats of each date, in seat order. Takes 2 µs a seat."""
    return list(_Seats(event))


def schedule_facts(event: EventDocument, schedule: EventSchedule) -> ScheduleFacts:
    """Returns what the table stores of a date."""
    day = date_at_venue(schedule.starts_at, event.time_zone)
    return ScheduleFacts(
        external_id=schedule.external_id,
        date=day,
        starts_at=schedule.starts_at,
        listed_until=end_of_date(day, event.time_zone),
        sales_from=schedule.sales_from,
        sales_until=schedule.sales_until,
        cancelled=schedule.cancelled,
    )


class _Seats:
    def __init__(self, event: EventDocument) -> None:
        self._event = event
        self._prices = {category.name: category.price for category in event.price_categories}
        self._ranks = _ranks(event)
        self._has_coordinates = any(
            _has_coordinates(row)
            for section in event.sections
            if not isinstance(section, StandingSection)
            for row in section.rows
        )

    def __iter__(self) -> Iterator[SeatFacts]:
        ranks = iter(self._ranks)
        for section in self._event.sections:
            if isinstance(section, StandingSection):
                yield from self._standing(section, next(ranks))
                continue
            for row in section.rows:
                if isinstance(row, ListedRow):
                    yield from self._listed(section.name, row, next(ranks))
                else:
                    yield from self._numbered(section.name, row, next(ranks))

    def _standing(self, section: StandingSection, rank: int | None) -> Iterator[SeatFacts]:
        places = section.general_admission
        # Nobody looks for them on a map, but a map has coordinates of every seat or of none.
        coordinate = 0 if self._has_coordinates else None
        for number in range(1, places.capacity + 1):
            yield SeatFacts(
                section=section.name,
                label=standing_label(number),
                row_name="",
                place=number,
                price_category=places.price_category,
                price=self._prices[places.price_category],
                accessible=False,
                companion=False,
                general_admission=True,
                row_rank=rank,
                x=coordinate,
                y=coordinate,
            )

    def _listed(self, section: str, row: ListedRow, rank: int | None) -> Iterator[SeatFacts]:
        for seat in row.seats:
            category = seat.price_category or row.price_category
            assert category is not None  # `rules` checks it
            yield SeatFacts(
                section=section,
                label=seat.label,
                row_name=row.name,
                place=seat.place,
                price_category=category,
                price=self._prices[category],
                accessible=seat.accessible,
                companion=seat.companion,
                general_admission=False,
                row_rank=rank,
                x=seat.x,
                y=seat.y,
            )

    def _numbered(self, section: str, row: NumberedRow, rank: int | None) -> Iterator[SeatFacts]:
        accessible, companions = set(row.accessible), set(row.companions)
        price = self._prices[row.price_category]
        for number in range(row.first, row.last + 1):
            yield SeatFacts(
                section=section,
                label=f"{row.name}{row.separator}{number}",
                row_name=row.name,
                place=number,
                price_category=row.price_category,
                price=price,
                accessible=number in accessible,
                companion=number in companions,
                general_admission=False,
                row_rank=rank,
                x=None if row.x is None else row.x + (number - row.first) * row.step,
                y=row.y,
            )


def _ranks(event: EventDocument) -> Sequence[int | None]:
    """Returns the rank of each row and section without seats, in the order of the document. If none
    has one, there are none: rows rank in seat order then."""
    given: list[int | None] = []
    for section in event.sections:
        if isinstance(section, StandingSection):
            given.append(section.general_admission.rank)
        else:
            given += [row.rank for row in section.rows]
    last = max((rank for rank in given if rank is not None), default=None)
    if last is None:
        return given
    return [last + 1 + index if rank is None else rank for index, rank in enumerate(given)]


def _has_coordinates(row: Row) -> bool:
    if isinstance(row, ListedRow):
        return any(seat.x is not None for seat in row.seats)
    return row.x is not None
