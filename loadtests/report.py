"""A result's folder for people: the lines on the terminal, charts, an HTML page without network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests import charts

#: In the order in which they are listed and drawn.
PROCESSES = (
    "gateway",
    "queue_service",
    "concert_service",
    "reservation_service",
    "payment_service",
    "redis",
    "mariadb",
    "kafka",
    "k6",
)
#: Variables of the environment that change what is measured; see lib/env.js and lib/profile.js.
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
#: How the baseline's report and the contract call them.
TITLES = {
    "concerts": "GET /concerts",
    "enqueue": "POST /queues/enqueue",
    "order": "GET /queues/order",
    "schedules": "GET …/schedules",
    "seats": "GET …/seats",
    "reserve": "POST /concerts/reservation",
    "pay": "POST …/pay",
    "journey": "the journey",
}


def one_line(script: Mapping[str, Any]) -> str:
    """What came out of one script."""
    duration = script["duration"]
    if not duration:
        return "no request was made"
    broken = broken_limits(script)
    return (
        f"{number_of(script['requests'], 'request')}, {script['per_second']:,.1f}/s,"
        f" avg {duration['avg']:.1f} p95 {duration['p(95)']:.1f} p99 {duration['p(99)']:.1f} ms,"
        f" {script['wrong']} wrong" + (f"; BROKEN: {', '.join(broken)}" if broken else "")
    )


def broken_limits(script: Mapping[str, Any]) -> list[str]:
    """The thresholds that did not hold, without saying that they are of what was measured."""
    return [
        limit.replace("http_req_duration{phase:run} ", "").replace("{phase:run}", "")
        for limit, held in script["thresholds"].items()
        if not held
    ]


def number_of(count: int, one: str, many: str = "") -> str:
    """As in 1 seat, 2 seats; `many` where it is more than an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def title(result: Mapping[str, Any]) -> str:
    """What was run, and when, in plain text: the head of the charts."""
    contained = f" in containers ({cap})" if (cap := total_cap(result)) else ""
    changed = f"\nchanged: {settings}" if (settings := changes(result)) else ""
    return (
        f"Load test {result['profile']}{contained}, {result['taken'][:10]}: {result['about']}"
        f"{changed}"
    )


def changes(result: Mapping[str, Any], quote: str = "") -> str:
    """The settings that were not as the profile has them, each between two quotes."""
    return ", ".join(f"{quote}{name}={value}{quote}" for name, value in result["changed"].items())


def ran_on(result: Mapping[str, Any]) -> str:
    """What kind of system it was, and of how many containers if it ran in any."""
    system = "a stack started for it" if result["own_stack"] else "a running system"
    if not (caps := result.get("caps")):
        return system
    containers = sum(cap["containers"] for cap in caps.values())
    return f"{system} of {number_of(containers, 'container')}"


def total_cap(result: Mapping[str, Any]) -> str:
    """What all containers might use together, as in 2c4g; empty without containers."""
    if not (caps := result.get("caps")):
        return ""
    cores = sum(cap["cores"] for cap in caps.values())
    return f"{cores:.2g}c{sum(cap['mib'] for cap in caps.values()) / 1024:.2g}g"


#: What the figures of `cap_cells` and `held_up` are.
ABOUT_CAPS = (
    "The caps, and in what share of the periods in which it ran each had to wait because of its cap"
)


def cap_cells(cap: Mapping[str, float]) -> list[str]:
    """Cores and MiB that the containers of one process may use together."""
    return [f"{cap['cores']:.2f}", f"{cap['mib']:,.0f}"]


def held_up(script: Mapping[str, Any], process: str) -> str:
    """In what share of the periods in which it ran the process had to wait for its cap."""
    return f"{100 * script.get('throttled', {}).get(process, 0):.0f} %"


