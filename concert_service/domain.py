"""Concerts, schedules and seats, and the tokens of their pages."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from protos.money import DEFAULT_CURRENCY
from servicekit.errors import InvalidRequest

MAX_CONCERTS_PER_PAGE = 100
# Of schedules or seats: half a megabyte of seats with the longest names, while gRPC's limit of a
# message is 4 MB, and 20 ms of work in one piece.
MAX_ROWS_PER_PAGE = 5000
MAX_SEATS = 1000
MAX_SEAT_MAP_IDS = 1000
MAX_ID = 2**63 - 1
DEFAULT_ROOM = "main"
_NO_TOKEN = "page_token is not a token from a previous response."


# The date and the id of a schedule.
ScheduleOrder = tuple[date, int]
BEFORE_ALL_SCHEDULES: ScheduleOrder = (date.min, 0)


class EventStatus(StrEnum):
    """The state of a concert. Only a published one is for sale."""

    DRAFT = "DRAFT"
    PUBLISHED = "PUBLISHED"
    CANCELLED = "CANCELLED"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Concert:
    """A concert; each of its dates is a Schedule.

    `time_zone` is the IANA name of the venue's, `room` the waiting room that leads to it,
    `currency` that of all its prices.
    """

    id: int
    title: str
    description: str = ""
    venue: str = ""
    time_zone: str = "UTC"
    image_url: str = ""
    room: str = DEFAULT_ROOM
    currency: str = DEFAULT_CURRENCY
    status: EventStatus = EventStatus.PUBLISHED


@dataclass(frozen=True, slots=True)
class Schedule:
    """One date of a concert: the date at the venue. Times have their zone.

    It is listed until `listed_until`, when the date ends at the venue; without one, until the date
    ends in UTC. Seats may be held from `sales_from` to `sales_until`; None: no such limit.
    """

    id: int
    concert_id: int
    date: date
    seat_count: int
    starts_at: datetime | None = None
    listed_until: datetime | None = None
    sales_from: datetime | None = None
    sales_until: datetime | None = None
    cancelled: bool = False

    @property
    def order(self) -> ScheduleOrder:
        """Schedules of a concert are listed in this order."""
        return self.date, self.id


@dataclass(frozen=True, slots=True)
class Seat:
    """One seat of one schedule; its number and price as printed on the ticket.

    Seats of one row of a section whose places follow one another are adjacent. `row_name`, `place`
    and `price_category` are None if the version before has added the seat. The best row has the
    lowest rank; those without one follow, in seat order. A companion seat is for the companion of
    somebody in an accessible seat. `general_admission`: its section has places, which are assigned
    in any order. `x` and `y` are coordinates in the hall.
    """

    id: int
    schedule_id: int
    seat_num: str
    price: Decimal
    row_name: str | None = None
    place: int | None = None
    price_category: str | None = None
    section: str = ""
    accessible: bool = False
    currency: str = DEFAULT_CURRENCY
    row_rank: int | None = None
    companion: bool = False
    general_admission: bool = False
    x: int | None = None
    y: int | None = None


@dataclass(frozen=True, slots=True)
class SeatPage:
    """Seats of a schedule, in seat order. The next page begins at `next_position`; 0 on the last
    page."""

    seats: Sequence[Seat]
    next_position: int


def page_size(asked: int, most: int) -> int:
    """Returns the number of items of a page: at most `most`, which is also the default (0). Raises
    InvalidRequest for a negative size."""
    if asked < 0:
        raise InvalidRequest("page_size must not be below 0.")
    return min(asked or most, most)


def check_seats(seat_ids: Sequence[int]) -> None:
    """Raises InvalidRequest for more than 1,000 seats."""
    if len(seat_ids) > MAX_SEATS:
        raise InvalidRequest(f"At most {MAX_SEATS} seats per request.")


def check_ids(schedule_ids: Sequence[int], seat_ids: Sequence[int]) -> None:
    """Raises InvalidRequest for more than 1,000 ids together."""
    if len(schedule_ids) + len(seat_ids) > MAX_SEAT_MAP_IDS:
        raise InvalidRequest(f"At most {MAX_SEAT_MAP_IDS} ids per request.")


def to_page_token(last_id: int) -> str:
    """Returns the token of the page that begins after the item `last_id`, or at this position."""
    return _encoded(str(last_id))


def from_page_token(token: str) -> int:
    """Returns the id after which the page begins, or its position; 0 for an empty token, the first
    page. Raises InvalidRequest for a token that `to_page_token` did not make."""
    if not token:
        return 0
    try:
        last_id = int(_decoded(token))
    except ValueError:
        last_id = 0
    # int() and the decoder also accept other spellings of a token.
    if not 0 < last_id <= MAX_ID or to_page_token(last_id) != token:
        raise InvalidRequest(_NO_TOKEN)
    return last_id


def to_schedules_token(last: ScheduleOrder) -> str:
    """Returns the token of the page of schedules that begins after `last`, which may be deleted
    meanwhile."""
    return _encoded(f"{last[0].isoformat()} {last[1]}")


def from_schedules_token(token: str) -> ScheduleOrder:
    """Returns after which schedule the page begins; an empty token is the first page. Raises
    InvalidRequest for a token that `to_schedules_token` did not make."""
    if not token:
        return BEFORE_ALL_SCHEDULES
    try:
        day, _, last_id = _decoded(token).partition(" ")
        last = date.fromisoformat(day), int(last_id)
    except ValueError:
        last = BEFORE_ALL_SCHEDULES
    if not 0 < last[1] <= MAX_ID or to_schedules_token(last) != token:
        raise InvalidRequest(_NO_TOKEN)
    return last


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(token: str) -> str:
    """Raises ValueError."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
