"""A memory that is bounded in time and in size."""

import pytest

from gateway.recent import Recent


class Clock:
    """Stands still until a test sets it, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("gateway.recent.time", clock)
    return clock


def test_it_returns_the_last_value(clock: Clock) -> None:
    recent = Recent[int, str](10, 100)
    assert recent.get(1) is None
    recent.put(1, "a")
    recent.put(1, "b")
    assert recent.get(1) == "b"
    clock.now += 10
    recent.put(1, "c")
    assert recent.get(1) == "c"
    assert len(recent) == 1


def test_a_value_lasts_for_its_time_and_at_most_twice_as_long(clock: Clock) -> None:
    recent = Recent[int, str](10, 1_000)
    recent.put(1, "a")
    for _ in range(11):
        recent.put(2, "")
        assert recent.get(1) == "a"
        clock.now += 1
    clock.now += 9
    recent.put(2, "")
    assert recent.get(1) is None
    assert len(recent) == 1


def test_its_size_is_bounded(clock: Clock) -> None:
    recent = Recent[int, int](10, 100)
    for number in range(1_000):
        recent.put(number, number)
        assert len(recent) <= 100
        newest = range(max(0, number - 49), number + 1)
        assert [recent.get(each) for each in newest] == list(newest)


@pytest.mark.parametrize("later", [0, 10])
def test_what_is_dropped_is_forgotten(clock: Clock, later: int) -> None:
    recent = Recent[int, str](10, 100)
    recent.put(1, "a")
    clock.now += later
    recent.put(2, "b")
    recent.put(1, "c")
    recent.drop(1)
    recent.drop(3)
    assert (recent.get(1), recent.get(2)) == (None, "b")