def text(result: Mapping[str, Any]) -> str:
    """All scripts as a table for the terminal."""
    rows = [f"{'':28}{'requests':>9}{'/s':>9}{'avg':>9}{'p95':>9}{'p99':>9} ms{'wrong':>7}"]
    for script in result["scripts"]:
        duration = script["duration"] or dict.fromkeys(("avg", "p(95)", "p(99)"), 0.0)
        rows.append(
            f"{TITLES[script['name']]:28}{script['requests']:>9,}{script['per_second']:>9,.1f}"
            f"{duration['avg']:>9,.1f}{duration['p(95)']:>9,.1f}{duration['p(99)']:>9,.1f}   "
            f"{script['wrong']:>7,}  {'ok' if script['passed'] else 'THRESHOLDS BROKEN'}"
        )
    rows += [f"{TITLES[name]:28}{'not measured':>18}" for name in result.get("missing", ())]
    return "\n".join(rows)


def write(folder: Path) -> None:
    """charts.png and report.html of the result in this folder."""
    result = json.loads((folder / "result.json").read_text())
    series = {
        script["name"]: json.loads((folder / script["name"] / "series.json").read_text())
        for script in result["scripts"]
    }
    (folder / "charts.png").write_bytes(charts.overview(title(result), result, series, "png"))
    (folder / "report.html").write_text(page(result, series))


def page(result: Mapping[str, Any], series: Mapping[str, Any]) -> str:
    """The whole HTML page; it loads nothing."""
    volume = result["volume"]
    caps = result.get("caps") or {}
    cap, changed = total_cap(result), changes(result)
    verdict = "passed" if result["passed"] else "FAILED"
    body = [
        f"<h1>Load test <em>{escaped(result['profile'])}</em>: {verdict}</h1>",
        f"<p>{escaped(result['taken'].replace('T', ' ').replace('Z', ' UTC'))} ·"
        f" {escaped(result['about'])} · {volume['seats']:,} seats, {volume['schedules']:,} dates,"
        f" {volume['concerts']:,} concerts ·"
        f" {ran_on(result)}{f', {cap} in all' * bool(cap)}"
        + (f" · changed: {escaped(changed)}" if changed else "")
        + "</p>",
        *(f"<p><b>{escaped(sentence)}</b></p>" for sentence in gaps(result)),
        "<h2>Result</h2>",
        _table(
            ["", "users", "requests", "per s", "avg", "median", "p90", "p95", "p99", "max ms",
             "wrong", "thresholds"],
            [_row(TITLES[s["name"]], s, s["duration"]) for s in result["scripts"]],
        ),
        "<h2>What must be 0</h2>",
        _table(["", "count"], [[escaped(k), f"{v:,}"] for k, v in result["invariants"].items()]),
        "<h2>Over time</h2>",
        _svg(charts.overview(title(result), result, series, "svg")),
    ]  # fmt: skip
    # The charts of the only one have just been shown.
    only = len(result["scripts"]) == 1
    for script in result["scripts"]:
        body += _section(script, None if only else series[script["name"]], caps)
    body += [
        "<h2>Machine</h2>",
        _table(["", ""], [[escaped(k), escaped(v)] for k, v in result["machine"].items()]),
    ]
    return _PAGE.format(title=f"Load test {escaped(result['profile'])}", body="\n".join(body))


def gaps(result: Mapping[str, Any]) -> list[str]:
    """What is not there although it was asked for, and why; a sentence each."""
    told = [
        f"Not measured: {TITLES[name]}: {reason.rstrip('.')}."
        for name, reason in result.get("missing", {}).items()
    ]
    if result.get("unverified"):
        told.append(f"Not verified: {result['unverified'].rstrip('.')}.")
    return told


def before_and_after(script: Mapping[str, Any], process: str) -> list[str]:
    """Memory and connections of a process, each before and after."""
    return [
        str(script[when][what].get(process, ""))
        for what in ("mb", "connections")
        for when in ("before", "after")
    ]


