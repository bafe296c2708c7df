"""Dates and times at a venue, in its time zone."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo


def date_at_venue(instant: datetime, time_zone: str) -> date:
    """Returns the date of an instant in this zone, an IANA name: what tickets print, also for a
    show that starts after midnight. Raises ZoneInfoNotFoundError."""
    return instant.astimezone(ZoneInfo(time_zone)).date()


def end_of_date(day: date, time_zone: str) -> datetime:
    """Returns when a date ends in this zone, in UTC: a schedule is listed until then.

    That is the first moment of the next date, also where the clock changes at midnight: the moment
    of the change if there is no midnight, the first of two midnights (fold 0 means both). Raises
    ZoneInfoNotFoundError.
    """
    midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), ZoneInfo(time_zone))
    return midnight.astimezone(UTC)
