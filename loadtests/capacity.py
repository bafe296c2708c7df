"""`make capacity`: how many users each route and the journey stand, and what stops them.

Raises the number of users, each with 1 s to think, until p99 reaches 200 ms or failures 1 %, then
closes in on the largest number that held. A step whose script k6 had to end did not hold either.
What was short is looked for in the first step that did not hold: a cap, the core of a program that
uses one only, the machine, or nothing of these. The rise is in the figures of a step.

    SCRIPT=seats        default: all
    SEED=small          of a stack of our own, as in run
    STEP_SECONDS=12     how long a number of users is tried, after 3 s of rising
    FIRST_USERS=200, MOST_USERS=6400

The result is results/capacity/<time>/capacity.json, written after each step;
`python -m loadtests.capacity --keep FILE` puts one beside the page of docs/load-test-report.md.
Exit status 2: nothing was measured, or not everything.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.errors import UserError
from harness.files import REPOSITORY
from loadtests import command, k6, report, report_page
from loadtests.opening import opened
from loadtests.run import CAPACITY, EVERYBODY, Asked, Runner, described_machine, say, told_to_k6

RESULTS = REPOSITORY / "results" / "capacity"
MAX_P99_MS, MAX_FAILED, THINK_SECONDS = 200, 0.01, 1
_RISE_SECONDS = 3
# Close enough: what is between is within the noise of a shared machine.
_NEAR = 1.25
# To look for the difference.
_TOO_FEW = 10
# Of a core, and of the machine with the rise in it: at its end before that is full.
_FULL_CORE, _FULL_MACHINE = 0.85, 0.8
# Of the periods of 100 ms in which something in a container ran: enough to hold up every request
# of many.
_HELD_UP = 0.25
# Each of their processes has one thread that works; MariaDB and Kafka have many.
_ONE_CORE = (
    "gateway",
    "queue_service",
    "concert_service",
    "reservation_service",
    "payment_service",
    "redis",
)
# What making people ready and sending them home takes, roughly; only to tell how long it will last.
_BESIDE_SECONDS = 12


@dataclasses.dataclass(frozen=True)
class Steps:
    """Which numbers of users are tried, and for how long each. Raises UserError."""

    seconds: int
    first: int
    most: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Steps:
        steps = cls(
            _number(environ, "STEP_SECONDS", 12, 600),
            _number(environ, "FIRST_USERS", 200, 100_000),
            _number(environ, "MOST_USERS", 6_400, 100_000),
        )
        if steps.first > steps.most:
            raise UserError(
                f"FIRST_USERS ({steps.first:,}) must not be more than MOST_USERS ({steps.most:,})."
            )
        return steps

    def at_most(self) -> int:
        """So many steps a script takes at most, whichever number is the first that does not
        hold."""
        tried = longest = good = 0
        users = self.first
        while users <= self.most:
            tried += 1
            longest = max(longest, tried + _to_close_in(good, users))
            good, users = users, 2 * users
        return longest

    def minutes(self, scripts: int) -> int:
        """How long it all lasts, roughly, if each script goes to the end of the search."""
        seconds = self.at_most() * (self.seconds + _RISE_SECONDS + _BESIDE_SECONDS)
        return math.ceil(scripts * seconds / 60)

    def settings(self, users: int) -> dict[str, str]:
        """What k6 is told for one step."""
        return {
            "PROFILE": "baseline",
            "STAGES": f"{_RISE_SECONDS}s:{users},{self.seconds}s:{users}",
            "MAX_P99_MS": str(MAX_P99_MS),
            "MAX_AVG_MS": str(MAX_P99_MS),
            "MAX_FAILED": str(MAX_FAILED),
            "THINK_SECONDS": str(THINK_SECONDS),
        }


def measure(asked: Asked, environ: Mapping[str, str]) -> dict[str, Any]:
    """Searches for each script; writes capacity.json and returns what is in it. If a search cannot
    be ended, "missing" says why. Raises UserError if nothing was measured."""
    steps = Steps.from_environ(environ)
    for name in asked.scripts:  # settings that it does not take, before anything is started
        k6.plan(name, {**environ, **steps.settings(steps.first)})
    began = time.monotonic()
    taken = datetime.datetime.now(datetime.UTC)
    folder = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}"
    with opened(environ, "full" if asked.seed == "full" else "small") as target:
        volume = target.volume()
        folder.mkdir(parents=True)
        found: dict[str, Any] = {
            "file": str((folder / "capacity.json").relative_to(REPOSITORY)),
            "taken": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
            "max_p99_ms": MAX_P99_MS,
            "max_failed": MAX_FAILED,
            "think_seconds": THINK_SECONDS,
            "step_seconds": steps.seconds,
            "rise_seconds": _RISE_SECONDS,
            "caps": target.caps(),
            "volume": vars(volume),
            **described_machine(target),
            "missing": dict.fromkeys(asked.scripts, "the search was stopped"),
            "scripts": {},
        }
        say(
            f"At most {report.number_of(steps.at_most(), 'step')} for"
            f" {'each of ' * (len(asked.scripts) > 1)}"
            f"{report.number_of(len(asked.scripts), 'script')}, about"
            f" {report.number_of(steps.minutes(len(asked.scripts)), 'minute')} in all"
        )
        workers = int(environ.get("GATEWAY_WORKERS") or 1)
        of_target = {**environ, **told_to_k6(target, volume)}
        with Runner(target, of_target) as runner:
            for number, name in enumerate(asked.scripts, 1):

                def step(users: int, name: str = name, number: int = number) -> dict[str, Any]:
                    say(
                        f"[{(time.monotonic() - began) / 60:.0f} min] script {number} of"
                        f" {len(asked.scripts)}, {so_far(found['scripts'].get(name))}"
                    )
                    settings = {**of_target, **steps.settings(users)}
                    plan = k6.plan(name, settings)
                    tried = _tried(runner, name, plan, settings, folder / name / str(users))
                    return figures(tried, found["caps"], workers)

                def after(outcome: dict[str, Any], name: str = name) -> None:
                    found["scripts"][name] = outcome
                    _save(found)

                try:
                    search(step, steps.first, steps.most, after)
                except UserError as error:
                    say(f"  {error}")
                    found["missing"][name] = str(error)
                    continue
                del found["missing"][name]
                _save(found)
                say(f"{name}: {told(found['scripts'][name])}")
        if not found["scripts"]:
            raise UserError(found["missing"][asked.scripts[0]])
    _save(found)
    return found


def _tried(
    runner: Runner, name: str, plan: Mapping[str, Any], settings: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """The figures of one step, as of a script; "gave_up" says why k6 ended it, if it did."""
    # The journey is measured, not the wait for it.
    wanted = EVERYBODY if name == "journey" else CAPACITY.get(name, EVERYBODY)
    try:
        return runner.run(name, plan, wanted, folder, settings)
    except k6.GaveUp as gave_up:
        say(f"  {gave_up}")
        return {
            "passed": False,
            "gave_up": str(gave_up).removeprefix(f"{name}: ").rstrip("."),
            "cpu": gave_up.cpu,
            "throttled": gave_up.throttled,
        }


def _save(found: Mapping[str, Any]) -> None:
    (REPOSITORY / found["file"]).write_text(json.dumps(found, indent=1) + "\n")


def search(
    step: Callable[[int], dict[str, Any]],
    first: int,
    most: int,
    after: Callable[[dict[str, Any]], None] = lambda outcome: None,
) -> dict[str, Any]:
    """The largest number of users for which `step` passed. `step` tries so many and returns the
    figures; `after` is told after each what is known so far."""
    steps: list[dict[str, Any]] = []
    good = bad = 0

    def tried(users: int) -> bool:
        nonlocal good, bad
        steps.append({"users": users, **step(users)})
        passed = bool(steps[-1]["passed"])
        good, bad = (users, bad) if passed else (good, users)
        after(_outcome(steps, good, bad))
        return passed

    users = first
    while users <= most and tried(users):
        users *= 2
    while bad and _far_apart(good, bad):
        tried(_between(good, bad))
    return _outcome(steps, good, bad)


def _far_apart(good: int, bad: int) -> bool:
    """Whether it is worth looking between the most users that held and the fewest that did not."""
    return bad > max(1, good) * _NEAR and bad - good > _TOO_FEW


def _between(good: int, bad: int) -> int:
    return (good + bad) // 2


def _to_close_in(good: int, bad: int) -> int:
    """The most steps that it takes from there."""
    if not _far_apart(good, bad):
        return 0
    users = _between(good, bad)
    return 1 + max(_to_close_in(users, bad), _to_close_in(good, users))


def _outcome(steps: Sequence[Mapping[str, Any]], good: int, bad: int) -> dict[str, Any]:
    by_users = {one["users"]: one for one in steps}
    held, broken = by_users.get(good), by_users.get(bad)
    return {
        "users": good,
        "per_second": held["per_second"] if held else 0.0,
        "p99": held["p99"] if held else None,
        "stopped_by": broken["stopped_by"] if broken else "the end of the search",
        "bottleneck": (broken or steps[-1])["bottleneck"],
        "steps": [by_users[users] for users in sorted(by_users)],
    }


def figures(
    script: Mapping[str, Any], caps: Mapping[str, Mapping[str, float]], workers: int
) -> dict[str, Any]:
    """What is kept of a step."""
    duration = script.get("duration") or {}
    return {
        "passed": script["passed"],
        "per_second": script.get("per_second", 0.0),
        "avg": duration.get("avg"),
        "p99": duration.get("p(99)"),
        "wrong": script.get("wrong"),
        "stopped_by": "" if script["passed"] else _reason(script),
        "bottleneck": bottleneck(script, caps, workers),
        "cpu": script["cpu"],
        "throttled": script.get("throttled", {}),
    }


def _reason(script: Mapping[str, Any]) -> str:
    """Why a step did not hold."""
    if gave_up := script.get("gave_up"):
        return str(gave_up)
    p99 = (script["duration"] or {}).get("p(99)")
    if p99 is None:
        return "no request was made"
    if p99 >= MAX_P99_MS:
        return f"p99 {p99:,.0f} ms"
    if script["wrong"] > MAX_FAILED * script["requests"]:
        return f"{script['wrong']:,} wrong replies"
    return ", ".join(report.broken_limits(script)) or "k6 failed"


def bottleneck(
    script: Mapping[str, Any],
    caps: Mapping[str, Mapping[str, float]],
    workers: int = 1,
    cores: int | None = None,
) -> str:
    """In words: what was short while the script ran, as far as samples tell."""
    cores = cores or psutil.cpu_count() or 1
    cpu: Mapping[str, Mapping[str, float]] = script["cpu"]
    if not cpu:
        return "unknown: no process could be seen"
    means = {name: used["mean"] for name, used in cpu.items()}
    means["anything else on it"] = script.get("other_cores", 0.0)
    total = sum(means.values())
    in_use = f"{total:.2f} of the machine's {cores} cores in use"
    most = max(means, key=lambda each: means[each])
    mostly = f"most of it by {most} ({means[most]:.2f})"
    throttled: Mapping[str, float] = script.get("throttled") or {}
    if held_up := {name: share for name, share in throttled.items() if share >= _HELD_UP}:
        name = max(held_up, key=lambda each: held_up[each])
        cap = f" of {caps[name]['cores']:.2f} cores" if name in caps else ""
        return f"{name}: its cap{cap} held it up in {100 * held_up[name]:.0f} % of the time"
    one_core = {
        name: cpu[name]["peak"] / _processes(name, caps, workers)
        for name in _ONE_CORE
        if name in cpu
    }
    full = max(one_core, key=lambda each: one_core[each], default=None)
    if full and one_core[full] >= _FULL_CORE:
        return f"{full}: its core is full ({cpu[full]['peak']:.2f} at its peak; {in_use})"
    if total >= _FULL_MACHINE * cores:
        return f"the machine is full ({in_use}), {mostly}"
    if cpu.keys() <= {"k6"}:
        return "unknown: only k6 runs where it can be seen"
    return f"no processor is full ({in_use}), {mostly}"


def _processes(name: str, caps: Mapping[str, Mapping[str, float]], workers: int) -> int:
    copies = int(caps[name]["containers"]) if name in caps else 1
    return copies * (workers if name == "gateway" else 1)


def so_far(outcome: Mapping[str, Any] | None) -> str:
    """What is known of a script, before its next step."""
    if outcome is None:
        return "step 1"
    held = f"{outcome['users']:,} users held" if outcome["users"] else "nothing held"
    broken = [one["users"] for one in outcome["steps"] if not one["passed"]]
    return f"step {len(outcome['steps']) + 1}, so far {held}" + (
        f" and {min(broken):,} did not" if broken else ""
    )


def told(one: Mapping[str, Any]) -> str:
    """One line for people."""
    p99 = "" if one["p99"] is None else f", p99 {one['p99']:.0f} ms"
    return (
        f"{one['users']:,} users, {one['per_second']:,.1f} requests/s{p99};"
        f" then {one['stopped_by']}; {one['bottleneck']}"
    )


def _number(environ: Mapping[str, str], name: str, otherwise: int, most: int) -> int:
    value = environ.get(name) or str(otherwise)
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise UserError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
    return int(value)


def keep(file: Path) -> None:
    """Puts a result beside the page, which is then written anew. Raises UserError."""
    try:
        json.loads(file.read_text())["scripts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a capacity.json.") from error
    report_page.RUNS.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, report_page.RUNS / "capacity.json")
    report_page.PAGE.write_text(report_page.page(report_page.committed(), report_page.capacity()))


def main(argv: Sequence[str]) -> int:
    return command.run(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    parser = command.Parser("capacity", __doc__)
    parser.add_argument("--keep", type=Path, metavar="FILE")
    if file := parser.parse_args(argv).keep:
        keep(file)
        return 0
    found = measure(Asked({**os.environ, "PROFILE": "baseline"}), os.environ)
    say("")
    for name, one in found["scripts"].items():
        say(f"{name:10} {told(one)}")
    say(found["file"])
    for name, reason in found["missing"].items():
        print(f"frontrow: {name} is not done: {reason}", file=sys.stderr)
    return 2 if found["missing"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
