"""The figures of docs/performance.md, from bench.json and light.json: none is typed by hand."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.model import MAX_STEAL, Bench, Light, at_most
from harness.files import REPOSITORY
from harness.topology import BY_MODULE, SERVERS
from loadtests.report import templates
from loadtests.report.words import PROCESSES

PAGE = REPOSITORY / "docs" / "performance.md"
#: The results that the page was made from, committed beside it.
SOURCE = REPOSITORY / "docs" / "performance.json"
LIGHT_SOURCE = REPOSITORY / "docs" / "performance-light.json"
#: The columns of the table at a low rate.
LIGHT_PROCESSES = [name for name in PROCESSES if name != "k6"]
#: Thousandths of a core that all processes may use together while nobody asks.
_IDLE_TARGET = 25.0
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


def light_figures(result: Light) -> str:
    """All figures at a low rate in Markdown: medians over the rounds."""
    template = templates(Path(__file__).parent).get_template("light.md.j2")
    idle = at_most(_IDLE_TARGET, sum(result.idle.values()), 1)
    return template.render(result=result, processes=LIGHT_PROCESSES, idle_verdict=idle)


def committed_light_figures() -> str:
    """The figures of the committed result at a low rate."""
    return light_figures(Light.read(LIGHT_SOURCE))
