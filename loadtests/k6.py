"""Runs one k6 script and reads what it found."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from harness import stopping
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.process import kill_session, spawn
from loadtests.prepare import Wanted

SCRIPTS = Path(__file__).parent / "k6"
PROFILES: dict[str, dict[str, Any]] = json.loads((SCRIPTS / "profiles.json").read_text())
#: In this order: of ten times the users many stay in a while, and would be in the way of the
#: journey, which wants a room of its own size; whoever enters in `enqueue` is in everybody's way.
NAMES = ("journey", "concerts", "schedules", "seats", "order", "reserve", "pay", "enqueue")
THRESHOLDS_FAILED = 99
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PROGRESS = re.compile(rb"running \(([\dhms.]+)\), (\d+)/(\d+) VUs, (\d+) complete")
#: Percentiles of a second, from at least this many requests.
_FEW = 5


class GaveUp(UserError):
    """The script ended itself. What was used until then: cores by process, as in a script's
    figures, and the shares of periods in which caps made them wait."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.cpu: dict[str, dict[str, float]] = {}
        self.throttled: dict[str, float] = {}


def binary() -> str:
    """k6 on the path, else the one of our development packages. Raises UserError."""
    found = shutil.which("k6") or shutil.which("k6", path=str(Path(sys.executable).parent))
    if not found:
        raise UserError("There is no k6: install it, or the development packages of this project.")
    return found


def version() -> str:
    told = subprocess.run([binary(), "version"], capture_output=True, text=True, check=False)
    match = re.search(r"\d+\.\d+\.\d+", told.stdout)
    return match[0] if match else "unknown"


def plan(script: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """What the script would do: {"users": most at once, "seconds": how long, "scenario": k6's,
    "people": who must be ready before, as prepare.Wanted}.
    Raises UserError for settings that the script does not take."""
    told = subprocess.run(
        [
            binary(),
            "inspect",
            "--include-system-env-vars",
            "--execution-requirements",
            str(SCRIPTS / f"{script}.js"),
        ],
        env=dict(environ),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise UserError(f"{script}: {_reason(told.stderr)}")
    options = json.loads(told.stdout)
    (scenario,) = options["scenarios"].values()
    stages = scenario.get("stages") or [{"duration": scenario["duration"]}]
    return {
        "users": int(options["maxVUs"]),
        "seconds": sum(seconds(stage["duration"]) for stage in stages),
        "scenario": {key: value for key, value in scenario.items() if value is not None},
        "people": Wanted(**options["ext"]["frontrow"]),
    }


def seconds(duration: str) -> float:
    """Of k6's notation, as in 1m30s."""
    return sum(
        float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", duration)
    )


def run(
    script: str,
    folder: Path,
    environ: Mapping[str, str],
    progress: Callable[[str, float], None],
    started: Callable[[int], None] = lambda pid: None,
) -> dict[str, Any]:
    """Runs the script to its end; its files go to `folder`.

    `progress` is told the state in words and how many seconds the load lasts so far; `started`
    the process id. Returns {"passed": whether all thresholds held, "metrics": k6's summary,
    "series": a point a second}. Raises GaveUp if the script did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary, samples, log = folder / "summary.json", folder / "samples.csv", folder / "k6.log"
    command = [binary(), "run", "--no-color", "--no-usage-report", "--address", ""]
    command += ["--summary-export", str(summary), "--out", f"csv={samples}"]
    with log.open("wb") as output:
        child = spawn(
            [*command, str(SCRIPTS / f"{script}.js")],
            env={**_memory(), **environ, "K6_CSV_TIME_FORMAT": "unix_milli"},
            cwd=REPOSITORY,
            output=output,
        )
        try:
            started(child.pid)
            while child.poll() is None:
                stopping.wait(0.25)
                progress(*_state(log))
        finally:
            # Also when we are interrupted: nothing is left running.
            kill_session(child)
    if child.returncode not in (0, THRESHOLDS_FAILED):
        raise GaveUp(f"{script}: {_reason(log.read_text(errors='replace'))}")
    series = read_series(samples)
    samples.unlink()
    found = json.loads(summary.read_text())
    # What setup() handed out: a thousand access tokens, which are nobody's business.
    found.pop("setup_data", None)
    summary.write_text(json.dumps(found, indent=1) + "\n")
    return {
        "passed": child.returncode == 0,
        "metrics": found["metrics"],
        "series": series,
    }


def _memory() -> dict[str, str]:
    """How k6's runtime uses memory. It shares the machine with what it measures, and collecting the
    garbage of 1,500 users stops everything for a second: so it may use half of what is available
    before it collects."""
    available = psutil.virtual_memory().available
    return {"GOGC": "off", "GOMEMLIMIT": str(available // 2)}


def _state(log: Path) -> tuple[str, float]:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2_000))
        found = _PROGRESS.findall(file.read())
    if not found:
        return "getting ready", 0.0
    spent, users, most, done = (part.decode() for part in found[-1])
    return f"{int(users):,} of {int(most):,} users, {int(done):,} done", seconds(spent)


def _reason(told: str) -> str:
    """The error at the end of what k6 said, without its trimmings, as the end of a sentence."""
    errors = re.findall(r'level=error msg="((?:[^"\\]|\\.)*)"', told)
    if not errors:
        text = told.strip().rsplit("\n", 1)[-1] or "k6 ended without a word"
    else:
        text = errors[-1].split("\\n")[0].replace('\\"', '"')
        text = re.sub(r"^(GoError|Error|test aborted): ", "", text)
        # Where in the script.
        text = re.sub(r"\s+at (\S+ )?\(?(file:|native|go\.k6\.io).*", "", text)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def read_series(samples: Path) -> list[dict[str, Any]]:
    """Of k6's samples those that were measured, a point a second:
    {"t": seconds since the first, "n": requests, "p50", "p99": ms, "avg": ms, "routes": {…: n}}."""
    by_second: defaultdict[int, list[float]] = defaultdict(list)
    routes: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    first = None
    with samples.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric_name"] != "http_req_duration" or "phase=run" not in row["extra_tags"]:
                continue
            at = int(row["timestamp"])
            first = at if first is None else first
            second = max(0, at - first) // 1000
            by_second[second].append(float(row["metric_value"]))
            routes[second][row["name"]] += 1
    points = []
    for second in range(max(by_second, default=-1) + 1):
        times = sorted(by_second[second])
        point: dict[str, Any] = {"t": second, "n": len(times), "routes": dict(routes[second])}
        if len(times) >= _FEW:
            point |= {
                "avg": round(statistics.fmean(times), 2),
                "p50": round(percentile(times, 50), 2),
                "p99": round(percentile(times, 99), 2),
            }
        points.append(point)
    # Unix time of the first, to lay what others sampled beside it.
    return [{**point, "at": (first or 0) / 1000 + point["t"]} for point in points]


def percentile(ordered: list[float], share: float) -> float:
    """Of sorted numbers, between neighbours in proportion, as k6 does."""
    place = (len(ordered) - 1) * share / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
