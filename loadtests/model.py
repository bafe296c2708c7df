"""The results of load tests: what result.json, series.json, capacity.json and k6's files hold.

Times are in milliseconds, processor time in cores, memory in MB (10^6 bytes), unless a name says
otherwise. A value that was not measured is null or absent.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.errors import UserError


class Model(BaseModel):
    """A part of a result. An unknown field is an error: the file is of another version."""

    model_config = ConfigDict(extra="forbid")


class Document(Model):
    """A whole JSON file."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads the file. Raises UserError if it is not readable or not such a result."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            raise UserError(f"{file} is not a {cls.__name__} of this version.") from error

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n")


def now() -> datetime.datetime:
    """The time in UTC, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Stats(Model):
    """Average and percentiles of a duration, or of another number."""

    avg: float
    min: float
    med: float
    max: float
    p90: float
    p95: float
    p99: float


class Volume(Model):
    """How much is for sale."""

    concerts: int
    schedules: int
    seats: int


class Cap(Model):
    """What the containers of one process may use together."""

    cores: float
    mib: int
    containers: int


class Cores(Model):
    """Cores in use: the mean, and the highest mean of 3 s."""

    mean: float
    peak: float


class Load(Model):
    """What the machine did while a script ran."""

    #: Process → cores. Empty if no process could be seen.
    cpu: dict[str, Cores] = Field(default_factory=dict)
    #: Median of the cores that everything else on the machine used.
    other_cores: float = 0.0
    #: Median of the share of the machine that the hypervisor gave to other machines.
    steal: float = 0.0
    #: Process → share of the scheduler's periods in which its cap made it wait.
    throttled: dict[str, float] = Field(default_factory=dict)


class Resources(Model):
    """Memory in MB and open TCP connections of each process at one moment."""

    mb: dict[str, int]
    connections: dict[str, int]


class Route(Model):
    """One route's part of a script."""

    requests: int
    times: Stats | None = None


class Counted(Model):
    """k6's own counters. One that the script does not have is None."""

    seats_won: int | None = None
    seats_taken: int | None = None
    journeys_bought: int | None = None
    journeys_stopped: int | None = None
    dropped_iterations: int | None = None
    prepared_late: int | None = None


class RoomFigures(Model):
    """What samples of the waiting room showed during one script."""

    capacity: int
    samples: int
    over_capacity: int
    overtakers: int
    most_waiting: int


class Script(Load):
    """The figures of one script. `wrong` counts replies with a wrong status or a wrong body."""

    name: str
    passed: bool
    #: "metric limit" → whether it held.
    thresholds: dict[str, bool]
    requests: int
    per_second: float
    seconds: int
    duration: Stats | None = None
    wrong: int
    prepared_wrong: int
    routes: dict[str, Route]
    counted: Counted
    waited_ms: Stats | None = None
    polls: Stats | None = None
    users: int
    scheduled_seconds: float
    #: The scenario as k6 was given it.
    scenario: dict[str, JsonValue]
    before: Resources
    after: Resources
    room: RoomFigures


class System(Document):
    """What was measured: its machine, its caps, what was for sale."""

    taken: datetime.datetime
    #: Process → cap; empty without containers.
    caps: dict[str, Cap] = Field(default_factory=dict)
    volume: Volume
    machine: dict[str, str]
    #: Where the versions in `machine` were found: "containers", "machine" or "" (none are known).
    versions_of: str = ""


class Result(System):
    """result.json: one run of `make loadtest`."""

    folder: str = ""
    profile: str
    about: str
    #: Settings that differ from the profile.
    changed: dict[str, str]
    own_stack: bool
    #: Invariant → violations.
    invariants: dict[str, int] = Field(default_factory=dict)
    #: Why the invariants could not be counted; empty if they were.
    unverified: str = ""
    #: Script → why it has no figures.
    missing: dict[str, str] = Field(default_factory=dict)
    passed: bool = False
    scripts: list[Script] = Field(default_factory=list)


class Step(Model):
    """One number of users that `make capacity` tried."""

    users: int
    passed: bool
    per_second: float = 0.0
    avg: float | None = None
    p99: float | None = None
    wrong: int | None = None
    stopped_by: str
    bottleneck: str
    cpu: dict[str, Cores]
    throttled: dict[str, float]


class Found(Model):
    """The most users that one script's search found, and all its steps by users."""

    users: int
    per_second: float
    p99: float | None = None
    stopped_by: str
    bottleneck: str
    steps: list[Step]


class Capacity(System):
    """capacity.json: one run of `make capacity`."""

    file: str
    max_p99_ms: float
    max_failed: float
    think_seconds: float
    step_seconds: float
    rise_seconds: float
    missing: dict[str, str] = Field(default_factory=dict)
    scripts: dict[str, Found] = Field(default_factory=dict)


class Second(Model):
    """The requests of one second; percentiles only if there were enough of them."""

    t: int
    #: Unix time.
    at: float
    n: int
    routes: dict[str, int] = Field(default_factory=dict)
    avg: float | None = None
    p50: float | None = None
    p99: float | None = None


class Sample(Model):
    """The machine during about one second: cores and MB of each process."""

    #: Unix time of its end.
    at: float
    cpu: dict[str, float]
    mb: dict[str, int]
    other: float = 0.0
    steal: float = 0.0


class Series(Document):
    """series.json: one script over time."""

    requests: list[Second]
    machine: list[Sample]


class K6Metric(BaseModel):
    """One metric of k6's summary. A counter has `count`, a rate `passes`, a trend percentiles."""

    avg: float | None = None
    min: float | None = None
    med: float | None = None
    max: float | None = None
    p90: float | None = Field(None, alias="p(90)")
    p95: float | None = Field(None, alias="p(95)")
    p99: float | None = Field(None, alias="p(99)")
    count: float = 0
    passes: float = 0
    #: Limit → whether it was broken.
    thresholds: dict[str, bool] = Field(default_factory=dict)

    def stats(self) -> Stats | None:
        """The percentiles, or None if nothing was measured."""
        values = {name: getattr(self, name) for name in Stats.model_fields}
        if None in values.values():
            return None
        return Stats(**{name: round(value, 2) for name, value in values.items()})


K6Metrics = Mapping[str, K6Metric]


class Theirs(Model):
    """One script's figures in the report to beat."""

    avg: float
    p95: float
    p99: float
    per_second: float
    verdict: str


class Baseline(Document):
    """report/baseline.json: the report to beat."""

    about: str
    environment: str
    think_seconds: float
    overload_p99_ms: float
    volume: Volume
    scripts: dict[str, Theirs]
