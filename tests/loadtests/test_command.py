"""How the commands of the load tests are stopped."""

import os
import signal
import time

import pytest

from loadtests import command


class Finalized:
    """Is told to stop while Python finalizes it, where what is raised is lost."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_wish_to_stop_is_not_lost_in_a_finalizer(number: int) -> None:
    ended_in_order = False

    def work() -> int:
        nonlocal ended_in_order
        try:
            finalized = Finalized(number)
            del finalized
            time.sleep(10)
        finally:
            ended_in_order = True
        return 0

    began = time.monotonic()
    assert command.run(work) == 128 + number
    assert time.monotonic() - began < 5
    assert ended_in_order


def test_what_else_is_lost_in_a_finalizer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("lost")

    def work() -> int:
        broken = Broken()
        del broken
        return 0

    assert command.run(work) == 0
    assert "lost" in capsys.readouterr().err
