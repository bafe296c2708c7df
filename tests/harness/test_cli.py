"""How commands end: one sentence on standard error, and an exit status."""

import os
import signal
from collections.abc import Callable

import pytest
import typer

from harness import cli, stopping
from harness.errors import UserError
from harness.local import supervisor


def status_of(command: Callable[[], int]) -> int:
    app = typer.Typer()
    app.command()(command)
    return cli.run_app(app, [])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("Redis does not start."), "Redis does not start."),
        (FileNotFoundError(2, "No such file", "k6"), "No such file: k6."),
        (OSError(28, "No space left on device"), "No space left on device: the disk."),
        (PermissionError(13, "Permission denied", ".local/data"), "No permission for .local/data:"),
    ],
)
def test_an_expected_error_is_one_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert status_of(command) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"frontrow: {sentence}")
    assert output.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_request_is_the_status(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        os.kill(os.getpid(), number)
        stopping.wait(60)
        return 0

    assert status_of(command) == 128 + number
    assert capsys.readouterr().err == "frontrow: Stopped.\n"


def test_the_status_of_a_command_is_the_exit_status() -> None:
    assert status_of(lambda: 3) == 3


@pytest.mark.parametrize("arguments", [["dance"], ["clean", "--everything"], []])
def test_a_wrong_argument_is_one_sentence_and_runs_nothing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "clean", lambda: pytest.fail("it ran"))
    assert cli.run_app(cli.app, arguments) == 2
    output = capsys.readouterr().err
    assert output.startswith("frontrow: ")
    assert output.endswith("; --help lists what there is.\n")
    assert output.count("\n") == 1


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_app(cli.app, ["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {name} " in output for name in ("run", "stop", "clean", "demo"))
