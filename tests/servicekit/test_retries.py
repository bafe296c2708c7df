"""Retrying while something is unavailable, and what is logged meanwhile."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import CapturedCall, CapturingLogger
from tenacity import RetryCallState, Retrying

from servicekit import retries
from servicekit.errors import NotFound, Unavailable
from servicekit.retries import BACK_OFF, Outage, retry_while_unavailable


@pytest.fixture
def log() -> CapturingLogger:
    return CapturingLogger()


@pytest.fixture
def outage(log: CapturingLogger) -> Outage:
    return Outage(log, "thing_unavailable", "thing_available", room="main")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACK_OFF", lambda _: 0.0)


class Work:
    """Raises the errors it is given, one per call, then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_pauses_grow_with_jitter_up_to_a_limit() -> None:
    def pause_after(failures: int) -> float:
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = failures
        return BACK_OFF(state)

    for _ in range(100):
        assert 0.1 <= pause_after(1) <= 0.2
        assert 0.1 <= pause_after(3) <= 0.8
        assert 0.1 <= pause_after(1_000_000) <= 5.0
    assert max(pause_after(1_000_000) for _ in range(100)) > 2.5


async def test_transient_errors_are_retried_and_logged_once(
    outage: Outage, log: CapturingLogger
) -> None:
    work = Work(Unavailable("no"), TimeoutError(), OSError())
    assert await retry_while_unavailable(work, outage) == "done"
    assert work.calls == 4
    assert log.calls == [
        CapturedCall("warning", ("thing_unavailable",), {"error": "Unavailable", "room": "main"}),
        CapturedCall("info", ("thing_available",), {"failures": 3, "room": "main"}),
    ]


async def test_a_success_at_once_logs_nothing(outage: Outage, log: CapturingLogger) -> None:
    assert await retry_while_unavailable(Work(), outage) == "done"
    assert log.calls == []


async def test_a_final_error_is_raised_at_once(outage: Outage, log: CapturingLogger) -> None:
    work = Work(Unavailable("no"), NotFound("no"), NotFound("no"))
    with pytest.raises(NotFound):
        await retry_while_unavailable(work, outage, defect_attempts=3, final=NotFound)
    assert work.calls == 2


async def test_another_error_is_raised_at_once(outage: Outage, log: CapturingLogger) -> None:
    work = Work(NotFound("no"))
    with pytest.raises(NotFound):
        await retry_while_unavailable(work, outage)
    assert (work.calls, log.calls) == (1, [])


async def test_defects_count_apart_from_transient_errors(outage: Outage) -> None:
    passing = [Unavailable("no") for _ in range(5)]
    work = Work(ValueError("1"), *passing, ValueError("2"), *passing, ValueError("3"))
    with pytest.raises(ValueError, match="3"):
        await retry_while_unavailable(work, outage, defect_attempts=3)
    assert work.calls == 13


@pytest.mark.parametrize("make", [lambda: asyncio.CancelledError(), lambda: KeyboardInterrupt()])
async def test_a_cancellation_is_no_defect_to_retry(
    make: Callable[[], BaseException], outage: Outage
) -> None:
    work = Work(make())
    with pytest.raises(type(make())):
        await retry_while_unavailable(work, outage, defect_attempts=3)
    assert work.calls == 1


def test_an_outage_logs_each_series_of_failures_and_no_message(
    outage: Outage, log: CapturingLogger
) -> None:
    wrapped = Unavailable("down")
    wrapped.__cause__ = ConnectionError("Error 111 connecting to redis.internal:6379.")
    outage.succeeded()
    for _ in range(2):
        outage.failed(wrapped)
        outage.failed(wrapped)
        outage.succeeded()
        outage.succeeded()
    assert [call.args[0] for call in log.calls] == ["thing_unavailable", "thing_available"] * 2
    assert log.calls[0].kwargs["error"] == "ConnectionError"
    assert "redis.internal" not in repr(log.calls)


async def test_a_timeout_is_logged_under_its_name(outage: Outage, log: CapturingLogger) -> None:
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    outage.failed(late.value)
    (call,) = log.calls
    assert call.kwargs["error"] == "TimeoutError"
