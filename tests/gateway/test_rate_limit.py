"""Who asks too often."""

from types import SimpleNamespace

import pytest

from gateway import rate_limit
from gateway.errors import TooManyRequests
from gateway.rate_limit import RateLimit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def test_the_limit_is_for_each_client_and_each_second(clock: SimpleNamespace) -> None:
    limit = RateLimit(2)
    limit.check("a")
    clock.now = 1_000.9
    limit.check("a")
    with pytest.raises(TooManyRequests):
        limit.check("a")
    limit.check("b")
    clock.now = 1_001.0
    limit.check("a")


def test_refused_requests_do_not_prolong_it(clock: SimpleNamespace) -> None:
    limit = RateLimit(1)
    limit.check("a")
    for _ in range(100):
        with pytest.raises(TooManyRequests):
            limit.check("a")
    clock.now += 1
    limit.check("a")


@pytest.mark.usefixtures("clock")
def test_zero_is_no_limit() -> None:
    limit = RateLimit(0)
    for _ in range(1_000):
        limit.check("a")
