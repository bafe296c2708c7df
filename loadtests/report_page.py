"""docs/load-test-report.md, made from runs that are committed beside it: no number is typed.

    python -m loadtests.report_page results/loadtest/20260102T030405Z-baseline …

takes over these results (each in the place of an older one of its profile) and writes the page
anew; without a folder it only writes the page anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import REPOSITORY
from loadtests import command, k6
from loadtests.charts import BASELINE
from loadtests.report import (
    ABOUT_CAPS,
    PROCESSES,
    TITLES,
    before_and_after,
    broken_limits,
    cap_cells,
    changes,
    facts,
    gaps,
    held_up,
    number_of,
    ran_on,
    total_cap,
)

PAGE = REPOSITORY / "docs" / "load-test-report.md"
RUNS = REPOSITORY / "docs" / "load-test-report"
_PROFILES = ("baseline", "x10", "rush", "hotseat", "soak")
#: Each profile once as the machine has it, and once for each cap that a run was made with.
_CAPS = ("", "-2c4g", "-6c8g")
_ORDER = tuple(f"{profile}{cap}" for profile in _PROFILES for cap in _CAPS)
_SCRIPTS = tuple(BASELINE["scripts"])
_READ = ("concerts", "order", "schedules", "seats")
#: profile → script → figure → at most, in ms.
_ROUTE = {"p(99)": 25.0, "avg": 8.0}
TARGETS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "baseline": {name: _ROUTE for name in _SCRIPTS if name != "journey"}
    | {"journey": {"p(99)": 40.0}},
    "x10": {name: {"p(99)": 200.0} for name in _READ},
}


# Our own watching, and the system's, take less.
_QUIET_CORES = 0.25


#: Rows of a machine that are of itself and not of what runs on it.
_HARDWARE = ("processor", "memory", "kernel", "k6")


class PageError(UserError):
    """The page cannot be made, said in one sentence."""


def take_over(folder: Path) -> None:
    """Copies what is worth keeping of a result. Raises PageError."""
    try:
        result = json.loads((folder / "result.json").read_text())
        kind = _kind(result)
        kept = {name: folder / name for name in ("result.json", "charts.png")}
        for script in result["scripts"]:
            kept[f"{script['name']}.summary.json"] = folder / script["name"] / "summary.json"
        texts = {name: file.read_bytes() for name, file in kept.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PageError(f"{folder} is not the result of a load test.") from error
    if kind not in _ORDER:
        raise PageError(f"The page has no place for the profile {kind}.")
    shutil.rmtree(RUNS / kind, ignore_errors=True)
    (RUNS / kind).mkdir(parents=True)
    for name, text in texts.items():
        (RUNS / kind / name).write_bytes(text)


def _kind(result: Mapping[str, Any]) -> str:
    """The profile, and the total of the caps if it ran in containers, as in baseline-2c4g."""
    cap = total_cap(result)
    return f"{result['profile']}-{cap}" if cap else str(result["profile"])


def committed() -> dict[str, dict[str, Any]]:
    """The results that the page is made from, by profile and cap."""
    return {
        kind: json.loads(file.read_text())
        for kind in _ORDER
        if (file := RUNS / kind / "result.json").exists()
    }


def capacity() -> dict[str, Any] | None:
    """What `make capacity` found, if that is committed."""
    file = RUNS / "capacity.json"
    return json.loads(file.read_text()) if file.exists() else None


def page(results: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any] | None) -> str:
    """The whole text."""
    parts = [_head()]
    for kind, result in results.items():
        parts.append(_run(kind, result, results.get(result["profile"])))
    if found:
        parts.append(_capacity(found))
    missing = [profile for profile in _PROFILES if profile not in results]
    if missing:
        parts.append(f"## Not run yet\n\nThe profiles {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _run(kind: str, result: Mapping[str, Any], uncapped: Mapping[str, Any] | None) -> str:
    profile = result["profile"]
    caps = result.get("caps")
    scripts = {script["name"]: script for script in result["scripts"]}
    names = [name for name in _SCRIPTS if name in scripts]
    volume = result["volume"]
    changed = changes(result, quote="`")
    parts = [
        f"## Profile `{profile}`" + (f" in containers, {total_cap(result)}" if caps else ""),
        f"{result['about'][0].upper()}{result['about'][1:]}. Run on {result['taken'][:10]} at"
        f" {result['taken'][11:16]} UTC with {volume['concerts']:,} concerts,"
        f" {volume['schedules']:,} dates and {volume['seats']:,} seats for sale, on"
        f" {ran_on(result)}."
        + (f" Changed: {changed}." if changed else "")
        + (" **All thresholds and invariants held.**" if result["passed"] else "")
        + _left_out(result, scripts),
        *(f"**{sentence}**" for sentence in gaps(result)),
    ]
    if disturbed := _disturbed(scripts):
        parts.append(disturbed)
    if profile == "baseline":
        parts.append(_compared(names, scripts))
    if caps and uncapped:
        parts.append(_beside(names, scripts, uncapped))
    parts.append(_figures(names, scripts))
    targets = _targets(profile, names, scripts)
    if targets:
        parts.append(targets)
    broken = [
        f"- {TITLES[name]}: {', '.join(f'`{limit}`' for limit in broken_limits(scripts[name]))}"
        for name in names
        if broken_limits(scripts[name])
    ]
    if broken:
        parts.append("Thresholds that **did not hold**:\n\n" + "\n".join(broken))
    if result["invariants"]:
        parts.append("What must be 0:\n\n" + _invariants(result["invariants"]))
    parts.append("\n".join(f"- {TITLES[name]}: {facts(scripts[name])}" for name in names))
    parts.append(f"![Latency, requests, processor and memory](load-test-report/{kind}/charts.png)")
    parts.append(
        "Where the time goes: cores in use, mean (peak of 3 s); and processor time of a request,"
        " all of ours but k6 together.\n\n" + _cores(names, scripts)
    )
    if caps:
        parts.append(_throttled(names, scripts, caps))
    if profile == "soak":
        parts.append("Memory and connections at the start and at the end:\n\n" + _before(scripts))
    parts.append(_machine(result))
    return "\n\n".join(parts)


def _left_out(result: Mapping[str, Any], scripts: Mapping[str, Any]) -> str:
    """The scripts of the profile that nobody asked for."""
    possible = k6.PROFILES[result["profile"]].get("only", k6.NAMES)
    asked_for = scripts.keys() | result.get("missing", {}).keys()
    left = [TITLES[name] for name in _SCRIPTS if name in possible and name not in asked_for]
    return f" Left out: {', '.join(left)}." if left else ""


def _compared(names: Sequence[str], scripts: Mapping[str, Any]) -> str:
    rows = [
        "| route | avg: theirs → ours | p95: theirs → ours | p99: theirs → ours "
        "| requests/s: theirs → ours | their verdict |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in names:
        theirs, ours = BASELINE["scripts"][name], scripts[name]["duration"]
        if not ours:
            continue  # no request was made
        cells = " | ".join(
            f"{_ms(theirs[key])} → **{_ms(ours[key])}** ({_ratio(theirs[key], ours[key])})"
            for key in ("avg", "p(95)", "p(99)")
        )
        rows.append(
            f"| {TITLES[name]} | {cells} | {theirs['per_second']:.1f}"
            f" → **{scripts[name]['per_second']:.1f}** | {theirs['verdict']} |"
        )
    return (
        "Times in milliseconds, and in brackets the ratio of theirs to ours: above 1, ours is"
        " faster.\n\n" + "\n".join(rows)
    )


def _beside(names: Sequence[str], scripts: Mapping[str, Any], uncapped: Mapping[str, Any]) -> str:
    """The same without containers and caps."""
    free = {script["name"]: script for script in uncapped["scripts"]}
    rows = [
        "| route | avg uncapped | capped | p95 uncapped | capped | p99 uncapped | capped "
        "| requests/s uncapped | capped |",
        "|---|" + "--:|" * 8,
    ]
    for name in names:
        if name in free and free[name]["duration"] and scripts[name]["duration"]:
            before, now = free[name]["duration"], scripts[name]["duration"]
            pairs = " | ".join(
                f"{_ms(before[key])} | **{_ms(now[key])}**" for key in ("avg", "p(95)", "p(99)")
            )
            rows.append(
                f"| {TITLES[name]} | {pairs} | {free[name]['per_second']:,.1f}"
                f" | **{scripts[name]['per_second']:,.1f}** |"
            )
    return "Beside the run without containers and caps, above:\n\n" + "\n".join(rows)


def _throttled(names: Sequence[str], scripts: Mapping[str, Any], caps: Mapping[str, Any]) -> str:
    processes = [process for process in PROCESSES if process in caps]
    cores, mib = zip(*(cap_cells(caps[name]) for name in processes), strict=True)
    rows = [
        "| | " + " | ".join(name.removesuffix("_service") for name in processes) + " |",
        "|---|" + "--:|" * len(processes),
        "| cap, cores | " + " | ".join(cores) + " |",
        "| cap, MiB | " + " | ".join(mib) + " |",
    ]
    for name in names:
        shares = (held_up(scripts[name], each) for each in processes)
        rows.append(f"| {TITLES[name]} | {' | '.join(shares)} |")
    largest = {
        process: max(script["after"]["mb"].get(process, 0) for script in scripts.values())
        for process in processes
    }
    rows.append("| most memory, MB | " + " | ".join(f"{largest[p]:,}" for p in processes) + " |")
    return f"{ABOUT_CAPS}:\n\n" + "\n".join(rows)


def _ratio(theirs: float, ours: float) -> str:
    if not ours:
        return "-"
    ratio = theirs / ours
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _figures(names: Sequence[str], scripts: Mapping[str, Any]) -> str:
    rows = [
        "| route | most users | requests | requests/s | avg | median | p90 | p95 | p99 | max ms "
        "| wrong replies |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    keys = ("avg", "med", "p(90)", "p(95)", "p(99)", "max")
    for name in names:
        script = scripts[name]
        rows.append(
            f"| {TITLES[name]} | {script['users']:,} | {script['requests']:,}"
            f" | {script['per_second']:,.1f} | "
            + " | ".join(_cell(script["duration"], key) for key in keys)
            + f" | {script['wrong']:,} |"
        )
        if name == "journey":
            rows += [
                f"| · {TITLES[route]} |  | {stats['requests']:,} |  | "
                + " | ".join(_cell(stats, key) for key in keys)
                + " |  |"
                for route, stats in script["routes"].items()
            ]
    return "\n".join(rows)


def _targets(profile: str, names: Sequence[str], scripts: Mapping[str, Any]) -> str:
    wanted = TARGETS.get(profile, {})
    met: list[str] = []
    missed: list[str] = []
    for name in names:
        for key, limit in wanted.get(name, {}).items():
            ours = scripts[name]["duration"].get(key)
            what = f"{TITLES[name]} {key.replace('(', '').replace(')', '')}"
            told = f"{what} not measured" if ours is None else f"{what} {_ms(ours)} ms"
            (met if ours is not None and ours <= limit else missed).append(
                f"{told} (target {limit:.0f})"
            )
    if not met and not missed:
        return ""
    told = f"Targets: {len(met)} of {len(met) + len(missed)} met."
    return told + (" **Missed**: " + "; ".join(missed) + "." if missed else "")


def _invariants(counts: Mapping[str, int]) -> str:
    rows = ["| invariant | count |", "|---|--:|"]
    return "\n".join(
        [
            *rows,
            *(f"| {what} | {'**' * bool(n)}{n:,}{'**' * bool(n)} |" for what, n in counts.items()),
        ]
    )


def _cores(names: Sequence[str], scripts: Mapping[str, Any]) -> str:
    rows = [
        "| | "
        + " | ".join(name.removesuffix("_service") for name in PROCESSES)
        + " | anything else | ms a request |",
        "|---|" + "--:|" * (len(PROCESSES) + 2),
    ]
    for name in names:
        script = scripts[name]
        cpu = script["cpu"]
        cells = (
            f"{cpu[process]['mean']:.2f} ({cpu[process]['peak']:.2f})" if process in cpu else ""
            for process in PROCESSES
        )
        ours = sum(used["mean"] for process, used in cpu.items() if process != "k6")
        each = f"{1000 * ours / script['per_second']:.1f}" if script["per_second"] else ""
        rows.append(
            f"| {TITLES[name]} | {' | '.join(cells)} | {script['other_cores']:.2f} | {each} |"
        )
    return "\n".join(rows)


def _disturbed(scripts: Mapping[str, Any]) -> str:
    """A warning if the machine was not ours alone."""
    disturbed = {
        name: script["other_cores"]
        for name, script in scripts.items()
        if script["other_cores"] > _QUIET_CORES
    }
    if not disturbed:
        return ""
    return (
        "**The machine was not quiet**: during"
        f" {len(disturbed)} of {number_of(len(scripts), 'script')} other"
        f" programs, which have nothing to do with the test, took {_between([*disturbed.values()])}"
        " cores (median of a script); the times are worse for it."
    )


def _between(values: Sequence[float]) -> str:
    least, most = (f"{value:.1f}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _before(scripts: Mapping[str, Any]) -> str:
    (script,) = scripts.values()
    rows = [
        "| process | MB at the start | at the end | connections at the start | at the end |",
        "|---|--:|--:|--:|--:|",
    ]
    for process in PROCESSES:
        if process in script["before"]["mb"]:
            rows.append(f"| {process} | {' | '.join(before_and_after(script, process))} |")
    return "\n".join(rows)


def _machine(result: Mapping[str, Any]) -> str:
    rows = dict(result["machine"])
    unknown = ""
    if result.get("caps") and result.get("versions_of") != "containers":
        # Older results have those of the machine around the containers.
        rows = {name: rows[name] for name in _HARDWARE if name in rows}
        unknown = " Which versions ran in the containers was not recorded."
    told = ", ".join(f"{name} {value}" for name, value in rows.items())
    seen = {process for script in result["scripts"] for process in script["cpu"]}
    elsewhere = [name for name in PROCESSES if name not in seen]
    together = (
        f" k6 ran on it; {', '.join(elsewhere)} elsewhere, or out of sight."
        if elsewhere
        else " Everything ran on it together, k6 and Kafka included."
    )
    return f"Machine: {told}.{unknown}{together}"


def _capacity(found: Mapping[str, Any]) -> str:
    rows = [
        "| route | most users | requests/s | p99 ms | stopped by | what was short then |",
        "|---|--:|--:|--:|---|---|",
    ]
    missing = found.get("missing", {})
    for name in _SCRIPTS:
        if name in found["scripts"] and name not in missing:
            one = found["scripts"][name]
            p99 = "" if one["p99"] is None else _ms(one["p99"])
            rows.append(
                f"| {TITLES[name]} | {one['users']:,} | {one['per_second']:,.1f}"
                f" | {p99} | {one['stopped_by']} | {one['bottleneck']} |"
            )
    caps = f" in containers, {total_cap(found)}," if found.get("caps") else ""
    told = (
        f"## Capacity\n\n`make capacity`{caps} on {found['taken'][:10]} with"
        f" {found['volume']['seats']:,} seats: the largest number of users, each with"
        f" {found['think_seconds']:g} s to think, that kept p99 under {found['max_p99_ms']:g} ms"
        f" and failures under {100 * found['max_failed']:g} % for {found['step_seconds']:g} s,"
        f" with the {found['rise_seconds']:g} s in which they arrived in all figures.\n\n"
        + "\n".join(rows)
    )
    if missing:
        told += "\n\n" + "\n".join(
            f"- Not found: {TITLES[name]}: {reason.rstrip('.')}."
            for name, reason in missing.items()
        )
    return told


def _cell(stats: Mapping[str, float], key: str) -> str:
    return _ms(stats[key]) if key in stats else ""


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _head() -> str:
    load, volume = k6.PROFILES["baseline"], BASELINE["volume"]
    users = ", ".join(str(stage["target"]) for stage in load["route"]["stages"])
    route, journey = (
        k6.seconds(load[kind]["stages"][0]["duration"]) for kind in ("route", "journey")
    )
    return f"""# Load test report

