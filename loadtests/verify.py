"""Counts the invariants of the running system; all counts must be 0.

    python -m loadtests.verify      exit status 1 if any is not

The limits of seats per user are those of the environment (RESERVATION_MAX_SEATS and
RESERVATION_MAX_SEATS_PER_SCHEDULE, 8 by default): give this command those of the services.

A load test counts them after the load, and samples the waiting room while the load lasts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import typer

from harness import invariants
from harness.cli import run_app
from harness.facts import SeatLimits, Stores
from harness.local import Ports
from loadtests.opening import opened
from loadtests.target import Target

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def settled(target: Target, *, within: float = 45.0) -> dict[str, int]:
    """Counts the violations of each invariant; see `harness.invariants.settled`."""
    stores = Stores(
        target.database,
        target.kafka_bootstrap,
        target.redis_url,
        SeatLimits.from_environ(os.environ),
    )
    return invariants.settled(stores, within=within)


def lines(counts: Mapping[str, int]) -> str:
    """One line per invariant, for people."""
    return "\n".join(
        f"  {number:>6,}  {name}{'' if number == 0 else '   VIOLATED'}"
        for name, number in counts.items()
    )


@app.command(help=__doc__)
def main() -> int:
    usual = f"http://{Ports.from_environ(os.environ).address('gateway')}"
    # With BASE_URL, no stack is started if nothing runs.
    with opened({"BASE_URL": usual, **os.environ}, "none") as target:
        counts = settled(target)
    print(lines(counts))
    return 1 if any(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(run_app(app))
