"""Prepares people before a script starts, if they are too many for its setup()."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from loadtests import scripts
from loadtests.report.words import say
from loadtests.scripts import Wanted

# To prepare a person costs the shop no more than a payment. So in twice the duration of the load
# more people are prepared than it can use, however many users there are.
_TIMES = 2
_LEAST_SECONDS = 20.0
# A hold lasts 300 s. k6 takes the oldest first, so that the first and the last of a minute's load
# both are in time.
_MOST_SECONDS = 200.0


@contextlib.contextmanager
def prepared(
    wanted: Wanted, load_seconds: float, environ: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Prepares the wanted people, or as many as a load of so many seconds can use; nobody if
    setup() prepares them. Yields the variables that tell k6 of them; their file is deleted at the
    end. Raises `UserError`."""
    if wanted.in_setup:
        yield {}
        return
    within = max(_LEAST_SECONDS, min(_TIMES * load_seconds, _MOST_SECONDS))
    # In a private folder: the tokens buy seats.
    with tempfile.TemporaryDirectory(prefix="frontrow-people-") as folder:
        file = Path(folder) / "people.json"
        people = prepare(wanted, within, environ, Path(folder))
        file.write_text(f"[{','.join(people)}]")
        yield {"PREPARED_FILE": str(file)}


def prepare(wanted: Wanted, within: float, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Prepares as many people as it can in `within` seconds. Returns each as JSON, in the order in
    which they became ready. `folder` gets k6's logs. Raises `UserError`."""
    settings = {
        "PREPARE": str(wanted.people),
        "PREPARE_HOLDS": str(int(wanted.holds)),
        "PREPARE_SECONDS": f"{within:g}",
    }
    log = folder / "people.log"
    scripts.execute(
        ["prepare", "--no-summary", "--console-output", str(log)],
        {**environ, **settings},
        folder / "prepare.log",
    )
    messages = map(json.loads, log.read_text().splitlines())
    people = [message["msg"] for message in messages if message["level"] == "info"]
    if len(people) < wanted.people:
        say(
            f"  {len(people):,} of {wanted.people:,} people were ready within {within:.0f} s; if"
            " they do not suffice, more are made while it runs"
        )
    return people