def _section(
    script: Mapping[str, Any],
    series: Mapping[str, Any] | None,
    caps: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """All that is said of a script; with charts if it is given their series."""
    name = script["name"]
    parts = [f"<h2 id='{name}'>{escaped(TITLES[name])}</h2>", f"<p>{escaped(facts(script))}</p>"]
    if len(script["routes"]) > 1:
        parts.append(
            _table(
                ["route", "requests", "avg", "median", "p90", "p95", "p99", "max ms"],
                [
                    [escaped(TITLES[route]), f"{stats['requests']:,}", *_milliseconds(stats)]
                    for route, stats in script["routes"].items()
                    if stats["requests"]
                ],
            )
        )
    if series:
        parts.append(_svg(charts.of_script(script, series, "svg")))
    if caps:
        parts.append(f"<p>{ABOUT_CAPS} (held up):</p>")
    parts.append(_processes(script, caps))
    return parts


def _processes(script: Mapping[str, Any], caps: Mapping[str, Mapping[str, float]]) -> str:
    """A row a process; with its cap and what that did, if anything has one."""
    head = ["process", "mean cores", "peak cores", "MB before", "MB after", "connections before",
            "connections after"]  # fmt: skip
    if caps:
        head[1:1] = ["containers", "cap, MiB", "cap, cores", "held up"]
    rows = []
    for process in PROCESSES:
        if used := script["cpu"].get(process):
            row = [escaped(process), f"{used['mean']:.2f}", f"{used['peak']:.2f}",
                   *before_and_after(script, process)]  # fmt: skip
            if cap := caps.get(process):
                cores, mib = cap_cells(cap)
                row[1:1] = [f"{cap['containers']}", mib, cores, held_up(script, process)]
            elif caps:
                row[1:1] = [""] * 4
            rows.append(row)
    return _table(head, rows)


def facts(script: Mapping[str, Any]) -> str:
    """What else is to be said of a script, in one paragraph."""
    told = [
        f"{number_of(script['requests'], 'request')} in {script['seconds']} s,"
        f" {script['wrong']} wrong"
    ]
    counted = script["counted"]
    if "journeys_bought" in counted:
        told.append(
            f"{number_of(counted['journeys_bought'], 'person', 'people')} bought a seat,"
            f" {counted.get('journeys_stopped', 0):,} did not"
        )
    if waited := script["waited_ms"]:
        told.append(
            f"they waited {waited['med'] / 1000:.1f} s (median), at most"
            f" {waited['max'] / 1000:.1f} s; at most {script['room']['most_waiting']:,} waited at"
            f" once; capacity {script['room']['capacity']:,}"
        )
    if "seats_taken" in counted:
        told.append(
            f"{number_of(counted.get('seats_won', 0), 'seat was', 'seats were')} held,"
            f" {number_of(counted['seats_taken'], 'time')} somebody else had the seat (409)"
        )
    if late := counted.get("prepared_late"):
        told.append(
            f"{number_of(late, 'person was', 'people were')} made ready while it ran, and not"
            " before"
        )
    if dropped := counted.get("dropped_iterations"):
        told.append(f"k6 could not start {number_of(dropped, 'iteration')}")
    told.append(f"anything else on the machine took {script['other_cores']:.2f} cores (median)")
    told.append(f"other machines took {100 * script['steal']:.1f} % of it (steal, median)")
    return "; ".join(told) + "."


def _row(title: str, script: Mapping[str, Any], stats: Mapping[str, float]) -> list[str]:
    broken = broken_limits(script)
    return [
        f"<a href='#{script['name']}'>{escaped(title)}</a>",
        f"{script['users']:,}",
        f"{script['requests']:,}",
        f"{script['per_second']:,.1f}",
        *_milliseconds(stats),
        f"{script['wrong']:,}",
        f"broken: {escaped(', '.join(broken))}" if broken else "held",
    ]


def _milliseconds(stats: Mapping[str, float]) -> list[str]:
    keys = ("avg", "med", "p(90)", "p(95)", "p(99)", "max")
    return [f"{stats[key]:,.1f}" if key in stats else "" for key in keys]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{cells}</tr>{lines}</table></div>"


def _svg(image: bytes) -> str:
    """An SVG as a part of the page: without what must come first in a file."""
    drawn = image.decode()
    return f"<figure>{drawn[drawn.index('<svg') :]}</figure>"


def escaped(value: str) -> str:
    return html.escape(value)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2430; background: #fff;
       max-width: 1080px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem }}
h1 em {{ font-style: normal; color: #2f5fb3 }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #e3e6ec; text-align: right }}
th {{ font-weight: 600; color: #5a6274; vertical-align: bottom }} td {{ white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0 }}
figure {{ margin: 1rem 0 }} figure svg {{ width: 100%; height: auto }}
a {{ color: #2f5fb3 }}
</style>
{body}
</html>
"""
