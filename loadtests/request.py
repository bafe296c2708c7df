"""What the caller of `make loadtest` and `make capacity` asks for, read from the environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from harness.errors import UserError
from loadtests.scripts import NAMES, PROFILES, Profile

#: Variables that change what is measured; see lib/env.js and lib/profile.js.
SETTINGS = (
    "STAGES",
    "VUS",
    "RATE",
    "DURATION",
    "PREALLOCATED_VUS",
    "THINK_SECONDS",
    "POLL_SECONDS",
    "MAX_AVG_MS",
    "MAX_P99_MS",
    "MAX_FAILED",
    "CAPACITY",
    "USERS",
    "HOT_SCHEDULE",
    "SCHEDULES_OF_SEATS",
    "MAX_WAIT_SECONDS",
    "MAX_SEATS_TRIED",
    "PREPARED_MEGABYTES",
    "GATEWAY_WORKERS",
)
#: How many a script wants to be admitted, unless its profile says otherwise. None: as many as the
#: waiting room is configured for. A script that is not here wants everybody admitted.
CAPACITY: Mapping[str, int | None] = {"enqueue": None, "journey": None, "order": 0}
EVERYBODY = 1_000_000

#: Roughly, how long it takes to prepare people for a step and to let them leave.
_BESIDE_SECONDS = 12


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


@dataclasses.dataclass(frozen=True)
class Search:
    """Which numbers of users `make capacity` tries, and for how long each."""

    seconds: int
    first: int
    most: int

    #: p99 in ms, share of wrong replies, and think time that every step has.
    max_p99_ms = 200
    max_failed = 0.01
    think_seconds = 1
    #: Seconds in which the users arrive; they count.
    rise_seconds = 3

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Search:
        """Reads STEP_SECONDS, FIRST_USERS and MOST_USERS. Raises UserError."""
        search = cls(
            _number(environ, "STEP_SECONDS", 12, 600),
            _number(environ, "FIRST_USERS", 200, 100_000),
            _number(environ, "MOST_USERS", 6_400, 100_000),
        )
        if search.first > search.most:
            raise UserError(
                f"FIRST_USERS ({search.first:,}) must not be more than MOST_USERS"
                f" ({search.most:,})."
            )
        return search

    def next(self, good: int, bad: int) -> int | None:
        """The next number to try, or None: the search is over.

        `good` is the largest number that held, `bad` the smallest that did not; 0: none so far.
        """
        if not bad:
            users = 2 * good or self.first
            return users if users <= self.most else None
        # Closer is within the noise of a shared machine, or too few users to matter.
        far_apart = bad > max(1, good) * 1.25 and bad - good > 10
        return (good + bad) // 2 if far_apart else None

    def most_steps(self, good: int = 0, bad: int = 0) -> int:
        """The most steps that the search takes from there on."""
        users = self.next(good, bad)
        if users is None:
            return 0
        return 1 + max(self.most_steps(users, bad), self.most_steps(good, users))

    def minutes(self, scripts: int) -> int:
        """Roughly how long it takes at most."""
        seconds = self.most_steps() * (self.seconds + self.rise_seconds + _BESIDE_SECONDS)
        return math.ceil(scripts * seconds / 60)

    def settings(self, users: int) -> dict[str, str]:
        """The environment variables of k6 for one step."""
        return {
            "PROFILE": "baseline",
            "STAGES": f"{self.rise_seconds}s:{users},{self.seconds}s:{users}",
            "MAX_P99_MS": str(self.max_p99_ms),
            "MAX_AVG_MS": str(self.max_p99_ms),
            "MAX_FAILED": str(self.max_failed),
            "THINK_SECONDS": str(self.think_seconds),
        }


def _number(environ: Mapping[str, str], name: str, otherwise: int, most: int) -> int:
    value = environ.get(name) or str(otherwise)
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise UserError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
    return int(value)
