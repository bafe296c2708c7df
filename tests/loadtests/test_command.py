"""How the commands of the load tests end."""

import os
import signal
from collections.abc import Callable
from types import ModuleType

import pytest

from benchmarks import bench
from harness import stopping
from harness.errors import UserError
from loadtests import capacity, command, report_page, run, verify


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    ended_in_order = False

    def work() -> int:
        nonlocal ended_in_order
        try:
            os.kill(os.getpid(), number)
            stopping.wait(10)
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
        (UserError("Nothing is for sale."), "Nothing is for sale."),
        (UserError("Redis does not start."), "Redis does not start."),
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


COMMANDS = pytest.mark.parametrize("module", [bench, capacity, report_page, run, verify])


@COMMANDS
def test_help_is_the_text_of_the_module(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert module.__doc__
    assert module.__doc__.strip() in capsys.readouterr().out


@COMMANDS
def test_an_unknown_argument_is_one_sentence_and_nothing_starts(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for starts in ("opened", "measure", "take_over"):
        monkeypatch.setattr(module, starts, None, raising=False)
    assert module.main(["--profile=x10"]) == 2
    assert capsys.readouterr().err == (
        "frontrow: Unrecognized arguments: --profile=x10; --help says what there is.\n"
    )
