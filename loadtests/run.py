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
nothing to measure, or not everything could be, which one sentence explains.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concert_service.seed import SCHEDULES_A_CONCERT
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.stopping import Stopped
from loadtests import command, k6, machine, prepare, report, verify
from loadtests.opening import opened
from loadtests.room import Room
from loadtests.target import Target, Volume
from loadtests.watch import Watch, connections, megabytes, throttling

RESULTS = REPOSITORY / "results" / "loadtest"
_SEEDS = ("full", "small")
#: How many a script wants to have let in, unless the profile says otherwise.
CAPACITY: dict[str, int | None] = {"enqueue": None, "journey": None, "order": 0}
EVERYBODY = 1_000_000
_SAY_EVERY_SECONDS = 10.0


class Asked:
    """What the caller wants, from the environment. Raises UserError for what there is not."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.profile = environ.get("PROFILE") or "baseline"
        if self.profile not in k6.PROFILES:
            raise UserError(
                f"There is no profile {self.profile!r}: choose {', '.join(k6.PROFILES)}."
            )
        self.settings = k6.PROFILES[self.profile]
        possible = self.settings.get("only", k6.NAMES)
        scripts = [name.strip() for name in environ.get("SCRIPT", "").split(",") if name.strip()]
        for script in scripts:
            if script not in k6.NAMES:
                raise UserError(f"There is no script {script!r}: choose {', '.join(k6.NAMES)}.")
            if script not in possible:
                raise UserError(
                    f"The profile {self.profile} is for {', '.join(possible)}, not for {script}."
                )
        self.scripts: Sequence[str] = [name for name in possible if name in (scripts or possible)]
        self._capacity = environ.get("CAPACITY") or None
        if self._capacity is not None and not self._capacity.isdecimal():
            raise UserError(f"CAPACITY must be a number of people, not {self._capacity!r}.")
        self.seed = environ.get("SEED") or ("small" if self.profile == "smoke" else "full")
        if self.seed not in _SEEDS:
            raise UserError(f"SEED must be full or small, not {self.seed!r}.")

    def capacity_for(self, script: str) -> int | None:
        """How many the script wants to have let in; None: as many as the room is configured for."""
        if script == "journey" and self._capacity is not None:
            return int(self._capacity)
        known: dict[str, int | None] = CAPACITY | self.settings.get("capacity", {})
        return known.get(script, EVERYBODY)


def measure(asked: Asked, environ: Mapping[str, str]) -> dict[str, Any]:
    """Runs the scripts; writes the result's folder and returns what is in its result.json.

    If a script cannot be ended, what was measured before it is verified and written all the same;
    "missing" says why the rest is not there. Raises UserError or UserError if nothing was
    measured.
    """
    k6_environ = {**environ, "PROFILE": asked.profile}
    plans = {name: k6.plan(name, k6_environ) for name in asked.scripts}
    taken = datetime.datetime.now(datetime.UTC)
    with opened(environ, "full" if asked.seed == "full" else "small") as target:
        volume = target.volume()
        folder = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}-{asked.profile}"
        folder.mkdir(parents=True)
        if asked.settings.get("hotSchedule"):
            k6_environ["HOT_SCHEDULE"] = str(target.schedule_without_reservations())
        result: dict[str, Any] = {
            "folder": str(folder.relative_to(REPOSITORY)),
            "taken": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
            "profile": asked.profile,
            "about": asked.settings["about"],
            "changed": {name: environ[name] for name in report.SETTINGS if environ.get(name)},
            "own_stack": target.own,
            "caps": target.caps(),
            "volume": vars(volume),
            **described_machine(target),
            "invariants": {},
            "unverified": "",
            "missing": dict.fromkeys(asked.scripts, "the run was stopped"),
            "passed": False,
            "scripts": [],
        }
        sold_before = target.sold()
        try:
            with Runner(target, k6_environ | told_to_k6(target, volume)) as runner:
                _run_scripts(asked, plans, runner, folder, result)
        except Stopped:
            if result["scripts"]:
                say(f"What was measured so far: {result['folder']}/result.json")
            raise
        say("Counting what must be 0")
        try:
            result["invariants"] = verify.settled(target) | seen_in_room(result["scripts"])
            target.require_sold(sold_before, _won(result["scripts"]))
        except UserError as error:
            result["unverified"] = str(error)
    result["passed"] = (
        not result["missing"]
        and not result["unverified"]
        and not any(result["invariants"].values())
        and all(script["passed"] for script in result["scripts"])
    )
    _save(result)
    report.write(folder)
    return result


def _run_scripts(
    asked: Asked,
    plans: Mapping[str, dict[str, Any]],
    runner: Runner,
    folder: Path,
    result: dict[str, Any],
) -> None:
    """One after another into the result, which is written after each, since the next may be
    stopped. Raises UserError if not even the first can be measured."""
    for name in asked.scripts:
        try:
            script = runner.run(name, plans[name], asked.capacity_for(name), folder / name)
        except UserError as error:
            if not result["scripts"]:
                raise
            say(f"  {error}")
            result["missing"] = dict.fromkeys(result["missing"], f"not run after {name} failed")
            result["missing"][name] = str(error)
            return
        result["scripts"].append(script)
        del result["missing"][name]
        _save(result)


def _save(result: Mapping[str, Any]) -> None:
    file = REPOSITORY / result["folder"] / "result.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


def seen_in_room(scripts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The invariants that were looked at while the load lasted."""
    rooms = [script["room"] for script in scripts]
    return {
        "samples_over_capacity": sum(r["over_capacity"] for r in rooms),
        "people_admitted_out_of_order": sum(room["overtakers"] for room in rooms),
        "scripts_without_samples_of_the_room": sum(not r["samples"] for r in rooms),
    }


