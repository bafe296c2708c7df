"""Background work: repeated at an interval, and restarted when it ends."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from servicekit import background
from servicekit.background import keep_running, repeat
from servicekit.errors import NotFound, Unavailable
from servicekit.retries import Outage


class Pauses:
    """Takes the place of asyncio.sleep; ends the loop after so many pauses."""

    def __init__(self, limit: int) -> None:
        self.seconds: list[float] = []
        self._limit = limit

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == self._limit:
            raise EndOfTestError


class EndOfTestError(BaseException):
    pass


async def run_for(
    pauses: int, work: Coroutine[Any, Any, None], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Runs a loop until its pause number `pauses`; returns its pauses, in seconds."""
    sleep = Pauses(pauses)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(EndOfTestError):
        await work
    return sleep.seconds


def an_outage(log: CapturingLogger) -> Outage:
    return Outage(log, "unavailable", "available")  # type: ignore[arg-type]


async def test_work_repeats_through_transient_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    log = CapturingLogger()
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise Unavailable("no")

    loop = repeat(work, seconds=7.0, outage=an_outage(log))
    assert await run_for(4, loop, monkeypatch) == [7.0] * 4
    assert calls == 4
    assert [call.args[0] for call in log.calls] == ["unavailable", "available"]


async def test_a_defect_ends_the_loop() -> None:
    async def work() -> None:
        raise NotFound("no")

    with pytest.raises(NotFound):
        await repeat(work, seconds=0.0, outage=an_outage(CapturingLogger()))


async def test_jitter_bounds_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        pass

    random.seed(1)
    loop = repeat(work, seconds=10.0, outage=an_outage(CapturingLogger()), jitter=0.2)
    pauses = await run_for(100, loop, monkeypatch)
    assert min(pauses) >= 8.0
    assert max(pauses) <= 12.0
    assert max(pauses) - min(pauses) > 3.0


async def test_work_that_ends_is_started_again_and_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(background, "log", log)
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise RuntimeError("failed")
        if starts == 3:  # a cancellation that escapes a library
            raise asyncio.CancelledError

    assert await run_for(3, keep_running("relay", work), monkeypatch) == [1.0] * 3
    assert [(call.args[0], call.kwargs) for call in log.calls] == [
        ("background_work_ended", {"work": "relay"}),
        ("background_work_failed", {"work": "relay"}),
        ("background_work_failed", {"work": "relay"}),
    ]


async def test_cancelling_ends_the_work() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("relay", work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
