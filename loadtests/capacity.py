"""`make capacity`: how many users each route and the journey stand, and what stops them.

Raises the number of users, each with 1 s to think, until p99 reaches 200 ms or failures 1 %, then
closes in on the largest number that held. The bottleneck is the process that used most of the
processor in the first step that did not hold.

    SCRIPT=seats        default: all
    SEED=small          of a stack of our own, as in run
    STEP_SECONDS=12     how long a number of users is tried, after 3 s of rising
    FIRST_USERS=100, MOST_USERS=6400

The result is results/capacity/<time>/capacity.json; `python -m loadtests.capacity --keep FILE`
puts one beside the page of docs/load-test-report.md. Exit status 2: nothing was measured.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from deploy.local import StackError
from deploy.local.servers import REPOSITORY
from loadtests import k6, report_page
from loadtests.run import (
    CAPACITY,
    EVERYBODY,
    Asked,
    described_machine,
    one_script,
    say,
    told_to_k6,
    visible_pids,
)
from loadtests.target import CannotTest, Room, opened

RESULTS = REPOSITORY / "results" / "capacity"
MAX_P99_MS, MAX_FAILED, THINK_SECONDS = 200, 0.01, 1
# Close enough: what is between is within the noise of a shared machine.
_NEAR = 1.2
# A process of ours runs on one core; it is at its end before that is full.
_FULL_CORE = 0.85


def measure(asked: Asked, environ: Mapping[str, str]) -> Path:
    """Searches for each script; writes and returns capacity.json. Raises CannotTest."""
    step_seconds = _number(environ, "STEP_SECONDS", 12, 600)
    first = _number(environ, "FIRST_USERS", 100, 100_000)
    most = _number(environ, "MOST_USERS", 6_400, 100_000)
    taken = datetime.datetime.now(datetime.UTC)
    folder = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}"
    found: dict[str, Any] = {
        "taken": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
        "max_p99_ms": MAX_P99_MS,
        "max_failed": MAX_FAILED,
        "think_seconds": THINK_SECONDS,
        "step_seconds": step_seconds,
        "scripts": {},
    }
    with opened(environ, "full" if asked.seed == "full" else "small") as target:
        volume = target.volume()
        pids = visible_pids(target)
        room = Room(target)
        try:
            for name in asked.scripts:
                # The journey is measured, not the wait for it.
                wanted = EVERYBODY if name == "journey" else CAPACITY.get(name, EVERYBODY)

                def step(users: int, name: str = name, wanted: int | None = wanted) -> Any:
                    settings = {
                        **environ,
                        **told_to_k6(target, volume),
                        "PROFILE": "baseline",
                        "STAGES": f"3s:{users},{step_seconds}s:{users}",
                        "MAX_P99_MS": str(MAX_P99_MS),
                        "MAX_AVG_MS": str(MAX_P99_MS),
                        "MAX_FAILED": str(MAX_FAILED),
                        "THINK_SECONDS": str(THINK_SECONDS),
                    }
                    plan = k6.plan(name, settings)
                    where = folder / name / str(users)
                    return one_script(name, plan, wanted, target, room, where, settings, pids)

                found["scripts"][name] = search(step, first, most)
                say(f"{name}: {told(found['scripts'][name])}")
        finally:
            room.close()
    found |= {"volume": vars(volume), "machine": described_machine()}
    file = folder / "capacity.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    return file


def search(step: Any, first: int, most: int) -> dict[str, Any]:
    """The largest number of users for which `step` passed. `step` runs a script with so many and
    returns its figures, as run.one_script does."""
    steps: list[dict[str, Any]] = []

    def tried(users: int) -> bool:
        script = step(users)
        steps.append({"users": users, **_figures(script)})
        return bool(script["passed"])

    good, bad = 0, 0
    users = first
    while users <= most:
        if not tried(users):
            bad = users
            break
        good, users = users, users * 2
    while bad and bad > max(1, good) * _NEAR and bad - good > 10:
        middle = (good + bad) // 2
        if tried(middle):
            good = middle
        else:
            bad = middle
    held = next((one for one in steps if one["users"] == good), None)
    broken = next((one for one in steps if one["users"] == bad), None)
    return {
        "users": good,
        "per_second": held["per_second"] if held else 0.0,
        "p99": held["p99"] if held else steps[0]["p99"],
        "stopped_by": broken["stopped_by"] if broken else "the end of the search",
        "bottleneck": (broken or steps[-1])["bottleneck"],
        "steps": sorted(steps, key=lambda one: int(one["users"])),
    }


def _figures(script: Mapping[str, Any]) -> dict[str, Any]:
    duration = script["duration"]
    p99 = duration.get("p(99)", 0.0)
    slow = p99 >= MAX_P99_MS
    reason = f"p99 {p99:,.0f} ms" if slow else f"{script['wrong']:,} wrong replies"
    return {
        "passed": script["passed"],
        "per_second": script["per_second"],
        "avg": duration.get("avg", 0.0),
        "p99": p99,
        "wrong": script["wrong"],
        "stopped_by": "" if script["passed"] else reason,
        "bottleneck": bottleneck(script["cpu"]),
        "cpu": script["cpu"],
    }


def bottleneck(cpu: Mapping[str, Mapping[str, float]]) -> str:
    """In words: the process with most of the processor, and whether the whole machine was full."""
    if not cpu:
        return "unknown"
    name = max((each for each in cpu if each != "k6"), key=lambda each: cpu[each]["peak"])
    total = sum(used["mean"] for used in cpu.values())
    cores = psutil.cpu_count() or 1
    full = (
        "its core is full"
        if cpu[name]["peak"] >= _FULL_CORE
        else "the machine is full"
        if total >= _FULL_CORE * cores
        else "nothing is full"
    )
    k6_share = f", k6 {cpu['k6']['mean']:.2f}" if "k6" in cpu else ""
    return (
        f"{name}: {cpu[name]['peak']:.2f} cores at its peak ({full}; {total:.2f} of {cores} cores"
        f" in use{k6_share})"
    )


def told(one: Mapping[str, Any]) -> str:
    """One line for people."""
    return (
        f"{one['users']:,} users, {one['per_second']:,.1f} requests/s, p99 {one['p99']:.0f} ms;"
        f" then {one['stopped_by']}; {one['bottleneck']}"
    )


def _number(environ: Mapping[str, str], name: str, otherwise: int, most: int) -> int:
    value = environ.get(name) or str(otherwise)
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise CannotTest(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
    return int(value)


def keep(file: Path) -> None:
    """Puts a result beside the page, which is then written anew. Raises CannotTest."""
    try:
        json.loads(file.read_text())["scripts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotTest(f"{file} is not a capacity.json.") from error
    report_page.RUNS.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, report_page.RUNS / "capacity.json")
    report_page.PAGE.write_text(report_page.page(report_page.committed(), report_page.capacity()))


def main(argv: Sequence[str]) -> int:
    # So that everything is stopped in order; even without it the children would die with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if argv[:1] == ["--keep"] and len(argv) == 2:
            keep(Path(argv[1]))
            return 0
        if argv:
            raise CannotTest("This takes its settings from the environment, or --keep FILE.")
        file = measure(Asked({**os.environ, "PROFILE": "baseline"}), os.environ)
    except (CannotTest, StackError) as error:
        print(f"frontrow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("frontrow: Stopped.", file=sys.stderr)
        return 130
    for name, one in json.loads(file.read_text())["scripts"].items():
        say(f"{name:10} {told(one)}")
    say(str(file.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
