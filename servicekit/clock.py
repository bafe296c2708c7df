"""Wall-clock rules that several caches share."""

from datetime import UTC, datetime, timedelta


def seconds_to_midnight() -> float:
    """Returns the seconds until the date changes (UTC): the limit for anything that depends on
    today's date."""
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    return (midnight - now).total_seconds()
