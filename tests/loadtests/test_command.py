"""The command lines of the load tests and the benchmark."""

import pytest
import typer

from benchmarks import bench
from harness.cli import run_app
from loadtests import cli, verify

COMMANDS = pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (bench.app, []),
        (cli.app, ["capacity"]),
        (cli.app, ["loadtest"]),
        (cli.app, ["report"]),
        (verify.app, []),
    ],
)


@COMMANDS
def test_help(app: typer.Typer, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, [*arguments, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


@COMMANDS
def test_an_unknown_option_is_one_sentence_and_nothing_starts(
    app: typer.Typer, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*arguments, "--profile=x10"]) == 2
    assert capsys.readouterr().err == (
        "frontrow: No such option: --profile; --help lists what there is.\n"
    )
