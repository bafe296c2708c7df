"""The table of docs/performance.md, made from bench.json: no number there is typed by hand."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model import Bench, Measurement, Route
from harness.errors import UserError
from harness.files import REPOSITORY
from loadtests.report import templates

PAGE = REPOSITORY / "docs" / "performance.md"
#: The result that the page was made from, committed beside it.
SOURCE = REPOSITORY / "docs" / "performance.json"
BEGIN = "<!-- bench: begin (python -m benchmarks.bench --page FILE writes this) -->"
END = "<!-- bench: end -->"

#: A run from which the hypervisor took more than this share of the machine does not count, as
#: long as half of the runs remain.
MAX_STEAL = 0.05

_TEMPLATES = templates(Path(__file__).parent)
_GROUPS = {
    "gateway": ("gateway", "nothing"),
    "services": ("queue_service", "concert_service", "reservation_service", "payment_service"),
    "stores": ("redis", "mariadb", "kafka"),
    "wrk": ("wrk",),
}


def write(result: Bench) -> None:
    """Puts the result into the page and beside it. Raises UserError."""
    PAGE.write_text(inserted(PAGE.read_text(), result))
    result.write(SOURCE)


def inserted(text: str, result: Bench) -> str:
    """The page's text with this result between its markers. Raises UserError without markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError("docs/performance.md has lost the markers that the table goes between.")
    return f"{head}{begin}\n\n{section(result)}\n\n{end}{tail}"


def section(result: Bench) -> str:
    """All that the page says about one result."""
    steal = [run.steal for route in result.routes for run in route.runs]
    return _TEMPLATES.get_template("section.md.j2").render(
        result=result,
        table=table(result),
        steal=steal,
        median=statistics.median,
        max_steal=MAX_STEAL,
        excluded=sum(len(route.runs) - len(counted(route.runs)) for route in result.routes),
    )


def table(result: Bench) -> str:
    """The figures in Markdown: medians over the rounds."""
    return _TEMPLATES.get_template("table.md.j2").render(
        routes=result.routes, median_of=median_of, cpu_of=cpu_of, groups=_GROUPS, target=target
    )


def counted(runs: Sequence[Measurement]) -> Sequence[Measurement]:
    """The runs without those that lost much to other machines, if half of them remain."""
    good = [run for run in runs if run.steal <= MAX_STEAL]
    return good if 2 * len(good) >= len(runs) else runs


def median_of(route: Route, field: str) -> float:
    """The median of a field of the runs that count."""
    return float(statistics.median(getattr(run, field) for run in counted(route.runs)))


def cpu_of(route: Route, processes: Sequence[str]) -> float:
    """Processor time per request, in ms, of some processes together."""
    runs = counted(route.runs)
    return sum(
        statistics.median(run.cpu_ms.get(process, 0.0) for run in runs) for process in processes
    )


def target(route: Route) -> str:
    """The target, and whether the ratio meets it as it is printed, with two decimals."""
    if route.name == "nothing":
        return ""
    if route.target is None:
        return "as it comes"
    met = round(median_of(route, "ratio"), 2) >= route.target
    return f"{route.target}: {'met' if met else 'MISSED'}"
