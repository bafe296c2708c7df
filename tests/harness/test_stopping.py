"""How a command in the foreground is told to stop."""

import os
import signal
import time

import pytest

from harness.local.stopping import Stopped, stoppable

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Finalized:
    """Is told to stop while Python finalizes it, where what is raised is lost."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_wish_to_stop_is_not_lost_in_a_finalizer(number: int) -> None:
    def work() -> None:
        finalized = Finalized(number)
        del finalized
        time.sleep(10)

    began = time.monotonic()
    with pytest.raises(Stopped) as stopped, stoppable():
        work()
    assert time.monotonic() - began < 5
    assert stopped.value.status == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_wish_does_not_cut_the_stopping_short(number: int) -> None:
    stopped_in_order = False

    def work() -> None:
        nonlocal stopped_in_order
        try:
            os.kill(os.getpid(), number)
        finally:
            for again in SIGNALS:
                os.kill(os.getpid(), again)
            stopped_in_order = True

    with pytest.raises(Stopped), stoppable():
        work()
    assert stopped_in_order


def test_what_was_to_be_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_signals_do_what_they_did_before() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(Stopped), stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_what_else_is_lost_in_a_finalizer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("lost")

    with stoppable():
        broken = Broken()
        del broken
    assert "lost" in capsys.readouterr().err
