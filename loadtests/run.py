"""`make loadtest`: k6 against the gateway, what it found, and whether all promises held.

Tests the gateway at BASE_URL, or the one that `make run` started here; if none answers, starts a
stack of its own and stops it afterwards.

    SCRIPT=journey      of concerts, schedules, seats, order, reserve, pay, journey, enqueue one,
                        or several with commas between; default: all that the profile is for
    PROFILE=x10         baseline (default), x10, rush, hotseat, soak, smoke
    CAPACITY=100        how many the waiting room lets in at once in the journey; default: what the
                        profile says, else what the room is configured for
    SEED=small          what is for sale in a stack of our own; default full, in smoke small

and every setting of lib/env.js and lib/profile.js. The result is a folder below
results/loadtest. Exit status 0: all thresholds and all invariants held; 1: not all; 2: there was
nothing to measure, which is said in one sentence.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.local import StackError
from deploy.local.servers import REPOSITORY
from loadtests import k6, machine, report, verify
from loadtests.target import CannotTest, Room, Source, Target, Volume, opened
from loadtests.watch import Watch, connections, megabytes, throttling

RESULTS = REPOSITORY / "results" / "loadtest"
_SEEDS = ("full", "small")
#: How many a script wants to have let in, unless the profile says otherwise.
CAPACITY: dict[str, int | None] = {"enqueue": None, "journey": None, "order": 0}
EVERYBODY = 1_000_000
_SAY_EVERY_SECONDS = 10.0


class Asked:
    """What the caller wants, from the environment. Raises CannotTest for what there is not."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.profile = environ.get("PROFILE") or "baseline"
        if self.profile not in k6.PROFILES:
            raise CannotTest(
                f"There is no profile {self.profile!r}: choose {', '.join(k6.PROFILES)}."
            )
        self.settings = k6.PROFILES[self.profile]
        possible = self.settings.get("only", k6.NAMES)
        scripts = [name.strip() for name in environ.get("SCRIPT", "").split(",") if name.strip()]
        for script in scripts:
            if script not in k6.NAMES:
                raise CannotTest(f"There is no script {script!r}: choose {', '.join(k6.NAMES)}.")
            if script not in possible:
                raise CannotTest(
                    f"The profile {self.profile} is for {', '.join(possible)}, not for {script}."
                )
        self.scripts: Sequence[str] = [name for name in possible if name in (scripts or possible)]
        self._capacity = environ.get("CAPACITY") or None
        if self._capacity is not None and not self._capacity.isdecimal():
            raise CannotTest(f"CAPACITY must be a number of people, not {self._capacity!r}.")
        self.seed = environ.get("SEED") or ("small" if self.profile == "smoke" else "full")
        if self.seed not in _SEEDS:
            raise CannotTest(f"SEED must be full or small, not {self.seed!r}.")

    def capacity_for(self, script: str) -> int | None:
        """How many the script wants to have let in; None: as many as the room is configured for."""
        if script == "journey" and self._capacity is not None:
            return int(self._capacity)
        known: dict[str, int | None] = CAPACITY | self.settings.get("capacity", {})
        return known.get(script, EVERYBODY)


