"""Stops a command of the foreground in order: a signal sets a flag that every wait observes.

No signal handler raises. Code is interrupted only where it calls `wait`, `run`, `run_async` or
`raise_if_requested`, so cleaning up (`finally`, `__exit__`) runs to its end whatever signals
arrive. Where cleaning up uses these functions itself, it does so within `cleaning_up`.

Standard library only, and Python 3.9: `harness.containers` uses it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How late a wait notices the request, at most.
_POLL_SECONDS = 0.05
#: How long a command may take from SIGTERM to its end, before SIGKILL.
_END_SECONDS = 5.0

# The number of the first signal that arrived. A plain variable, because a handler must not call
# threading.Event.set(): it deadlocks if the signal interrupts Event.wait() in the main thread.
_requested: int | None = None
_cleaning_up = False


class Stopped(BaseException):
    """A stop was requested. Not an Exception, so that no `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        #: The exit status of the command.
        self.status = 128 + number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within it, Ctrl-C, SIGTERM and the end of the terminal request the stop.

    A signal that the process ignores at the start (nohup) stays ignored. Main thread only.
    """
    global _requested
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested = None


def _request(number: int, frame: FrameType | None) -> None:
    global _requested
    if _requested is None:
        _requested = number


def raise_if_requested() -> None:
    """Raises Stopped if a stop was requested; in any thread, as often as it is called."""
    if _requested is not None and not _cleaning_up:
        raise Stopped(_requested)


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Within it no wait raises Stopped, in no thread: cleaning up runs to its end."""
    global _cleaning_up
    before, _cleaning_up = _cleaning_up, True
    try:
        yield
    finally:
        _cleaning_up = before


def wait(seconds: float) -> None:
    """Sleeps. Raises Stopped as soon as a stop is requested, or at once if it already was."""
    deadline = time.monotonic() + seconds
    raise_if_requested()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_SECONDS))
        raise_if_requested()


def run(
    command: Sequence[str], *, timeout: float, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Runs a command to its end, as subprocess.run() does; `options` are those of Popen.

    Raises Stopped once a stop is requested, and subprocess.TimeoutExpired after `timeout` seconds;
    the command has been ended then.
    """
    deadline = time.monotonic() + timeout
    with subprocess.Popen(command, **options) as process:
        try:
            while True:
                raise_if_requested()
                try:
                    out, err = process.communicate(timeout=_POLL_SECONDS)
                    if process.returncode:
                        raise_if_requested()  # Ctrl-C reaches the command too
                    return subprocess.CompletedProcess(command, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run(main), which is cancelled once a stop is requested. Raises Stopped then."""

    async def observed() -> T:
        task = asyncio.ensure_future(main)
        while not (await asyncio.wait([task], timeout=_POLL_SECONDS))[0]:
            if _requested is not None:
                task.cancel()
                # Cancelled once: what it does to clean up is not interrupted.
                await asyncio.wait([task])
                raise_if_requested()
        return task.result()

    return asyncio.run(observed())
