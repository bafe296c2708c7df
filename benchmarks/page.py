"""The figures of docs/performance.md, made from bench.json: no number there is typed by hand."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.model import MAX_STEAL, Bench
from harness.files import REPOSITORY
from harness.topology import BY_MODULE, SERVERS
from loadtests.report import templates

PAGE = REPOSITORY / "docs" / "performance.md"
#: The result that the page was made from, committed beside it.
SOURCE = REPOSITORY / "docs" / "performance.json"
#: The processes whose times are added: gateway, services, stores, wrk.
_GROUPS = (
    ("gateway", "nothing"),
    [module for module in BY_MODULE if module != "gateway"],
    [server.name for server in SERVERS],
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
