"""The commands behind `make loadtest` and `make capacity`, and those that update the report.

python -m loadtests.cli COMMAND
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import run_app
from loadtests import capacity, runner, verify
from loadtests.model import Capacity
from loadtests.report import committed
from loadtests.report.words import say, table
from loadtests.request import Request

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command("loadtest")
def load_test() -> int:
    """Loads the gateway with k6 and checks that all promises held.

    Tests the gateway at BASE_URL, or the one that `make run` started here; if none answers, starts
    a stack of its own and stops it afterwards. Settings come from the environment:

    \b
    SCRIPT=journey    one or several, separated by commas, of concerts, schedules, seats, order,
                      reserve, pay, journey, enqueue; default: all that the profile is for
    PROFILE=x10       baseline (default), x10, rush, hotseat, soak or smoke
    CAPACITY=100      how many the waiting room admits at once in the journey; default: as the
                      profile says, otherwise as the room is configured
    SEED=small        what a stack of its own sells: full (default) or small (default of smoke)

    and every setting of lib/env.js and lib/profile.js. The result is a folder below
    results/loadtest. Exit status 0: all thresholds and invariants held; 1: not all; 2: there was
    nothing to measure, or not everything could be measured, which one sentence explains.
    """
    result = runner.measure(Request.from_environ(os.environ))
    say(f"\n{table(result)}\n\n{verify.lines(result.invariants)}")
    say(f"\n{result.folder}/report.html")
    for name, reason in result.missing.items():
        _complain(f"{name} is missing: {reason}")
    if result.unverified:
        _complain(f"Not verified: {result.unverified}")
    if result.missing or result.unverified:
        return 2
    return 0 if result.passed else 1


@app.command("capacity")
def find_capacity(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only puts this capacity.json into the report."),
    ] = None,
) -> int:
    """Finds how many users each route and the journey can serve, and the bottleneck.

    Settings come from the environment:

    \b
    SCRIPT=seats      default: all
    SEED=small        what a stack of its own sells; default full
    STEP_SECONDS=12   how long each number of users is tried, after 3 s in which they arrive
    FIRST_USERS=200, MOST_USERS=6400

    The result is results/capacity/<time>/capacity.json. Exit status 2: nothing was measured, or
    not everything.
    """
    if keep:
        committed.keep_capacity(Capacity.read(keep))
        return 0
    found = capacity.measure(Request.from_environ({**os.environ, "PROFILE": "baseline"}))
    say("")
    for name, each in found.scripts.items():
        say(f"{name:10} {capacity.summary(each)}")
    say(found.file)
    for name, reason in found.missing.items():
        _complain(f"{name} is not done: {reason}")
    return 2 if found.missing else 0


@app.command()
def report(folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER")] = None) -> None:
    """Takes results into docs/load-test-report/ and writes docs/load-test-report.md.

    Each FOLDER of results/loadtest replaces the older result of its profile. Without a folder the
    page is only written again.
    """
    for folder in folders or ():
        committed.take_over(folder)
    committed.write_page()


def _complain(sentence: str) -> None:
    print(f"frontrow: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_app(app))