`python -m loadtests.report_page` writes this page from the runs in
[load-test-report/](load-test-report/): k6's own summaries, the samples of the machine, the counts
of the databases and the topic. `make loadtest` makes such a run; see [load tests](load-tests.md).

The report to beat: {BASELINE["about"][0].lower()}{BASELINE["about"][1:]}.
{BASELINE["environment"]}; {volume["seats"]:,} seats, {volume["schedules"]:,} dates, \
{volume["concerts"]:,} concerts.

Its load is our profile `baseline`: the number of users goes from 0 to {users},
in {route:g} s each for a route and {journey:g} s each for the journey. Each user makes one request
(or journey) and thinks for {BASELINE["think_seconds"]:g} s, again and again. A p99 above \
{BASELINE["overload_p99_ms"]:g} ms counts as overload.
In the journey whoever waits asks every {load["pollSeconds"]:g} s, as there, whatever `Retry-After`
says, and what could be its turn meanwhile lies idle: hence the pauses in the charts of the journey.
Machines differ, so its figures say what to beat, and not by how much the code is better."""


def main(argv: Sequence[str]) -> int:
    return command.run(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    parser = command.Parser("report_page", __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    for folder in parser.parse_args(argv).folders:
        take_over(folder)
    results = committed()
    if not results:
        raise PageError("There is no run to make the page from: name the folder of one.")
    PAGE.write_text(page(results, capacity()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
