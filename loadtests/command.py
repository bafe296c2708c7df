"""What the commands of the load tests have in common: how they are stopped, and how they fail."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType

from deploy.local import StackError
from loadtests.errors import CannotTest

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.05


class Stopped(KeyboardInterrupt):
    """Somebody wants the command to end; `status` is what it then exits with. A KeyboardInterrupt,
    which an event loop lets through from wherever it comes."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


def run(command: Callable[[], int]) -> int:
    """Runs it and returns its exit status: 2, after one sentence on standard error, if it raises
    CannotTest, StackError or OSError; 128 + the signal's number if it is stopped by Ctrl-C,
    SIGTERM or the end of the terminal, whereupon everything that it started is ended in order."""
    before = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGALRM)}
    told_before, sys.unraisablehook = sys.unraisablehook, _raise_again
    for number in _SIGNALS:
        handler = before[number]
        # Whoever started us with nohup, or in the background, wants it ignored.
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        return command()
    except (CannotTest, StackError) as error:
        _tell(str(error))
        return 2
    except OSError as error:
        _tell(f"{error.strerror or error}: {error.filename or 'the machine'}.")
        return 2
    except Stopped as stopped:
        _tell("Stopped.")
        return stopped.status
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = told_before
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not cut the stopping short: every wait in it is bounded.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
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


def _tell(sentence: str) -> None:
    # The terminal may be what went away.
    with contextlib.suppress(OSError):
        print(f"frontrow: {sentence}", file=sys.stderr, flush=True)