def measure(asked: Asked, environ: Mapping[str, str]) -> Path:
    """Runs the scripts and writes the result's folder. Raises CannotTest or StackError."""
    k6_environ = {**environ, "PROFILE": asked.profile}
    plans = {name: k6.plan(name, k6_environ) for name in asked.scripts}
    taken = datetime.datetime.now(datetime.UTC)
    with opened(environ, "full" if asked.seed == "full" else "small") as target:
        volume = target.volume()
        folder = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}-{asked.profile}"
        folder.mkdir(parents=True)
        k6_environ |= told_to_k6(target, volume)
        if asked.settings.get("hotSchedule"):
            k6_environ["HOT_SCHEDULE"] = str(target.schedule_without_reservations())
        pids = visible_pids(target)
        caps = target.caps()
        room = Room(target)
        try:
            scripts = [
                one_script(
                    name,
                    plans[name],
                    asked.capacity_for(name),
                    target,
                    room,
                    folder / name,
                    k6_environ,
                    pids,
                )
                for name in asked.scripts
            ]
        finally:
            room.close()
        say("Counting what must be 0")
        invariants = verify.settled(target)
    invariants["samples with more admitted than the capacity"] = sum(
        script["room"]["over_capacity"] for script in scripts
    )
    invariants["people admitted out of order"] = sum(
        script["room"]["overtakers"] for script in scripts
    )
    result = {
        "taken": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
        "profile": asked.profile,
        "about": asked.settings["about"],
        "changed": {name: environ[name] for name in report.SETTINGS if environ.get(name)},
        "own_stack": target.own,
        "caps": caps,
        "volume": vars(volume),
        "machine": described_machine(),
        "invariants": invariants,
        "passed": not any(invariants.values()) and all(script["passed"] for script in scripts),
        "scripts": scripts,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    report.write(folder)
    return folder


def told_to_k6(target: Target, volume: Volume) -> dict[str, str]:
    """What the scripts must know of the target, as environment variables."""
    return {
        "BASE_URL": target.base_url,
        "CONCERTS": str(volume.concerts),
        "SCHEDULES": str(volume.schedules // volume.concerts),
        "SEATS": str(volume.seats // volume.schedules),
    }


def visible_pids(target: Target) -> dict[str, Source]:
    """The target's processes or containers; says which ones cannot be seen."""
    pids = target.sources()
    missing = sorted(set(report.PROCESSES) - pids.keys() - {"k6"})
    if missing:
        say(f"Not to be seen from here, so without figures: {', '.join(missing)}.")
    return pids


def described_machine() -> dict[str, str]:
    rows = {name: value for name, value in machine.describe().items() if name != "wrk"}
    return rows | {"k6": k6.version()}


def one_script(
    name: str,
    plan: dict[str, Any],
    wanted: int | None,
    target: Target,
    room: Room,
    folder: Path,
    environ: Mapping[str, str],
    pids: Mapping[str, Source],
) -> dict[str, Any]:
    """One script, with the waiting room ready to let `wanted` people in (None: as many as it is
    configured for), and everything watched."""
    room.empty_line()
    if 0 < (wanted or 0) < room.admitted():
        raise CannotTest(
            f"{room.admitted():,} people of an earlier test are still let in, too many for a test"
            f" of a room for {wanted:,}: wait until their admissions end, or start the system anew."
        )
    capacity = room.make_room_for(wanted)
    say(f"{name}: up to {plan['users']:,} users, {plan['seconds']:.0f} s")
    before = {"mb": megabytes(pids), "connections": connections(pids)}
    throttled = throttling(pids)
    watched: dict[str, Source] = dict(pids)
    watch: Watch | None = None
    shown = _Progress(plan["seconds"])

    def started(pid: int) -> None:
        nonlocal watch
        watched["k6"] = pid
        watch = Watch(target, watched)
        watch.__enter__()

    try:
        ran = k6.run(name, folder, environ, shown.show, started)
    finally:
        if watch is not None:
            watch.__exit__()
    assert watch is not None
    shown.clear()
    at = watch.began
    points = [{**point, "at": at + point["t"]} for point in watch.points]
    (folder / "series.json").write_text(json.dumps({"requests": ran["series"], "machine": points}))
    script = summarised(name, ran, points)
    script |= {
        "users": plan["users"],
        "scheduled_seconds": plan["seconds"],
        "scenario": plan["scenario"],
        "before": before,
        "after": {"mb": megabytes(pids), "connections": connections(pids)},
        "throttled": _shares(throttled, throttling(pids)),
        "room": {
            "capacity": capacity,
            "samples": watch.room.samples,
            "over_capacity": watch.room.over_capacity,
            "overtakers": len(watch.room.overtakers),
            "most_waiting": watch.room.most_waiting,
        },
    }
    say("  " + report.one_line(script))
    return script


def summarised(
    name: str, ran: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The figures of one script, from k6's summary and the samples of the machine."""
    metrics, series = ran["metrics"], ran["series"]

    def value(metric: str, key: str) -> float:
        return float(metrics.get(metric, {}).get(key, 0))

    def stats(metric: str) -> dict[str, float]:
        found = metrics.get(metric, {})
        keys = ("avg", "min", "med", "max", "p(90)", "p(95)", "p(99)")
        return {key: round(found[key], 2) for key in keys if key in found}

    # Only while there was load: before and after it people are made ready and sent home.
    first, last = (series[0]["at"], series[-1]["at"] + 1) if series else (0.0, 0.0)
    during = [point for point in points if first <= point["at"] <= last + 1] or list(points)
    requests = sum(point["n"] for point in series)
    routes = {
        route: stats(metric) | {"requests": sum(point["routes"].get(route, 0) for point in series)}
        for metric in metrics
        if metric.startswith("http_req_duration{phase:run,name:")
        for route in [metric[len("http_req_duration{phase:run,name:") : -1]]
    }
    counted = {
        key: int(value(key, "count"))
        for key in (
            "seats_won",
            "seats_taken",
            "journeys_bought",
            "journeys_stopped",
            "dropped_iterations",
        )
        if key in metrics
    }
    return {
        "name": name,
        "passed": ran["passed"],
        "thresholds": {
            f"{metric} {limit}": not broken
            for metric, found in sorted(metrics.items())
            for limit, broken in found.get("thresholds", {}).items()
        },
        "requests": requests,
        "per_second": round(requests / max(1, len(series)), 1),
        "seconds": len(series),
        "duration": stats("http_req_duration{phase:run}"),
        # A wrong reply is one that has the wrong status, or the right one and a wrong body.
        "wrong": int(value("wrong_replies{phase:run}", "passes")),
        "prepared_wrong": int(
            value("wrong_replies", "passes") - value("wrong_replies{phase:run}", "passes")
        ),
        "routes": routes,
        "counted": counted,
        "waited_ms": stats("journey_waited"),
        "polls": stats("journey_polls"),
        "cpu": _cores(during),
        "other_cores": round(_median(point["other"] for point in during), 3),
        "steal": round(_median(point["steal"] for point in during), 4),
    }


def _cores(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each process the mean and the peak (of 3 s) of the cores it used."""
    cores = {}
    for name in points[0]["cpu"] if points else ():
        used = [point["cpu"][name] for point in points]
        three = [statistics.fmean(used[at : at + 3]) for at in range(max(1, len(used) - 2))]
        cores[name] = {"mean": round(statistics.fmean(used), 3), "peak": round(max(three), 3)}
    return cores


def _shares(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """In what share of the periods meanwhile each was made to wait by its cap."""
    return {
        name: round((waited - before[name][0]) / max(1, periods - before[name][1]), 4)
        for name, (waited, periods) in after.items()
        if name in before
    }


def _median(values: Any) -> float:
    return float(statistics.median([*values] or [0.0]))


class _Progress:
    """One line that is written over on a terminal; elsewhere a line now and then."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._said = time.monotonic()

    def show(self, state: str, spent: float) -> None:
        line = f"  {min(spent, self._total):3.0f}/{self._total:.0f} s  {state}"
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)
        elif time.monotonic() - self._said >= _SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            say(line)

    def clear(self) -> None:
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    # So that everything is stopped in order; even without it the children would die with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        folder = measure(Asked(os.environ), os.environ)
    except (CannotTest, StackError) as error:
        print(f"frontrow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("frontrow: Stopped.", file=sys.stderr)
        return 130
    result = json.loads((folder / "result.json").read_text())
    say(f"\n{report.text(result)}\n\n{verify.lines(result['invariants'])}")
    say(f"\n{folder.relative_to(REPOSITORY)}/report.html")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
