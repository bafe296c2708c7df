"""The figures of docs/performance.md, made from bench.json: no number there is typed by hand."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.model import MAX_STEAL, Bench
from harness.files import REPOSITORY
from loadtests.report import templates

PAGE = REPOSITORY / "docs" / "performance.md"
#: The result that the page was made from, committed beside it.
SOURCE = REPOSITORY / "docs" / "performance.json"
#: The processes whose times are added: gateway, services, stores, wrk.
_GROUPS = (
    ("gateway", "nothing"),
    ("queue_service", "concert_service", "reservation_service", "payment_service"),
    ("redis", "mariadb", "kafka"),
    ("wrk",),
)


def figures(result: Bench) -> str:
    """All figures in Markdown: medians over the rounds."""
    environment = templates(Path(__file__).parent)
    environment.filters["median"] = statistics.median
    template = environment.get_template("bench.md.j2")
    return template.render(result=result, groups=_GROUPS, max_steal=MAX_STEAL)


def committed_figures() -> str:
    """The figures of the committed result."""
    return figures(Bench.read(SOURCE))