def _won(scripts: Sequence[Mapping[str, Any]]) -> int:
    """How many seats k6 was told that it holds."""
    return sum(int(script["counted"].get("seats_won", 0)) for script in scripts)


def told_to_k6(target: Target, volume: Volume) -> dict[str, str]:
    """What the scripts must know of the target, as environment variables."""
    return {
        "BASE_URL": target.base_url,
        "CONCERTS": str(volume.concerts),
        "SCHEDULES": str(volume.schedules // volume.concerts),
        "SCHEDULE_IDS": str(SCHEDULES_A_CONCERT),
        "SEATS": str(volume.seats // volume.schedules),
    }


def described_machine(target: Target) -> dict[str, Any]:
    """What it was measured on, for the result."""
    of, rows = target.versions()
    return {"machine": machine.hardware() | rows | {"k6": k6.version()}, "versions_of": of}


class Runner:
    """Runs scripts against one target, each watched, and with the waiting room as it needs it.
    Puts the room back at the end. Raises UserError."""

    def __init__(self, target: Target, environ: Mapping[str, str]) -> None:
        self._target = target
        self._environ = environ
        self._room = Room(target)

    def __enter__(self) -> Runner:
        unseen = sorted(set(report.PROCESSES) - self._target.sources().keys() - {"k6"})
        if unseen:
            say(f"Not to be seen from here, so without figures: {', '.join(unseen)}.")
        return self

    def __exit__(self, *_: object) -> None:
        self._room.close()

    def run(
        self,
        name: str,
        plan: Mapping[str, Any],
        wanted: int | None,
        folder: Path,
        settings: Mapping[str, str] = types.MappingProxyType({}),
    ) -> dict[str, Any]:
        """The figures of one script, with a room that lets `wanted` people in (None: as many as
        it is configured for); `settings` are environment variables of this script alone. Raises
        k6.GaveUp, with what was used until then, if the script ended itself."""
        self._target.wait_until_ready()
        self._room.empty_line()
        if 0 < (wanted or 0) < self._room.admitted():
            raise UserError(
                f"{self._room.admitted():,} people of an earlier test are still let in, too many"
                f" for a test of a room for {wanted:,}: wait until their admissions end, or start"
                " the system anew."
            )
        capacity = self._room.make_room_for(wanted)
        say(f"{name}: up to {plan['users']:,} users, {plan['seconds']:.0f} s")
        shown = _Progress(plan["seconds"])
        environ = {**self._environ, **settings}
        watches: list[Watch] = []
        with contextlib.ExitStack() as watching:
            watching.callback(shown.clear)
            ready = watching.enter_context(
                prepare.prepared(plan["people"], plan["seconds"], environ, shown.show)
            )
            # Anew each time: what has been started again meanwhile has another process id.
            sources = self._target.sources()
            before = {"mb": megabytes(sources), "connections": connections(sources)}
            waited = throttling(sources)

            def started(pid: int) -> None:
                watch = Watch(self._target, {**sources, "k6": pid})
                watches.append(watching.enter_context(watch))

            try:
                ran = k6.run(name, folder, {**environ, **ready.environ}, shown.show, started)
            except k6.GaveUp as gave_up:
                gave_up.cpu = _cores([point for watch in watches for point in watch.points])
                gave_up.throttled = _shares(waited, throttling(sources))
                raise
        # Each who has paid has left; a payer is taken for each iteration, in their order.
        turns = int(ran["metrics"].get("iterations", {}).get("count", 0))
        ready.send_home(without=turns if plan["people"].holds else 0)
        (watch,) = watches
        points = [{**point, "at": watch.began + point["t"]} for point in watch.points]
        series = {"requests": ran["series"], "machine": points}
        (folder / "series.json").write_text(json.dumps(series))
        script = summarised(name, ran, points) | {
            "users": plan["users"],
            "scheduled_seconds": plan["seconds"],
            "scenario": plan["scenario"],
            "before": before,
            "after": {"mb": megabytes(sources), "connections": connections(sources)},
            "throttled": _shares(waited, throttling(sources)),
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
            "prepared_late",
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
        name: max(0.0, round((waited - before[name][0]) / max(1, periods - before[name][1]), 4))
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


def main(argv: Sequence[str]) -> int:
    return command.run(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    command.Parser("run", __doc__).parse_args(argv)
    result = measure(Asked(os.environ), os.environ)
    say(f"\n{report.text(result)}\n\n{verify.lines(result['invariants'])}")
    say(f"\n{result['folder']}/report.html")
    for name, reason in result["missing"].items():
        print(f"frontrow: {name} is missing: {reason}", file=sys.stderr)
    if result["unverified"]:
        print(f"frontrow: Not verified: {result['unverified']}", file=sys.stderr)
    if result["missing"] or result["unverified"]:
        return 2
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
