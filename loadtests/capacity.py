"""The search for the most users that each route and the journey can serve, and for the bottleneck.

The number of users, each with 1 s to think, doubles until p99 reaches 200 ms or 1 % fail; then the
search narrows down to the largest number that held. A step whose script k6 ended did not hold. The
bottleneck of the smallest number that did not hold is a cap, the core of a single-threaded program,
the machine, or none of these. The figures of a step include the seconds in which the users arrive.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.files import REPOSITORY
from harness.topology import BY_MODULE
from loadtests import scripts
from loadtests.model import Cap, Capacity, Found, Load, Script, Step
from loadtests.opening import opened
from loadtests.report.words import broken_limits, say
from loadtests.request import CAPACITY, EVERYBODY, Request
from loadtests.room import Room
from loadtests.runner import run, settings_of, system_of
from loadtests.target import Target

RESULTS = REPOSITORY / "results" / "capacity"
# Of a core, and of the machine: the users arrive during the first seconds of a step, so the mean is
# lower than at its end.
_FULL_CORE, _FULL_MACHINE = 0.85, 0.8
# Share of the periods of 100 ms in which a cap made a container wait: enough to delay every request
# that takes many of them.
_HELD_UP = 0.25
# Each process of these has one working thread; MariaDB and Kafka have many.
_ONE_CORE = (*BY_MODULE, "redis")


@dataclasses.dataclass(frozen=True)
class Search:
    """Which numbers of users are tried, and for how long each."""

    seconds: int = 12
    first: int = 200
    most: int = 6_400

    #: p99 in ms, share of wrong replies, and think time that every step has.
    max_p99_ms = 200
    max_failed = 0.01
    think_seconds = 1
    #: Seconds in which the users arrive; they count.
    rise_seconds = 3

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Search:
        """Reads STEP_SECONDS, FIRST_USERS and MOST_USERS. Raises UserError."""

        def number(name: str, otherwise: int, most: int) -> int:
            value = environ.get(name) or str(otherwise)
            if not value.isdecimal() or not 1 <= int(value) <= most:
                raise UserError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
            return int(value)

        search = cls(
            number("STEP_SECONDS", cls.seconds, 600),
            number("FIRST_USERS", cls.first, 100_000),
            number("MOST_USERS", cls.most, 100_000),
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

    def run(self, step: Callable[[int], Step]) -> Iterator[Found]:
        """Looks for the largest number of users for which `step` passes; yields what is known
        after each step."""
        steps: dict[int, Step] = {}
        good = bad = 0
        while (users := self.next(good, bad)) is not None:
            last = steps[users] = step(users)
            good, bad = (users, bad) if last.passed else (good, users)
            held, broken = steps.get(good), steps.get(bad)
            yield Found(
                users=good,
                per_second=held.per_second if held else 0.0,
                p99=held.p99 if held else None,
                stopped_by=broken.stopped_by if broken else "the end of the search",
                bottleneck=(broken or last).bottleneck,
                steps=[steps[users] for users in sorted(steps)],
            )

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


def measure(request: Request) -> Capacity:
    """Searches for each script; capacity.json is written after each step.

    A search that cannot be ended is in `missing`. Raises UserError if nothing was measured.
    """
    search = Search.from_environ(request.environ)
    for name in request.scripts:  # Refuses bad settings before anything is started.
        scripts.plan(name, {**request.environ, **search.settings(search.first)})
    began = time.monotonic()
    with opened(request.environ, request.seed) as target:
        system = system_of(target)
        folder = RESULTS / f"{system.taken:%Y%m%dT%H%M%SZ}"
        folder.mkdir(parents=True)
        file = folder / "capacity.json"
        capacity = Capacity(
            **system.model_dump(),
            file=str(file.relative_to(REPOSITORY)),
            max_p99_ms=search.max_p99_ms,
            max_failed=search.max_failed,
            think_seconds=search.think_seconds,
            step_seconds=search.seconds,
            rise_seconds=search.rise_seconds,
            missing=dict.fromkeys(request.scripts, "the search was stopped"),
        )
        workers = int(request.environ.get("GATEWAY_WORKERS") or 1)
        environ = {**request.environ, **settings_of(target, system.volume)}
        with Room(target) as room:
            for number, name in enumerate(request.scripts, 1):

                def step(users: int, name: str = name, number: int = number) -> Step:
                    say(
                        f"[{(time.monotonic() - began) / 60:.0f} min] script {number} of"
                        f" {len(request.scripts)}, {so_far(capacity.scripts.get(name))}"
                    )
                    settings = {**environ, **search.settings(users)}
                    load, reason = _try(target, room, name, settings, folder / name / str(users))
                    return step_of(users, load, reason, capacity.caps, workers)

                try:
                    for found in search.run(step):
                        capacity.scripts[name] = found
                        capacity.write(file)
                except UserError as error:
                    say(f"  {error}")
                    capacity.missing[name] = str(error)
                    continue
                del capacity.missing[name]
                say(f"{name}: {summary(found)}")
        if not capacity.scripts:
            raise UserError(capacity.missing[request.scripts[0]])
    capacity.write(file)
    return capacity


def _try(
    target: Target, room: Room, name: str, settings: Mapping[str, str], folder: Path
) -> tuple[Load, str]:
    """Runs a script. Returns its figures, and why it did not hold; "" if it held."""
    # The journey is measured, and not the wait for it.
    wanted = EVERYBODY if name == "journey" else CAPACITY.get(name, EVERYBODY)
    try:
        script = run(target, room, name, wanted, folder, settings)
    except scripts.GaveUp as gave_up:
        say(f"  {gave_up}")
        return gave_up.load, str(gave_up).removeprefix(f"{name}: ").rstrip(".")
    return script, "" if script.passed else reason(script)


def step_of(
    users: int, load: Load, stopped_by: str, caps: Mapping[str, Cap], workers: int = 1
) -> Step:
    """What is kept of a step: all figures of a Script, or those of one that ended itself."""
    step = Step(
        users=users,
        passed=not stopped_by,
        stopped_by=stopped_by,
        bottleneck=bottleneck(load, caps, workers),
        cpu=load.cpu,
        throttled=load.throttled,
    )
    if isinstance(load, Script):
        step.per_second, step.wrong = load.per_second, load.wrong
        if load.duration:
            step.avg, step.p99 = load.duration.avg, load.duration.p99
    return step


def reason(script: Script) -> str:
    """Why a step did not hold."""
    if not script.duration:
        return "no request was made"
    if script.duration.p99 >= Search.max_p99_ms:
        return f"p99 {script.duration.p99:,.0f} ms"
    if script.wrong > Search.max_failed * script.requests:
        return f"{script.wrong:,} wrong replies"
    return ", ".join(broken_limits(script)) or "k6 failed"


def bottleneck(
    load: Load, caps: Mapping[str, Cap], workers: int = 1, cores: int | None = None
) -> str:
    """Which resource was short under this load, in words, as far as samples can tell."""
    cores = cores or psutil.cpu_count() or 1
    if not load.cpu:
        return "unknown: no process could be seen"
    means = {name: used.mean for name, used in load.cpu.items()}
    means["anything else on it"] = load.other_cores
    total = sum(means.values())
    in_use = f"{total:.2f} of the machine's {cores} cores in use"
    most = max(means, key=lambda each: means[each])
    mostly = f"most of it by {most} ({means[most]:.2f})"
    held_up = max(load.throttled, key=lambda each: load.throttled[each], default=None)
    if held_up and load.throttled[held_up] >= _HELD_UP:
        cap = f" of {caps[held_up].cores:.2f} cores" if held_up in caps else ""
        share = load.throttled[held_up]
        return f"{held_up}: its cap{cap} held it up in {100 * share:.0f} % of the time"

    def processes(name: str) -> int:
        copies = caps[name].containers if name in caps else 1
        return copies * (workers if name == "gateway" else 1)

    one_core = {
        name: load.cpu[name].peak / processes(name) for name in _ONE_CORE if name in load.cpu
    }
    full = max(one_core, key=lambda each: one_core[each], default=None)
    if full and one_core[full] >= _FULL_CORE:
        return f"{full}: its core is full ({load.cpu[full].peak:.2f} at its peak; {in_use})"
    if total >= _FULL_MACHINE * cores:
        return f"the machine is full ({in_use}), {mostly}"
    if load.cpu.keys() <= {"k6"}:
        return "unknown: only k6 runs where it can be seen"
    return f"no processor is full ({in_use}), {mostly}"


def so_far(found: Found | None) -> str:
    """What is known of a script before its next step."""
    if found is None:
        return "step 1"
    held = f"{found.users:,} users held" if found.users else "nothing held"
    broken = [step.users for step in found.steps if not step.passed]
    return f"step {len(found.steps) + 1}, so far {held}" + (
        f" and {min(broken):,} did not" if broken else ""
    )


def summary(found: Found) -> str:
    """One line about a script's search."""
    p99 = "" if found.p99 is None else f", p99 {found.p99:.0f} ms"
    return (
        f"{found.users:,} users, {found.per_second:,.1f} requests/s{p99};"
        f" then {found.stopped_by}; {found.bottleneck}"
    )
