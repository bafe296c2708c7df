"""How the commands of the load tests end."""

import os
import signal
from collections.abc import Callable

import pytest

from deploy.local import StackError
from loadtests import command
from loadtests.errors import CannotTest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    ended_in_order = False

    def work() -> int:
        nonlocal ended_in_order
        try:
            os.kill(os.getpid(), number)
        finally:
            ended_in_order = True
        return 0

    assert command.run(work) == 128 + number
    assert ended_in_order
    assert capsys.readouterr().err == "frontrow: Stopped.\n"


def _raises(error: Exception) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CannotTest("Nothing is for sale."), "Nothing is for sale."),
        (StackError("Redis does not start."), "Redis does not start."),
        (FileNotFoundError(2, "No such file", "k6"), "No such file: k6."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(_raises(error)) == 2
    assert capsys.readouterr().err == f"frontrow: {sentence}\n"


def test_the_status_of_the_command_is_that_of_the_program() -> None:
    assert command.run(lambda: 1) == 1
