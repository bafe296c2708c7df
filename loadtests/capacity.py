"""The search for the most users that each route and the journey can serve, and for the bottleneck.

The number of users, each with 1 s to think, doubles until p99 reaches 200 ms or 1 % fail; then the
search narrows down to the largest number that held. A step whose script k6 ended did not hold. The
bottleneck of the smallest number that did not hold is a cap, the core of a single-threaded program,
the machine, or none of these. The figures of a step include the seconds in which the users arrive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.files import REPOSITORY
from loadtests import scripts
from loadtests.model import Cap, Capacity, Found, Load, Script, Step, now
from loadtests.opening import opened
from loadtests.report.words import broken_limits, number_of, say
from loadtests.request import CAPACITY, EVERYBODY, Request, Search
from loadtests.runner import Runner, described_machine, settings_of

RESULTS = REPOSITORY / "results" / "capacity"
# Of a core, and of the machine: the users arrive during the first seconds of a step, so the mean is
# lower than at its end.
_FULL_CORE, _FULL_MACHINE = 0.85, 0.8
# Share of the periods of 100 ms in which a cap made a container wait: enough to delay every request
# that takes many of them.
_HELD_UP = 0.25
# Each process of these has one working thread; MariaDB and Kafka have many.
_ONE_CORE = (
    "gateway",
    "queue_service",
    "concert_service",
    "reservation_service",
    "payment_service",
    "redis",
)


def measure(request: Request) -> Capacity:
    """Searches for each script; capacity.json is written after each step.

    A search that cannot be ended is in `missing`. Raises UserError if nothing was measured.
    """
    search_for = Search.from_environ(request.environ)
    for name in request.scripts:  # Refuses bad settings before anything is started.
        scripts.plan(name, {**request.environ, **search_for.settings(search_for.first)})
    began, taken = time.monotonic(), now()
    with opened(request.environ, request.seed) as target:
        volume = target.volume()
        folder = RESULTS / f"{taken:%Y%m%dT%H%M%SZ}"
        folder.mkdir(parents=True)
        file = folder / "capacity.json"
        versions_of, machine = described_machine(target)
        capacity = Capacity(
            file=str(file.relative_to(REPOSITORY)),
            taken=taken,
            max_p99_ms=search_for.max_p99_ms,
            max_failed=search_for.max_failed,
            think_seconds=search_for.think_seconds,
            step_seconds=search_for.seconds,
            rise_seconds=search_for.rise_seconds,
            caps=target.caps(),
            volume=volume,
            machine=machine,
            versions_of=versions_of,
            missing=dict.fromkeys(request.scripts, "the search was stopped"),
        )
        count = len(request.scripts)
        say(
            f"At most {number_of(search_for.most_steps(), 'step')} for"
            f" {'each of ' * (count > 1)}{number_of(count, 'script')}, about"
            f" {number_of(search_for.minutes(count), 'minute')} in all"
        )
        workers = int(request.environ.get("GATEWAY_WORKERS") or 1)
        environ = {**request.environ, **settings_of(target, volume)}
        with Runner(target, environ) as runner:
            for number, name in enumerate(request.scripts, 1):

                def step(users: int, name: str = name, number: int = number) -> Step:
                    say(
                        f"[{(time.monotonic() - began) / 60:.0f} min] script {number} of"
                        f" {count}, {so_far(capacity.scripts.get(name))}"
                    )
                    settings = {**environ, **search_for.settings(users)}
                    try:
                        script = _tried(runner, name, settings, folder / name / str(users))
                    except scripts.GaveUp as gave_up:
                        say(f"  {gave_up}")
                        return step_given_up(users, name, gave_up, capacity.caps, workers)
                    return step_of(users, script, capacity.caps, workers)

                def after(found: Found, name: str = name) -> None:
                    capacity.scripts[name] = found
                    capacity.write(file)

                try:
                    found = search(search_for, step, after)
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


def _tried(runner: Runner, name: str, settings: Mapping[str, str], folder: Path) -> Script:
    # The journey is measured, and not the wait for it.
    wanted = EVERYBODY if name == "journey" else CAPACITY.get(name, EVERYBODY)
    return runner.run(name, scripts.plan(name, settings), wanted, folder, settings)


def search(
    search_for: Search,
    step: Callable[[int], Step],
    after: Callable[[Found], None] = lambda found: None,
) -> Found:
    """The largest number of users for which `step` passes; `after` gets what is known so far."""
    steps: dict[int, Step] = {}
    good = bad = 0
    while (users := search_for.next(good, bad)) is not None:
        last = steps[users] = step(users)
        good, bad = (users, bad) if last.passed else (good, users)
        held, broken = steps.get(good), steps.get(bad)
        found = Found(
            users=good,
            per_second=held.per_second if held else 0.0,
            p99=held.p99 if held else None,
            stopped_by=broken.stopped_by if broken else "the end of the search",
            bottleneck=(broken or last).bottleneck,
            steps=[steps[users] for users in sorted(steps)],
        )
        after(found)
    return found


def step_of(users: int, script: Script, caps: Mapping[str, Cap], workers: int) -> Step:
    """What is kept of a step that k6 ended in order."""
    return Step(
        users=users,
        passed=script.passed,
        per_second=script.per_second,
        avg=script.duration.avg if script.duration else None,
        p99=script.duration.p99 if script.duration else None,
        wrong=script.wrong,
        stopped_by="" if script.passed else _reason(script),
        bottleneck=bottleneck(script, caps, workers),
        cpu=script.cpu,
        throttled=script.throttled,
    )


def step_given_up(
    users: int, name: str, gave_up: scripts.GaveUp, caps: Mapping[str, Cap], workers: int
) -> Step:
    """What is kept of a step whose script ended itself."""
    return Step(
        users=users,
        passed=False,
        stopped_by=str(gave_up).removeprefix(f"{name}: ").rstrip("."),
        bottleneck=bottleneck(gave_up.load, caps, workers),
        cpu=gave_up.load.cpu,
        throttled=gave_up.load.throttled,
    )


def _reason(script: Script) -> str:
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
