"""From bench.json to the table of docs/performance.md: no number there is typed by hand."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "performance.md"
#: What the page was made from, committed beside it.
SOURCE = REPOSITORY / "docs" / "performance.json"
BEGIN = "<!-- bench: begin (python -m benchmarks.bench --page FILE writes this) -->"
END = "<!-- bench: end -->"

#: A run from which the hypervisor took more than this share of the machine does not count, as
#: long as half of them are left.
MAX_STEAL = 0.05

_GROUPS = {
    "gateway": ("gateway", "nothing"),
    "services": ("queue_service", "concert_service", "reservation_service", "payment_service"),
    "stores": ("redis", "mariadb", "kafka"),
    "wrk": ("wrk",),
}


class PageError(UserError):
    """The page cannot be made, said in one sentence."""


def read(file: Path) -> dict[str, Any]:
    """Reads a bench.json. Raises PageError if it is none."""
    try:
        result = json.loads(file.read_text())
        table(result)
    except OSError as error:
        raise PageError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PageError(f"{file} is not a bench.json of this version.") from error
    return dict(result)


def to_json(result: dict[str, Any]) -> str:
    """One line a run: small, and readable in a diff."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"\{[^{}]*(\{[^{}]*\}[^{}]*)?\}(?=,?\n {3,})", _one_line, text) + "\n"


def _one_line(match: re.Match[str]) -> str:
    return re.sub(r"\n\s*", " ", match[0])


def write(result: dict[str, Any]) -> None:
    """Puts the result into the page and beside it. Raises PageError."""
    PAGE.write_text(inserted(PAGE.read_text(), result))
    SOURCE.write_text(to_json(result))


def inserted(text: str, result: dict[str, Any]) -> str:
    """The page's text with this result between its markers. Raises PageError."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise PageError("docs/performance.md has lost the markers that the table goes between.")
    return f"{head}{begin}\n\n{section(result)}\n\n{end}{tail}"


def section(result: dict[str, Any]) -> str:
    """All that the page says of one result."""
    people = result["people"]
    steal = [run["steal"] for route in result["routes"] for run in route["runs"]]
    left_out = sum(len(route["runs"]) - len(counted(route["runs"])) for route in result["routes"])
    machine = "\n".join(f"| {name} | {value} |" for name, value in result["machine"].items())
    before, after = result["gateway_megabytes"]
    return f"""{table(result)}

Measured on {result["taken"][:10]} in {result["minutes"]} minutes: {result["rounds"]} rounds of
{result["seconds"]} s a route with {result["connections"]} connections,
{people["shopping"]:,} people admitted, {people["waiting"]:,} and more in line, data set
`{result["seed"]}`. Every answer was a success.
Steal: median {_percent(statistics.median(steal))}, at most {_percent(max(steal))};
{left_out} of {len(steal)} runs were left out for it (above {_percent(MAX_STEAL)}). The gateway
occupied {before} MB at the beginning and {after} MB at the end.

| machine | |
|---|---|
{machine}"""


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown: medians over the rounds."""
    lines = [
        "| route | requests/s | of nothing | target | p50 / p99 / max ms "
        "| CPU ms a request: gateway + services + stores + wrk |",
        "|---|--:|--:|---|--:|--:|",
    ]
    return "\n".join([*lines, *(_row(route) for route in result["routes"])])


def _row(route: dict[str, Any]) -> str:
    runs = counted(route["runs"])

    def median(key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    def cpu(process: str) -> float:
        return float(statistics.median(run["cpu_ms"].get(process, 0.0) for run in runs))

    ratio, target = "1", ""
    if route["name"] != "nothing":
        share = median("ratio")
        ratio = f"**{share:.2f}**"
        if route["target"] is None:
            target = "as it comes"
        else:
            # The ratio as it is printed decides: nobody sees more of it.
            met = round(share, 2) >= route["target"]
            target = f"{route['target']}: {'met' if met else 'MISSED'}"
    latency = " / ".join(f"{median(key):.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
    groups = " + ".join(f"{sum(map(cpu, names)):.3f}" for names in _GROUPS.values())
    return (
        f"| {route['title']} | {median('rate'):,.0f} | {ratio} | {target} | {latency} | {groups} |"
    )


def counted(runs: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The runs without those that lost much to other machines, if half are left then."""
    good = [run for run in runs if run["steal"] <= MAX_STEAL]
    return good if 2 * len(good) >= len(runs) else runs


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
