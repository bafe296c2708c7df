"""The charts of a load test: latency, requests, processor time and memory over time."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtests.model import Result, Script, Series
from loadtests.report import words
from loadtests.report.words import BASELINE, PROCESSES

#: One for each process, in the order of PROCESSES.
_COLORS = ("#2f5fb3", "#3d9a8b", "#d0643c", "#e0a030", "#8fc27d", "#7d5ba6", "#a83250", "#8a8f9c",
           "#c9ced8")  # fmt: skip
COLORS = dict(zip(PROCESSES, _COLORS, strict=True))
_MEDIAN, _P95, _P99, _LIMIT = "#2f5fb3", "#3d9a8b", "#d0643c", "#a83250"
_INK, _GRID = "#1f2430", "#e3e6ec"
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "frontrow",
}
# Between two scripts people leave and others are prepared; that time is not drawn.
_GAP_SECONDS = 3.0
# As many fit on one line above the charts.
_TITLE_COLUMNS = 135
# The name of the threshold in a result, before its number.
_P99_THRESHOLD = "http_req_duration{phase:run} p(99)<"


def overview(result: Result, series: Mapping[str, Series], form: str) -> bytes:
    """The percentiles of each script, and all scripts one after the other: what users saw, and
    what the machine did. `form` is png or svg."""
    rows = 1.2 + 0.3 * len(result.scripts)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 8.2 + rows), layout="constrained")
        lines = [textwrap.fill(line, _TITLE_COLUMNS) for line in title(result).splitlines()]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, parse_math=False)
        parts: Any = figure.subfigures(2, 1, height_ratios=[rows, 8.2])
        above, below = parts
        _percentiles(above.subplots(), result)
        _over_time(below, result.scripts, series)
        return _saved(figure, form)


def of_script(script: Script, series: Series, form: str) -> bytes:
    """One script, larger."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 6.5), layout="constrained")
        _over_time(figure, [script], {script.name: series})
        return _saved(figure, form)


def title(result: Result) -> str:
    """The head of the charts, in plain text: what was run, and when."""
    contained = f" in containers ({cap})" if (cap := words.total_cap(result)) else ""
    changed = f"\nchanged: {settings}" if (settings := words.changes(result)) else ""
    return (
        f"Load test {result.profile}{contained}, {result.taken:%Y-%m-%d}: {result.about}{changed}"
    )


def _percentiles(axis: Axes, result: Result) -> None:
    """A row per script from median to p99, with the baseline's p99 if it can be compared."""
    measured = [(each.name, each.duration) for each in result.scripts if each.duration][::-1]
    rows = range(len(measured))
    medians, p95s, p99s = ([getattr(t, p) for _, t in measured] for p in ("med", "p95", "p99"))
    axis.hlines(rows, medians, p99s, color=_GRID, lw=5, zorder=1)
    axis.scatter(medians, rows, color=_MEDIAN, s=28, label="median", zorder=3)
    axis.scatter(p95s, rows, color=_P95, s=28, label="p95", zorder=3)
    axis.scatter(p99s, rows, color=_P99, s=28, label="p99", zorder=3)
    if result.profile == "baseline":
        theirs = [BASELINE.scripts[name].p99 for name, _ in measured]
        label = "p99 of the report to beat"
        axis.scatter(theirs, rows, facecolors="none", edgecolors=_INK, s=30, label=label, zorder=2)
    if limit := _limit_ms(result.scripts):
        axis.axvline(limit, color=_LIMIT, lw=0.8, ls="--", label=f"limit of p99, {limit:,g}")
    axis.set_xscale("log")
    _plain(axis.xaxis)
    axis.set_yticks(rows, [name for name, _ in measured])
    axis.set_ylim(-0.6, len(measured) - 0.4)
    axis.set_title("Percentiles of the whole run (ms, logarithmic)")
    _legend(axis)


def _over_time(figure: FigureBase, scripts: Sequence[Script], series: Mapping[str, Series]) -> None:
    """Four charts of all scripts, one after the other."""
    latency, rate, cpu, memory = axes = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [1.4, 1, 1.4, 1]}
    )
    start = 0.0
    for script in scripts:
        end = start + max(1, len(series[script.name].requests))
        _draw_requests(latency, rate, series[script.name], start)
        _draw_processes(cpu, memory, series[script.name], start)
        for axis in axes:
            axis.margins(x=0.005)
            axis.axvspan(start, end, color="#f6f7fa", zorder=0, linewidth=0)
        if len(scripts) > 1:
            place = latency.get_xaxis_transform()
            at = (start + end) / 2, 1.01
            latency.text(*at, script.name, transform=place, ha="center", va="bottom", fontsize=8)
        start = end + _GAP_SECONDS
    if limit := _limit_ms(scripts):
        latency.axhline(limit, color=_LIMIT, lw=0.8, ls="--", label=f"limit of p99, {limit:,g}")
    latency.set_title("Latency of each second's requests (ms, logarithmic)", pad=14)
    rate.set_title("Requests per second")
    cpu.set_title("Processor: cores used by each process")
    memory.set_title("Memory of each process (MB, logarithmic; colours as above)")
    memory.set_xlabel("seconds under load")
    rate.set_ylim(bottom=0)
    cpu.set_ylim(bottom=0)
    for axis in (latency, memory):
        axis.set_yscale("log")
        _plain(axis.yaxis)
    _legend(latency)
    _legend(cpu, reverse=True)


def _draw_requests(latency: Axes, rate: Axes, series: Series, start: float) -> None:
    # A second with few requests has no percentiles; the last second is not a whole one.
    enough = [second for second in series.requests if second.p99 is not None]
    times = [start + second.t for second in enough]
    for field, label, color in (("p99", "p99", _P99), ("p50", "median", _MEDIAN)):
        latency.plot(times, [getattr(second, field) for second in enough], color=color, label=label)
    whole = series.requests[:-1]
    rate.plot([start + second.t for second in whole], [second.n for second in whole], color=_P95)


def _draw_processes(cpu: Axes, memory: Axes, series: Series, start: float) -> None:
    first = series.requests[0].at if series.requests else 0.0
    points = [p for p in series.machine if first <= p.at <= first + len(series.requests)]
    times = [start + point.at - first for point in points]
    names = [name for name in COLORS if points and name in points[0].cpu]
    colors = [COLORS[name] for name in names]
    if names:
        used = [[point.cpu[name] for point in points] for name in names]
        cpu.stackplot(times, *used, colors=colors, labels=names, linewidth=0)
    for name, color in zip(names, colors, strict=True):
        memory.plot(times, [point.mb[name] for point in points], color=color)


def _limit_ms(scripts: Sequence[Script]) -> float | None:
    """The threshold of p99, which all scripts of one run share; None if there was none."""
    for script in scripts:
        for threshold in script.thresholds:
            if threshold.startswith(_P99_THRESHOLD):
                return float(threshold.removeprefix(_P99_THRESHOLD))
    return None


def _legend(axis: Axes, *, reverse: bool = False) -> None:
    """A legend beside the chart, with one entry for what all scripts have."""
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(
        unique.values(), unique, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=reverse
    )


def _plain(axis: Axis) -> None:
    """A logarithmic axis with numbers as people write them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _saved(figure: Figure, form: str) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return target.getvalue()
