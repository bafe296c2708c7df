"""How results are put into words: names, figures and sentences."""

from __future__ import annotations

from pathlib import Path

from harness.invariants import INVARIANTS
from harness.topology import BY_MODULE, SERVERS
from loadtests.model import Baseline, Result, Script, Stats, System

#: In the order in which they are listed and drawn.
PROCESSES = (*reversed(tuple(BY_MODULE)), *(server.name for server in SERVERS), "k6")
#: The names of the scripts in the baseline's report and in the HTTP contract.
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
#: The report to beat.
BASELINE = Baseline.read(Path(__file__).parent / "baseline.json")


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def number_of(count: int, one: str, many: str = "") -> str:
    """As in 1 seat, 2 seats; `many` if the plural is not formed with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def ms(value: float | None) -> str:
    """Milliseconds, with one decimal below 100; empty if they were not measured."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times(stats: Stats | None) -> list[str]:
    """The cells of a table of times: average, median, p90, p95, p99, maximum."""
    fields = ("avg", "med", "p90", "p95", "p99", "max")
    return [ms(getattr(stats, field) if stats else None) for field in fields]


def ratio(theirs: float, ours: float) -> str:
    """How many times as fast ours is."""
    if not ours:
        return "-"
    return f"{theirs / ours:,.0f}" if theirs / ours >= 10 else f"{theirs / ours:.1f}"


def figures(script: Script) -> list[str]:
    """The cells of a table of results: most users, requests, requests per second, the times, wrong
    responses."""
    per_second = f"{script.per_second:,.1f}"
    counts = [f"{script.users:,}", f"{script.requests:,}", per_second]
    return [*counts, *times(script.duration), f"{script.wrong:,}"]


def one_line(script: Script) -> str:
    """The result of one script."""
    if not (duration := script.duration):
        return "no request was made"
    broken = ", ".join(broken_limits(script))
    return (
        f"{script.requests:>9,} requests {script.per_second:>9,.1f}/s"
        f"  avg {duration.avg:>7,.1f}  p95 {duration.p95:>7,.1f}  p99 {duration.p99:>7,.1f} ms"
        f"  {script.wrong:>5,} wrong  {'ok' if script.passed else f'THRESHOLDS BROKEN: {broken}'}"
    )


def broken_limits(script: Script) -> list[str]:
    """The thresholds that did not hold, without the tags of the measured phase."""
    return [
        limit.replace("http_req_duration{phase:run} ", "").replace("{phase:run}", "")
        for limit, held in script.thresholds.items()
        if not held
    ]


def table(result: Result) -> str:
    """A line per script for the terminal."""
    lines = {TITLES[script.name]: one_line(script) for script in result.scripts}
    lines |= {TITLES[name]: "not measured" for name in result.missing}
    return "\n".join(f"{title:26}  {line}" for title, line in lines.items())


def changes(result: Result, quote: str = "") -> str:
    """The settings that differ from the profile, each between two quotes."""
    return ", ".join(f"{quote}{name}={value}{quote}" for name, value in result.changed.items())


def ran_on(result: Result) -> str:
    """The kind of system, and its number of containers if it ran in any."""
    system = "a stack started for it" if result.own_stack else "a running system"
    containers = sum(cap.containers for cap in result.caps.values())
    return f"{system} of {number_of(containers, 'container')}" if containers else system


def total_cap(result: System) -> str:
    """The caps of all containers together, as in 2c4g; empty without containers."""
    if not result.caps:
        return ""
    cores = sum(cap.cores for cap in result.caps.values())
    return f"{cores:.2g}c{sum(cap.mib for cap in result.caps.values()) / 1024:.2g}g"


def throttled(script: Script, process: str) -> str:
    """The share of the periods in which it ran that the process had to wait for its cap."""
    return f"{100 * script.throttled.get(process, 0):.0f} %"


def promise(invariant: str) -> str:
    """What must be true, as a sentence; the name itself if the invariant is not in the list."""
    sentences = {each.name: each.sentence for each in INVARIANTS}
    return sentences.get(invariant, invariant.replace("_", " "))


def gaps(result: Result) -> list[str]:
    """What was asked for and is not there, with the reason; a sentence each."""
    reasons = {f"Not measured: {TITLES[name]}": why for name, why in result.missing.items()}
    if result.unverified:
        reasons["Not verified"] = result.unverified
    return [f"{what}: {why.rstrip('.')}." for what, why in reasons.items()]


def before_and_after(script: Script, process: str) -> list[str]:
    """Memory before and after, connections before and after; empty if not measured."""
    before, after = script.before, script.after
    found = (before.mb, after.mb, before.connections, after.connections)
    return [str(each.get(process, "")) for each in found]


def facts(script: Script) -> str:
    """What else is to be said about a script, in one paragraph."""
    counted, waited = script.counted, script.waited_ms
    parts = [f"{number_of(script.requests, 'request')} in {script.seconds} s, {script.wrong} wrong"]
    if counted.journeys_bought is not None:
        parts.append(
            f"{number_of(counted.journeys_bought, 'person', 'people')} bought a seat,"
            f" {counted.journeys_stopped or 0:,} did not"
        )
    if waited:
        parts.append(
            f"they waited {waited.med / 1000:.1f} s (median), at most {waited.max / 1000:.1f} s; at"
            f" most {script.room.most_waiting:,} waited at once; capacity {script.room.capacity:,}"
        )
    if counted.seats_taken is not None:
        parts.append(
            f"{number_of(counted.seats_won or 0, 'seat was', 'seats were')} held,"
            f" {number_of(counted.seats_taken, 'time')} somebody else had the seat (409)"
        )
    if late := counted.prepared_late:
        people = number_of(late, "person was", "people were")
        parts.append(f"{people} prepared during the load, and not before")
    if dropped := counted.dropped_iterations:
        parts.append(f"k6 could not start {number_of(dropped, 'iteration')}")
    parts.append(f"anything else on the machine took {script.other_cores:.2f} cores (median)")
    parts.append(f"other machines took {100 * script.steal:.1f} % of it (steal, median)")
    return "; ".join(parts) + "."
