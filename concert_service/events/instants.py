"""Instants and time zones of event documents."""

import re
from datetime import UTC, datetime
from functools import cache
from zoneinfo import available_timezones

from pydantic_core import PydanticCustomError

# RFC 3339, with an offset: so an hour that clocks repeat is no riddle.
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d{1,3})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
# Every zone has this instant, and the next day, within what the tables store.
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC)


def to_instant(value: object) -> datetime:
    """Reads an instant, in UTC. Raises PydanticCustomError."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise PydanticCustomError(
            "instant",
            "Must be a date, a time and its offset from UTC, as in 2027-03-14T19:30:00+09:00.",
        )
    try:
        instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("instant", "There is no such date or time.") from error
    if not _FIRST <= instant <= _LAST:
        raise PydanticCustomError("instant", "Must be between the years 2000 and 2199.")
    return instant


@cache
def zone_names() -> frozenset[str]:
    """The IANA names of all time zones."""
    return frozenset(available_timezones())
