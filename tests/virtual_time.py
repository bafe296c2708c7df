"""An event loop whose clock jumps to the next timer: hours of waiting take milliseconds, and the
same seed gives the same order of events."""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

Result = TypeVar("Result")

# Not the time of the machine: the size of a number decides how sums with it are rounded, and so
# which of two things that happen together is first.
_START = 1_000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the clock instead of waiting. There is no input or output to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = _START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Nothing is scheduled any more, but the test has not ended.")
        self.now += max(0.0, timeout)
        return []


def run(main: Coroutine[Any, Any, Result], monkeypatch: pytest.MonkeyPatch) -> Result:
    """Runs `main` to its end. Meanwhile time.monotonic() is the clock of the loop."""
    selector = _JumpingSelector()
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: selector.now)
        loop = asyncio.SelectorEventLoop(selector)
        try:
            return loop.run_until_complete(main)
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
