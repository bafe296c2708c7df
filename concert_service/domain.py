"""Concerts, schedules and seats as facts, and the errors about them."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from servicekit.errors import InvalidRequest, NotFound

MAX_PAGE_SIZE = 100
MAX_SEATS = 1000
MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Concert:
    id: int
    title: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """One evening of a concert."""

    id: int
    concert_id: int
    date: date
    seat_count: int


@dataclass(frozen=True, slots=True)
class Seat:
    """One seat of one schedule, as printed on the ticket."""

    id: int
    schedule_id: int
    seat_num: str
    price: Decimal


class ConcertNotFound(NotFound):
    code = "CONCERT_NOT_FOUND"

    def __init__(self, concert_id: int) -> None:
        super().__init__("There is no such concert.", concert_id=concert_id)


class ScheduleNotFound(NotFound):
    code = "SCHEDULE_NOT_FOUND"

    def __init__(self, schedule_id: int) -> None:
        super().__init__("There is no such schedule.", schedule_id=schedule_id)


def page_size(asked: int) -> int:
    """How many items a page has: 100 unless the client asks for fewer."""
    if asked < 0:
        raise InvalidRequest("page_size must not be below 0.")
    return min(asked or MAX_PAGE_SIZE, MAX_PAGE_SIZE)


def check_seats(seat_ids: Sequence[int]) -> None:
    """Raises InvalidRequest for too many at once."""
    if len(seat_ids) > MAX_SEATS:
        raise InvalidRequest(f"At most {MAX_SEATS} seats at once.")


def to_page_token(last_id: int) -> str:
    """The token of the page after the item `last_id`."""
    return base64.urlsafe_b64encode(str(last_id).encode()).decode().rstrip("=")


def from_page_token(token: str) -> int:
    """The id after which the page begins; 0 for the first page, whose token is empty."""
    if not token:
        return 0
    try:
        last_id = int(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii"))
    except (binascii.Error, ValueError):
        last_id = 0
    # Only what this service gave: int() and the decoder alone would let other spellings pass.
    if not 0 < last_id <= MAX_ID or to_page_token(last_id) != token:
        raise InvalidRequest("page_token is not one that this service gave.")
    return last_id
