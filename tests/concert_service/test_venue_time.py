"""Dates at a venue, over changes of its clock."""

from datetime import UTC, date, datetime

import pytest

from concert_service.venue_time import date_at_venue, end_of_date


@pytest.mark.parametrize(
    ("instant", "zone", "day"),
    [
        ("2027-03-14T19:30:00+09:00", "Asia/Seoul", "2027-03-14"),
        # A show that starts after midnight is on the new date, whatever the zone of the file.
        ("2027-03-15T00:30:00+09:00", "Asia/Seoul", "2027-03-15"),
        ("2027-03-14T15:30:00Z", "Asia/Seoul", "2027-03-15"),
        ("2027-03-14T23:30:00-12:00", "Pacific/Kiritimati", "2027-03-16"),
        ("2027-01-01T10:30:00Z", "Pacific/Pago_Pago", "2026-12-31"),
        # Both times in the hour that is repeated.
        ("2027-10-31T02:30:00+02:00", "Europe/Berlin", "2027-10-31"),
        ("2027-10-31T02:30:00+01:00", "Europe/Berlin", "2027-10-31"),
    ],
)
def test_the_date_is_that_at_the_venue(instant: str, zone: str, day: str) -> None:
    assert date_at_venue(datetime.fromisoformat(instant), zone) == date.fromisoformat(day)


@pytest.mark.parametrize(
    ("day", "zone", "end"),
    [
        ("2027-03-14", "UTC", "2027-03-15T00:00"),
        ("2027-03-14", "Asia/Seoul", "2027-03-14T15:00"),
        ("2027-12-31", "America/Los_Angeles", "2028-01-01T08:00"),
        # Days of 23 and 25 hours.
        ("2027-03-28", "Europe/Berlin", "2027-03-28T22:00"),
        ("2027-10-31", "Europe/Berlin", "2027-10-31T23:00"),
        # The clock goes from 24:00 to 01:00: there is no midnight.
        ("2026-03-28", "Asia/Beirut", "2026-03-28T22:00"),
        # It goes from 01:00 back to 00:00: there are two, and the first ends the date.
        ("2026-10-31", "America/Havana", "2026-11-01T04:00"),
        # It goes from 24:00 back to 23:00: the date has that hour twice.
        ("2018-02-17", "America/Sao_Paulo", "2018-02-18T03:00"),
    ],
)
def test_a_date_ends_with_the_first_moment_of_the_next(day: str, zone: str, end: str) -> None:
    expected = datetime.fromisoformat(end).replace(tzinfo=UTC)
    assert end_of_date(date.fromisoformat(day), zone) == expected
