"""What the caller of `make loadtest` and `make capacity` asks for, read from the environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from harness.errors import UserError
from loadtests.scripts import NAMES, PROFILES, Profile

#: Variables that change what is measured; see lib/env.js and lib/profile.js.
SETTINGS = (
    "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS", "THINK_SECONDS", "POLL_SECONDS",
    "MAX_AVG_MS", "MAX_P99_MS", "MAX_FAILED", "CAPACITY", "USERS", "HOT_SCHEDULE",
    "SCHEDULES_OF_SEATS", "MAX_WAIT_SECONDS", "MAX_SEATS_TRIED", "PREPARED_MEGABYTES",
    "GATEWAY_WORKERS",
)  # fmt: skip
#: How many a script wants to be admitted, unless its profile says otherwise. None: as many as the
#: waiting room is configured for. A script that is not here wants everybody admitted.
CAPACITY: Mapping[str, int | None] = {"enqueue": None, "journey": None, "order": 0}
EVERYBODY = 1_000_000


@dataclasses.dataclass(frozen=True)
class Request:
    """The profile, the scripts and the data of a run; `environ` also has the settings of k6."""

    environ: Mapping[str, str]
    profile_name: str
    scripts: Sequence[str]
    seed: Literal["full", "small"]
    capacity: int | None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Request:
        """Reads PROFILE, SCRIPT, CAPACITY and SEED. Raises UserError."""
        name = environ.get("PROFILE") or "baseline"
        if name not in PROFILES:
            raise UserError(f"There is no profile {name!r}: choose {', '.join(PROFILES)}.")
        possible = PROFILES[name].scripts
        scripts = [each.strip() for each in environ.get("SCRIPT", "").split(",") if each.strip()]
        for script in scripts:
            if script not in NAMES:
                raise UserError(f"There is no script {script!r}: choose {', '.join(NAMES)}.")
            if script not in possible:
                raise UserError(
                    f"The profile {name} is for {', '.join(possible)}, not for {script}."
                )
        capacity = environ.get("CAPACITY") or None
        if capacity is not None and not capacity.isdecimal():
            raise UserError(f"CAPACITY must be a number of people, not {capacity!r}.")
        seed = environ.get("SEED") or ("small" if name == "smoke" else "full")
        if seed not in ("full", "small"):
            raise UserError(f"SEED must be full or small, not {seed!r}.")
        return cls(
            environ=environ,
            profile_name=name,
            scripts=[each for each in possible if each in (scripts or possible)],
            seed="full" if seed == "full" else "small",
            capacity=None if capacity is None else int(capacity),
        )

    @property
    def profile(self) -> Profile:
        return PROFILES[self.profile_name]

    @property
    def changed(self) -> dict[str, str]:
        """The settings that the caller changed."""
        return {name: self.environ[name] for name in SETTINGS if self.environ.get(name)}

    def capacity_for(self, script: str) -> int | None:
        """How many the script wants to be admitted; None: as many as the room is configured for."""
        if script == "journey" and self.capacity is not None:
            return self.capacity
        return {**CAPACITY, **self.profile.capacity}.get(script, EVERYBODY)
