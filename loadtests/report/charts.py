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
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtests.model import Result, Script, Series
from loadtests.report.words import BASELINE

#: Always the same colour for the same process, dark to light from front to back.
COLORS = {
    "gateway": "#2f5fb3",
    "queue_service": "#3d9a8b",
    "concert_service": "#8fc27d",
    "reservation_service": "#e0a030",
    "payment_service": "#d0643c",
    "redis": "#a83250",
    "mariadb": "#7d5ba6",
    "kafka": "#8a8f9c",
    "k6": "#c9ced8",
}
_P50, _P99, _RATE = "#2f5fb3", "#d0643c", "#3d9a8b"
_LIMIT_LINE: Mapping[str, Any] = {"color": "#a83250", "lw": 0.8, "ls": "--"}
_INK, _GRID = "#1f2430", "#e3e6ec"
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": "#5a6274",
    "ytick.color": "#5a6274",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "frontrow",
    "font.family": ["DejaVu Sans"],
}
# Between two scripts people leave and others are prepared; that time is not drawn.
_GAP_SECONDS = 3.0
# As many fit on one line above the charts.
_TITLE_COLUMNS = 135
# The name of the threshold in a result, before its number.
_P99_THRESHOLD = "http_req_duration{phase:run} p(99)<"


def overview(title: str, result: Result, series: Mapping[str, Series], form: str) -> bytes:
    """The percentiles of each script, and all scripts one after the other: what users saw, and
    what the machine did. `form` is png or svg."""
    scripts = result.scripts
    names = [script.name for script in scripts]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 9.4 + 0.3 * len(names)), layout="constrained")
        figure.suptitle(
            "\n".join(textwrap.fill(line, _TITLE_COLUMNS) for line in title.splitlines()),
            x=0.01,
            ha="left",
            fontsize=11,
            parse_math=False,
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.2 + 0.3 * len(names), 8.2])
        above, below = parts
        _percentiles(above.subplots(), scripts, compared=result.profile == "baseline")
        axes: Sequence[Axes] = below.subplots(
            4, 1, sharex=True, gridspec_kw={"height_ratios": [1.4, 1, 1.4, 1]}
        )
        spans = _spans(names, series)
        for name in names:
            _draw(axes, series[name], spans[name][0], limit_ms(scripts), legend=name == names[0])
        _finish(axes)
        for name, (start, end) in spans.items():
            for axis in axes:
                axis.axvspan(start, end, color="#f6f7fa", zorder=0, linewidth=0)
            if len(names) > 1:
                axes[0].text(
                    (start + end) / 2,
                    1.01,
                    name,
                    transform=axes[0].get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    color=_INK,
                    fontsize=8,
                )
        return _saved(figure, form)


def _percentiles(axis: Axes, scripts: Sequence[Script], *, compared: bool) -> None:
    """A row per script from median to p99, with the baseline's p99 if it can be compared."""
    limit = limit_ms(scripts)
    measured = [(each.name, each.duration) for each in scripts if each.duration][::-1]
    names = [name for name, _ in measured]
    stats = [times for _, times in measured]
    rows = range(len(stats))
    axis.hlines(rows, [s.med for s in stats], [s.p99 for s in stats], color=_GRID, lw=5, zorder=1)
    for label, color, values in (
        ("median", _P50, [s.med for s in stats]),
        ("p95", _RATE, [s.p95 for s in stats]),
        ("p99", _P99, [s.p99 for s in stats]),
    ):
        axis.scatter(values, rows, color=color, s=28, label=label, zorder=3)
    if compared:
        axis.scatter(
            [BASELINE.scripts[name].p99 for name in names],
            rows,
            facecolors="none",
            edgecolors=_INK,
            s=30,
            label="p99 of the report to beat",
            zorder=2,
        )
    if limit:
        axis.axvline(limit, **_LIMIT_LINE, label=_limit_label(limit))
    axis.set_xscale("log")
    _plain(axis.xaxis)
    axis.set_yticks(rows, names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_title("Percentiles of the whole run (ms, logarithmic)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def of_script(script: Script, series: Series, form: str) -> bytes:
    """One script, larger."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 6.5), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(4, 1, sharex=True)
        _draw(axes, series, 0.0, limit_ms([script]), legend=True)
        _finish(axes)
        return _saved(figure, form)


def limit_ms(scripts: Sequence[Script]) -> float | None:
    """The threshold of p99, which all scripts of one run share; None if there was none."""
    for script in scripts:
        for threshold in script.thresholds:
            if threshold.startswith(_P99_THRESHOLD):
                return float(threshold.removeprefix(_P99_THRESHOLD))
    return None


def _limit_label(limit: float) -> str:
    return f"limit of p99, {limit:,g}"


def _spans(names: Sequence[str], series: Mapping[str, Series]) -> dict[str, tuple[float, float]]:
    """Where each script lies on the common axis of seconds."""
    spans, at = {}, 0.0
    for name in names:
        length = max(1, len(series[name].requests))
        spans[name] = (at, at + length)
        at += length + _GAP_SECONDS
    return spans


def _draw(
    axes: Sequence[Axes],
    series: Series,
    start: float,
    limit: float | None,
    *,
    legend: bool,
) -> None:
    latency, rate, cpu, memory = axes
    requests = series.requests
    p99 = [(start + point.t, point.p99) for point in requests if point.p99 is not None]
    p50 = [(start + point.t, point.p50) for point in requests if point.p50 is not None]
    latency.plot([t for t, _ in p99], [ms for _, ms in p99], color=_P99, lw=1.1, label="p99")
    latency.plot([t for t, _ in p50], [ms for _, ms in p50], color=_P50, lw=1.1, label="median")
    # The last second is not a whole one.
    rate.plot(
        [start + p.t for p in requests[:-1]], [p.n for p in requests[:-1]], color=_RATE, lw=1.1
    )
    first = requests[0].at if requests else 0.0
    machine = [p for p in series.machine if first <= p.at <= first + len(requests)]
    times = [start + p.at - first for p in machine]
    names = [name for name in COLORS if machine and name in machine[0].cpu]
    if names:
        cpu.stackplot(
            times,
            *([p.cpu[name] for p in machine] for name in names),
            colors=[COLORS[name] for name in names],
            labels=names,
            linewidth=0,
        )
    for name in names:
        memory.plot(times, [p.mb[name] for p in machine], color=COLORS[name], lw=1.2)
    if not legend:
        return
    if limit:
        latency.axhline(limit, **_LIMIT_LINE, label=_limit_label(limit))
    latency.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    handles, labels = cpu.get_legend_handles_labels()
    cpu.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))


def _finish(axes: Sequence[Axes]) -> None:
    """Titles and scales, once everything is drawn."""
    latency, rate, cpu, memory = axes
    latency.set_title("Latency of each second's requests (ms, logarithmic)", pad=14)
    rate.set_title("Requests per second")
    cpu.set_title("Processor: cores used by each process")
    memory.set_title("Memory of each process (MB, logarithmic; colours as above)")
    memory.set_xlabel("seconds under load")
    for axis in (rate, cpu):
        axis.set_ylim(bottom=0)
    for axis in (latency, memory):
        axis.set_yscale("log")
        _plain(axis.yaxis)
    for axis in axes:
        axis.margins(x=0.005)


def _plain(axis: Axis) -> None:
    """A logarithmic axis with numbers as people write them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _saved(figure: Figure, form: str) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return target.getvalue()
