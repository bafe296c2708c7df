"""Runs k6 scripts against one system, each watched, and writes the folder of the results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from concert_service.seed import SCHEDULES_PER_CONCERT
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.stopping import Stopped
from loadtests import machine, prepare, scripts, verify
from loadtests.metrics import ProcessTree, Watch, resources, sources_of
from loadtests.model import (
    Counted,
    K6Metric,
    Load,
    Resources,
    Result,
    RoomFigures,
    Route,
    Script,
    Series,
    System,
    Volume,
    now,
)
from loadtests.opening import opened
from loadtests.report import run_report
from loadtests.report.words import PROCESSES, one_line, say
from loadtests.request import Request
from loadtests.room import Room
from loadtests.scripts import Plan, Ran
from loadtests.target import Target

RESULTS = REPOSITORY / "results" / "loadtest"
_ROUTE_METRIC = "http_req_duration{phase:run,name:"


def measure(request: Request) -> Result:
    """Runs the scripts and writes the result's folder.

    If a script cannot be ended, what was measured before it is verified and written nevertheless,
    and `missing` says why the rest is not there. Raises UserError if nothing was measured.
    """
    environ = {**request.environ, "PROFILE": request.profile_name}
    for name in request.scripts:  # Refuses bad settings before anything is started.
        scripts.plan(name, environ)
    with opened(request.environ, request.seed) as target:
        system = system_of(target)
        folder = RESULTS / f"{system.taken:%Y%m%dT%H%M%SZ}-{request.profile_name}"
        folder.mkdir(parents=True)
        if request.profile.hotSchedule:
            environ["HOT_SCHEDULE"] = str(target.schedule_without_reservations())
        environ |= settings_of(target, system.volume)
        result = Result(
            **system.model_dump(),
            folder=str(folder.relative_to(REPOSITORY)),
            profile=request.profile_name,
            about=request.profile.about,
            changed=request.changed,
            own_stack=target.own,
            missing=dict.fromkeys(request.scripts, "the run was stopped"),
        )
        sold_before = target.sold()
        try:
            _run_scripts(request, target, environ, folder, result)
        except Stopped:
            if result.scripts:
                say(f"What was measured so far: {result.folder}/result.json")
            raise
        say("Counting what must be 0")
        try:
            result.invariants = added(verify.settled(target), _seen_in_room(result))
            won = sum(script.counted.seats_won or 0 for script in result.scripts)
            target.require_sold(sold_before, won)
        except UserError as error:
            result.unverified = str(error)
    result.passed = (
        not result.missing
        and not result.unverified
        and not any(result.invariants.values())
        and all(script.passed for script in result.scripts)
    )
    result.write(folder / "result.json")
    run_report.write(folder)
    return result


def _run_scripts(
    request: Request, target: Target, environ: Mapping[str, str], folder: Path, result: Result
) -> None:
    """Runs one script after another into the result, which is written after each of them because
    the next may be stopped. Raises UserError if not even the first can be measured."""
    with Room(target) as room:
        for name in request.scripts:
            wanted = request.capacity_for(name)
            try:
                script = run(target, room, name, wanted, folder / name, environ)
            except UserError as error:
                if not result.scripts:
                    raise
                say(f"  {error}")
                result.missing = dict.fromkeys(result.missing, f"not run after {name} failed")
                result.missing[name] = str(error)
                return
            result.scripts.append(script)
            del result.missing[name]
            result.write(folder / "result.json")


def _seen_in_room(result: Result) -> dict[str, int]:
    """The invariants of the waiting room, sampled while the scripts ran."""
    rooms = [script.room for script in result.scripts]
    return {
        "samples_over_capacity": sum(r.over_capacity for r in rooms),
        "people_admitted_out_of_order": sum(room.overtakers for room in rooms),
        "scripts_without_samples_of_the_room": sum(not r.samples for r in rooms),
    }


def added(settled: Mapping[str, int], seen: Mapping[str, int]) -> dict[str, int]:
    """Adds the violations seen during the load to those counted after it."""
    return {name: settled.get(name, 0) + seen.get(name, 0) for name in {**settled, **seen}}


def settings_of(target: Target, volume: Volume) -> dict[str, str]:
    """The environment variables that tell the scripts where the system is and what it sells."""
    return {
        "BASE_URL": target.base_url,
        "CONCERTS": str(volume.concerts),
        "SCHEDULES": str(volume.schedules // volume.concerts),
        "SCHEDULE_IDS": str(SCHEDULES_PER_CONCERT),
        "SEATS": str(volume.seats // volume.schedules),
    }


def system_of(target: Target) -> System:
    """What is measured, now. Prints which processes cannot be seen."""
    if unseen := sorted(set(PROCESSES) - sources_of(target).keys() - {"k6"}):
        say(f"Not visible from here, so without figures: {', '.join(unseen)}.")
    versions_of, versions = target.versions()
    return System(
        taken=now(),
        caps=target.caps(),
        volume=target.volume(),
        machine=machine.hardware() | versions | {"k6": scripts.version()},
        versions_of=versions_of,
    )


def run(
    target: Target,
    room: Room,
    name: str,
    wanted: int | None,
    folder: Path,
    environ: Mapping[str, str],
) -> Script:
    """Runs one script, watched, with a room that admits `wanted` people (None: as many as
    configured).

    Raises scripts.GaveUp, with what was used until then, if the script ended itself, and UserError.
    """
    plan = scripts.plan(name, environ)
    target.wait_until_ready()
    room.empty_line()
    capacity = room.make_room_for(wanted)
    say(f"{name}: up to {plan.users:,} users, {plan.seconds:g} s")
    watches: list[Watch] = []
    with contextlib.ExitStack() as stack:
        people = stack.enter_context(prepare.prepared(plan.people, plan.seconds, environ))
        # A program that was restarted since the last script has another process id.
        sources = sources_of(target)
        before = resources(sources)

        def started(pid: int) -> None:
            watch = Watch(target, {**sources, "k6": ProcessTree(pid)})
            watches.append(stack.enter_context(watch))

        try:
            ran = scripts.run(name, folder, {**environ, **people}, started)
        except scripts.GaveUp as gave_up:
            gave_up.load = watches[0].load() if watches else Load()
            raise
    (watch,) = watches
    Series(requests=ran.seconds, machine=watch.points).write(folder / "series.json")
    figures = RoomFigures(
        capacity=capacity,
        samples=watch.room.samples,
        over_capacity=watch.room.over_capacity,
        overtakers=len(watch.room.overtakers),
        most_waiting=watch.room.most_waiting,
    )
    script = summarised(name, plan, ran, watch, figures, before, resources(sources))
    say("  " + one_line(script))
    return script


def summarised(
    name: str,
    plan: Plan,
    ran: Ran,
    watch: Watch,
    room: RoomFigures,
    before: Resources,
    after: Resources,
) -> Script:
    """The figures of one script, from k6's metrics and the samples of the machine."""
    metrics, seconds = ran.metrics, ran.seconds
    empty = K6Metric()
    # Before and after the load, people are prepared and leave.
    load = watch.load(seconds[0].at, seconds[-1].at + 2) if seconds else watch.load()
    requests = sum(second.n for second in seconds)
    wrong = metrics.get("wrong_replies{phase:run}", empty).passes
    routes = {
        metric.removeprefix(_ROUTE_METRIC).removesuffix("}"): found.stats()
        for metric, found in metrics.items()
        if metric.startswith(_ROUTE_METRIC)
    }
    return Script(
        **load.model_dump(),
        name=name,
        passed=ran.passed,
        thresholds={
            f"{metric} {limit}": not broken
            for metric, found in sorted(metrics.items())
            for limit, broken in found.thresholds.items()
        },
        requests=requests,
        per_second=round(requests / max(1, len(seconds)), 1),
        seconds=len(seconds),
        duration=metrics.get("http_req_duration{phase:run}", empty).stats(),
        wrong=int(wrong),
        prepared_wrong=int(metrics.get("wrong_replies", empty).passes - wrong),
        routes={
            route: Route(requests=sum(s.routes.get(route, 0) for s in seconds), times=times)
            for route, times in routes.items()
        },
        counted=Counted(
            **{key: int(metrics[key].count) for key in Counted.model_fields if key in metrics}
        ),
        waited_ms=metrics.get("journey_waited", empty).stats(),
        polls=metrics.get("journey_polls", empty).stats(),
        users=plan.users,
        scheduled_seconds=plan.seconds,
        scenario=plan.scenario,
        before=before,
        after=after,
        room=room,
    )
