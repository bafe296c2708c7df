"""How results are put into words: names, sentences, and the table of the terminal."""

from __future__ import annotations

from pathlib import Path

from loadtests.model import Baseline, Cap, Result, Script, Stats, System

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


def one_line(script: Script) -> str:
    """The result of one script."""
    duration = script.duration
    if not duration:
        return "no request was made"
    broken = broken_limits(script)
    return (
        f"{number_of(script.requests, 'request')}, {script.per_second:,.1f}/s,"
        f" avg {duration.avg:.1f} p95 {duration.p95:.1f} p99 {duration.p99:.1f} ms,"
        f" {script.wrong} wrong" + (f"; BROKEN: {', '.join(broken)}" if broken else "")
    )


def broken_limits(script: Script) -> list[str]:
    """The thresholds that did not hold, without the tags of the measured phase."""
    return [
        limit.replace("http_req_duration{phase:run} ", "").replace("{phase:run}", "")
        for limit, held in script.thresholds.items()
        if not held
    ]


def table(result: Result) -> str:
    """All scripts as a table for the terminal."""
    rows = [f"{'':28}{'requests':>9}{'/s':>9}{'avg':>9}{'p95':>9}{'p99':>9} ms{'wrong':>7}"]
    for script in result.scripts:
        times = script.duration
        cells = (times.avg, times.p95, times.p99) if times else (0.0, 0.0, 0.0)
        rows.append(
            f"{TITLES[script.name]:28}{script.requests:>9,}{script.per_second:>9,.1f}"
            + "".join(f"{cell:>9,.1f}" for cell in cells)
            + f"   {script.wrong:>7,}  {'ok' if script.passed else 'THRESHOLDS BROKEN'}"
        )
    rows += [f"{TITLES[name]:28}{'not measured':>18}" for name in result.missing]
    return "\n".join(rows)


def title(result: Result) -> str:
    """The head of the charts, in plain text: what was run, and when."""
    contained = f" in containers ({cap})" if (cap := total_cap(result)) else ""
    changed = f"\nchanged: {settings}" if (settings := changes(result)) else ""
    return (
        f"Load test {result.profile}{contained}, {result.taken:%Y-%m-%d}: {result.about}{changed}"
    )


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


#: The meaning of the figures of `cap_cells` and `held_up`.
ABOUT_CAPS = (
    "The caps, and in what share of the periods in which it ran each had to wait because of its cap"
)


def cap_cells(cap: Cap) -> tuple[str, str]:
    """Cores and MiB."""
    return f"{cap.cores:.2f}", f"{cap.mib:,.0f}"


def held_up(script: Script, process: str) -> str:
    """The share of the periods in which it ran that the process had to wait for its cap."""
    return f"{100 * script.throttled.get(process, 0):.0f} %"


def times_of(stats: Stats | None) -> list[float] | None:
    """The figures of a table of times, in the order of its columns."""
    if not stats:
        return None
    return [stats.avg, stats.med, stats.p90, stats.p95, stats.p99, stats.max]


def gaps(result: Result) -> list[str]:
    """What was asked for and is not there, with the reason; a sentence each."""
    sentences = [
        f"Not measured: {TITLES[name]}: {reason.rstrip('.')}."
        for name, reason in result.missing.items()
    ]
    if result.unverified:
        sentences.append(f"Not verified: {result.unverified.rstrip('.')}.")
    return sentences


def before_and_after(script: Script, process: str) -> list[str]:
    """Memory before and after, connections before and after."""
    return [
        str(found.get(process, ""))
        for found in (
            script.before.mb,
            script.after.mb,
            script.before.connections,
            script.after.connections,
        )
    ]


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
        parts.append(
            f"{number_of(late, 'person was', 'people were')} prepared during the load, and not"
            " before"
        )
    if dropped := counted.dropped_iterations:
        parts.append(f"k6 could not start {number_of(dropped, 'iteration')}")
    parts.append(f"anything else on the machine took {script.other_cores:.2f} cores (median)")
    parts.append(f"other machines took {100 * script.steal:.1f} % of it (steal, median)")
    return "; ".join(parts) + "."
