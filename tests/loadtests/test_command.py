"""The command lines of the load tests and the benchmark."""

import pytest
import typer

from benchmarks import bench
from harness.cli import run_app
from loadtests import cli, opening, verify

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


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("loadtest", {"SCRIPT": "seats,lunch"}, "There is no script 'lunch': choose journey,"),
        ("loadtest", {"PROFILE": "tea"}, "There is no profile 'tea': choose baseline,"),
        ("loadtest", {"PROFILE": "rush", "SCRIPT": "seats"}, "The profile rush is for journey"),
        ("loadtest", {"SEED": "huge"}, "SEED must be full or small, not 'huge'"),
        ("loadtest", {"CAPACITY": "-1"}, "CAPACITY must be a number of people, not '-1'"),
        (
            "loadtest",
            {"BASE_URL": "http://127.0.0.1:9"},
            "No gateway answers at http://127.0.0.1:9",
        ),
        ("loadtest", {"BASE_URL": "ftp://shop"}, "BASE_URL must look like"),
        ("loadtest", {"BASE_URL": "http://shop:port"}, "BASE_URL must look like"),
        ("capacity", {"FIRST_USERS": "0"}, "FIRST_USERS must be a whole number from 1 to"),
        ("capacity", {"STEP_SECONDS": "x"}, "STEP_SECONDS must be a whole number"),
        ("capacity", {"FIRST_USERS": "7000"}, "FIRST_USERS (7,000) must not be more than"),
        ("capacity", {"MAX_WAIT_SECONDS": "-1"}, "journey: MAX_WAIT_SECONDS must be"),
        ("capacity", {"SCRIPT": "lunch"}, "There is no script 'lunch'"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_nothing_starts(
    command: str,
    settings: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(opening, "Stack", None)
    for name in ("SCRIPT", "PROFILE", "SEED", "BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run_app(cli.app, [command]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"frontrow: {message}")
    assert said.count("\n") == 1
