"""The k6 scripts: their profiles, their plans, one run of one of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from harness import stopping
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.process import kill_session, spawn
from loadtests.machine import here, version_in
from loadtests.model import K6Metric, K6Metrics, Load, Second
from loadtests.report.words import say

SCRIPTS = Path(__file__).parent / "k6"


class _Stage(BaseModel):
    duration: str
    target: int = 0


class _Scenario(BaseModel):
    """As in profiles.json and in the output of k6 inspect."""

    model_config = ConfigDict(extra="allow")

    stages: list[_Stage] | None = None
    duration: str | None = None

    def seconds(self) -> float:
        durations = [stage.duration for stage in self.stages or ()] or [self.duration or "0s"]
        return sum(map(seconds, durations))


class Profile(BaseModel):
    """One profile of profiles.json."""

    about: str
    #: The scripts that it is for; default: all.
    only: list[str] = []
    #: Script → how many the waiting room admits at once.
    capacity: dict[str, int] = {}
    pollSeconds: float = 0
    hotSchedule: bool = False
    route: _Scenario = _Scenario()
    journey: _Scenario = _Scenario()

    @property
    def scripts(self) -> tuple[str, ...]:
        return tuple(self.only) or NAMES


#: Names of the scripts, in the order in which they run. The journey comes first, because in `x10`
#: many users of the others stay admitted for a while and the journey needs a room of a certain
#: size; `enqueue` comes last, because those who enter would be in the way of every other script.
NAMES = ("journey", "concerts", "schedules", "seats", "order", "reserve", "pay", "enqueue")
PROFILES = TypeAdapter(dict[str, Profile]).validate_json((SCRIPTS / "profiles.json").read_text())
THRESHOLDS_FAILED = 99
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PRINT_EVERY_SECONDS = 10.0
_INSPECT_SECONDS = 60
#: A second with fewer requests gets no percentiles.
_FEW = 5


class GaveUp(UserError):
    """The script ended itself. `load` is what was used until then."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.load = Load()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The people that a script needs, see peopleOf() in lib/profile.js."""

    people: int
    #: Whether each holds a seat.
    holds: bool
    #: Whether k6's setup() prepares them itself.
    in_setup: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a script is going to do."""

    #: At most, at once.
    users: int
    seconds: float
    scenario: dict[str, JsonValue]
    people: Wanted


@dataclasses.dataclass(frozen=True)
class Ran:
    """What k6 measured. `passed`: all thresholds held."""

    passed: bool
    metrics: K6Metrics
    seconds: list[Second]


class _Requirements(BaseModel):
    """The output of k6 inspect."""

    class _Ext(BaseModel):
        frontrow: Wanted

    maxVUs: int
    scenarios: dict[str, _Scenario]
    ext: _Ext


class Summary(BaseModel):
    """The file that k6 writes at its end."""

    metrics: dict[str, K6Metric]


def binary() -> str:
    """k6 on the path, otherwise that of the development packages. Raises UserError."""
    found = shutil.which("k6") or shutil.which("k6", path=str(Path(sys.executable).parent))
    if not found:
        raise UserError("k6 is not installed: run harness/bootstrap.sh test, which installs it.")
    return found


def version() -> str:
    return version_in(here("", [binary(), "version"]))


def plan(script: str, environ: Mapping[str, str]) -> Plan:
    """Asks k6 what the script would do. Raises UserError for settings that it does not take."""
    options = ("--log-format=json", "--include-system-env-vars", "--execution-requirements")
    try:
        output = stopping.run(
            [binary(), "inspect", *options, str(SCRIPTS / f"{script}.js")],
            timeout=_INSPECT_SECONDS,
            env=dict(environ),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{script}: k6 inspect took longer than {_INSPECT_SECONDS} s.") from error
    if output.returncode:
        raise UserError(f"{script}: {_reason(output.stderr)}")
    required = _Requirements.model_validate_json(output.stdout)
    (scenario,) = required.scenarios.values()
    return Plan(
        users=required.maxVUs,
        seconds=scenario.seconds(),
        scenario=scenario.model_dump(exclude_none=True),
        people=required.ext.frontrow,
    )


def seconds(duration: str) -> float:
    """Seconds of a duration in k6's notation, such as 1m30s."""
    return sum(
        float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", duration)
    )


