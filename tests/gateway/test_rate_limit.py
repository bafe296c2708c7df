"""The request rate of one client."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from gateway import rate_limit
from gateway.errors import TooManyRequests
from gateway.rate_limit import RateLimit


class Clock:
    """Stands still until a test sets it; starts shortly before a full second."""

    def __init__(self) -> None:
        self.now = 1_000.999


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    module = SimpleNamespace(monotonic_ns=lambda: round(clock.now * 1e9), time=lambda: clock.now)
    monkeypatch.setattr(rate_limit, "time", module)
    return clock


def allowed(limit: RateLimit, clients: Iterable[str]) -> int:
    """How many of these requests pass."""
    passed = 0
    for client in clients:
        try:
            limit.check(client)
            passed += 1
        except TooManyRequests:
            pass
    return passed


def test_a_burst_is_one_second_of_requests_for_each_client(clock: Clock) -> None:
    limit = RateLimit(20, "client")
    assert allowed(limit, ["a"] * 50) == 20
    assert allowed(limit, ["b"] * 50) == 20


def test_the_edge_of_a_second_allows_no_second_burst(clock: Clock) -> None:
    limit = RateLimit(20, "client")
    assert allowed(limit, ["a"] * 50) == 20
    clock.now = 1_001.001  # 2 ms later, in the next second of the clock
    assert allowed(limit, ["a"] * 50) == 0


def test_after_the_burst_requests_pass_at_the_rate(clock: Clock) -> None:
    limit = RateLimit(20, "client")
    allowed(limit, ["a"] * 20)
    passed = 0
    for _ in range(1_000):
        clock.now += 0.01
        passed += allowed(limit, ["a"])
    assert passed == 200


@pytest.mark.parametrize("per_second", [1, 3, 7, 20, 1_000])
def test_an_idle_second_restores_the_burst(clock: Clock, per_second: int) -> None:
    limit = RateLimit(per_second, "client")
    for _ in range(5):
        assert allowed(limit, ["a"] * 2 * per_second) == per_second
        clock.now += 1


def test_refused_requests_do_not_prolong_it(clock: Clock) -> None:
    limit = RateLimit(1, "client")
    assert allowed(limit, ["a"] * 100) == 1
    clock.now += 1
    limit.check("a")


def test_it_stores_only_clients_of_the_last_two_seconds(clock: Clock) -> None:
    limit = RateLimit(20, "client")
    for second in range(10):
        allowed(limit, (f"{second} {client}" for client in range(100)))
        clock.now += 1
    assert len(limit._paid_until) + len(limit._paid_until_before) == 200


@pytest.mark.usefixtures("clock")
def test_zero_is_no_limit() -> None:
    assert allowed(RateLimit(0, "client"), ["a"] * 1_000) == 1_000
