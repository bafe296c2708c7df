"""Wall-clock rules."""

from datetime import datetime, tzinfo

import pytest

from servicekit import clock


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 750_000), 0.25),
        (datetime(2026, 12, 31, 0, 0, 0), 86_400),
        (datetime(2028, 2, 28, 23, 0, 0), 3_600),
    ],
)
def test_seconds_to_midnight(
    monkeypatch: pytest.MonkeyPatch, now: datetime, seconds: float
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now.replace(tzinfo=tz)

    monkeypatch.setattr(clock, "datetime", Clock)
    assert clock.seconds_to_midnight() == seconds