def run(
    script: str,
    folder: Path,
    environ: Mapping[str, str],
    started: Callable[[int], None] = lambda pid: None,
) -> Ran:
    """Runs the script to its end; its files go to `folder`. `started` is called with the process
    id. Raises GaveUp if the script ended itself."""
    folder.mkdir(parents=True, exist_ok=True)
    summary, samples = folder / "summary.json", folder / "samples.csv"
    passed = execute(
        [script, "--summary-export", str(summary), "--out", f"csv={samples}"],
        {**environ, "K6_CSV_TIME_FORMAT": "unix_milli"},
        folder / "k6.log",
        started,
    )
    measured = read_seconds(samples)
    samples.unlink()
    found = json.loads(summary.read_text())
    # The result of setup() contains a thousand access tokens, which must not leave this machine.
    found.pop("setup_data", None)
    summary.write_text(json.dumps(found, indent=1) + "\n")
    return Ran(passed=passed, metrics=Summary.model_validate(found).metrics, seconds=measured)


def execute(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    started: Callable[[int], None] = lambda pid: None,
) -> bool:
    """Runs k6 with a script (its name, or its path without .js) and options to its end, and prints
    its progress. Returns whether all thresholds held. Raises GaveUp if the script ended itself."""
    script, *options = arguments
    command = [binary(), "run", "--no-color", "--no-usage-report", "--address", ""]
    command += ["--log-format", "json", *options, str(SCRIPTS / f"{script}.js")]
    with log.open("wb") as output:
        # k6 reaches the gateway directly, as every client of ours does.
        env = {**_memory(), **environ, "NO_PROXY": "*", "no_proxy": "*"}
        child = spawn(command, env=env, cwd=REPOSITORY, output=output)
        try:
            started(child.pid)
            printed = time.monotonic()
            while child.poll() is None:
                stopping.wait(0.25)
                if time.monotonic() - printed > _PRINT_EVERY_SECONDS:
                    printed = time.monotonic()
                    _say_progress(log)
        finally:
            # Also after a stop request: nothing is left running.
            kill_session(child)
    if child.returncode not in (0, THRESHOLDS_FAILED):
        raise GaveUp(f"{script}: {_reason(log.read_text(errors='replace'))}")
    return child.returncode == 0


def _memory() -> dict[str, str]:
    """Settings of k6's runtime. k6 shares the machine with what it measures, and collecting the
    garbage of 1,500 users stops it for a second: so it may use half of the available memory first.
    """
    available = psutil.virtual_memory().available
    return {"GOGC": "off", "GOMEMLIMIT": str(available // 2)}


def _say_progress(log: Path) -> None:
    """Prints the newest state in k6's log: seconds, users and iterations so far."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 10_000))
        found = re.findall(rb"^running .* complete", file.read(), re.M)
    if found:
        say(f"  progress: {found[-1].decode()}")


def _reason(output: str) -> str:
    """The last error in k6's output, without k6's prefixes and positions, as one sentence."""
    errors = re.findall(r'^{.*"level":"error".*', output, re.M)
    text = json.loads(errors[-1])["msg"].split("\n")[0] if errors else output.strip()
    text = re.sub(r"^(GoError|Error|test aborted): ", "", text.rpartition("\n")[2])
    # The position in the script.
    text = re.sub(r"\s+at (\S+ )?\(?(file:|native|go\.k6\.io).*", "", text)
    text = text or "k6 printed no error"
    return text if text.endswith((".", "?", "!")) else f"{text}."


def read_seconds(samples: Path) -> list[Second]:
    """The requests of the measured phase in k6's samples, by second since the first of them."""
    times: defaultdict[int, list[float]] = defaultdict(list)
    routes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    first = None
    with samples.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric_name"] != "http_req_duration" or "phase=run" not in row["extra_tags"]:
                continue
            at = int(row["timestamp"])
            first = at if first is None else first
            t = max(0, at - first) // 1000
            times[t].append(float(row["metric_value"]))
            routes[t][row["name"]] += 1
    found = []
    for t in range(max(times, default=-1) + 1):
        second = Second(t=t, at=(first or 0) / 1000 + t, n=len(times[t]), routes=routes[t])
        if second.n >= _FEW:
            # Interpolated as k6 does it.
            percentiles = statistics.quantiles(times[t], n=100, method="inclusive")
            second.avg = round(statistics.fmean(times[t]), 2)
            second.p50, second.p99 = round(percentiles[49], 2), round(percentiles[98], 2)
        found.append(second)
    return found
