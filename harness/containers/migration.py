"""The second step of a migration. The first, of compose.yml's `migrate`, comes before the new
programs, and leaves what the version before needs."""

from __future__ import annotations

from harness import topology
from harness.containers.engine import Engine

_CONTRACT = "\n".join(
    f"python -m servicekit.migrate {program.module}"
    for program in topology.PROGRAMS
    if program.schema
)


def contract(engine: Engine, *, repeat: str) -> None:
    """Removes from the tables what only earlier versions need: none of their programs may run, nor
    be started again. `repeat` is the command that does it after a failure."""
    engine.run_once(
        *("migrate", "sh", "-ec", _CONTRACT),
        failure=(
            "all programs serve, but the tables are not contracted, so what is new may be refused:"
            f" see the error above, and run {repeat} again."
        ),
    )
