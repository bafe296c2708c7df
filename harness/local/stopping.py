"""How a command in the foreground is told to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.05


class Stopped(KeyboardInterrupt):
    """Somebody wants the command to end; `status` is what it may exit with. A KeyboardInterrupt,
    which an event loop lets through from wherever it comes."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it Ctrl-C, SIGTERM and the end of the terminal raise Stopped, wherever the program
    is: the first of them only, so that a second one does not cut the stopping short, every wait of
    which must be bounded. For the main thread."""
    before = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGALRM)}
    told_before, sys.unraisablehook = sys.unraisablehook, _raise_again
    for number in _SIGNALS:
        # Whoever started us with nohup, or in the background, wants it ignored.
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = told_before
        for number, handler in before.items():
            signal.signal(number, handler)


def hear_no_more() -> None:
    """From now on nothing raises Stopped: the stopping has begun."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    hear_no_more()
    raise Stopped(number)


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Python ignores what is raised while it finalizes an object, wherever the signal happened to
    find it. The wish to stop must not be lost that way, so it is raised anew a moment later."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
        return
    stopped = lost.exc_value

    def raise_again(number: int, frame: FrameType | None) -> None:
        raise stopped

    signal.signal(signal.SIGALRM, raise_again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
