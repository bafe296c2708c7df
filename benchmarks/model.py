"""The results of `make bench`: bench.json, light.json and room.json, and how to sum up runs."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence

from loadtests.model import Document, Model

#: A run from which the hypervisor took more than this share of the machine does not count, as
#: long as half of the runs remain.
MAX_STEAL = 0.05
#: Thousandths of a core that Redis may use while a million people wait.
REDIS_TARGET = 500
#: With fewer people, the constant part of Redis' use would count too much.
MIN_LONG_LINE = 100_000


class Measurement(Model):
    """One run of wrk or k6 against one route. Every response was a success."""

    #: Requests per second.
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    #: Share of the machine that the hypervisor gave to other machines.
    steal: float
    #: Process → processor time per request in ms.
    cpu_ms: dict[str, float]
    #: `rate` divided by the mean rate of the yardstick just before and just after.
    ratio: float | None = None
    #: How long a write of 4 kB with its sync to disk took meanwhile, in ms; 99 % were as fast.
    sync_p99_ms: float | None = None


class Route(Model):
    """One route with one measurement per round (the yardstick: one more)."""

    name: str
    title: str
    #: The ratio that the route should reach.
    target: float | None = None
    runs: list[Measurement]

    @property
    def counted(self) -> list[Measurement]:
        """The runs without those that lost much to other machines, if half of them remain."""
        good = [run for run in self.runs if run.steal <= MAX_STEAL]
        return good if 2 * len(good) >= len(self.runs) else self.runs

    def median(self, field: str) -> float:
        """The median of a field of Measurement over the runs that count."""
        return float(statistics.median(getattr(run, field) for run in self.counted))

    def cpu_ms(self, processes: Sequence[str]) -> float:
        """Processor time per request, in ms, of some processes together."""
        return sum(
            statistics.median(run.cpu_ms.get(process, 0.0) for run in self.counted)
            for process in processes
        )

    @property
    def verdict(self) -> str:
        """The target, and whether the ratio meets it as it is printed, with two decimals."""
        if self.name == "nothing":
            return ""
        if self.target is None:
            return "as it comes"
        met = round(self.median("ratio"), 2) >= self.target
        return f"{self.target}: {'met' if met else 'MISSED'}"


class People(Model):
    shopping: int
    waiting: int


class Bench(Document):
    """The yardstick and then the routes."""

    taken: datetime.datetime
    minutes: float
    seed: str
    rounds: int
    seconds: int
    connections: int
    people: People
    #: Memory of the gateway before and after.
    gateway_megabytes: tuple[int, int]
    machine: dict[str, str]
    routes: list[Route]


class LightRoute(Route):
    """One route at one rate. Its target is processor time of all processes, in ms per request.

    The yardstick, a route that does nothing, is one too; its processor time is its own process'.
    """

    #: Requests per second that are sent.
    per_second: int
    #: The median response time that the route may have, in ms.
    p50_target: float | None = None
    #: The response time that 99 % of its requests may have, in ms.
    p99_target: float | None = None
    #: Requests that were not sent, because all connections waited for a response.
    dropped: int = 0

    @property
    def all_cpu_ms(self) -> float:
        """Processor time of all processes per request, in ms."""
        return self.cpu_ms(sorted({name for run in self.runs for name in run.cpu_ms}))

    @property
    def verdict(self) -> str:
        return at_most(self.target, self.all_cpu_ms, 2)

    @property
    def p50_verdict(self) -> str:
        return at_most(self.p50_target, self.median("p50_ms"), 1)

    @property
    def p99_verdict(self) -> str:
        return at_most(self.p99_target, self.median("p99_ms"), 1)


class Light(Document):
    """The result of `make bench LOAD=light`."""

    taken: datetime.datetime
    minutes: float
    seed: str
    rounds: int
    seconds: int
    people: People
    machine: dict[str, str]
    #: Process → thousandths of a core while nobody asks; empty if that was not measured.
    idle: dict[str, float]
    routes: list[LightRoute]

    def of_nothing(self, route: LightRoute) -> float:
        """The route's processor time as a multiple of the yardstick's at the same rate."""
        (nothing,) = (
            other
            for other in self.routes
            if other.name == "nothing" and other.per_second == route.per_second
        )
        return route.all_cpu_ms / nothing.all_cpu_ms


class RoomRow(Model):
    """One load on the room."""

    title: str
    waiting: int
    #: Process → thousandths of a core.
    mcores: dict[str, float]
    #: What all processes together may use, in thousandths of a core.
    target: float | None = None

    @property
    def together(self) -> float:
        """Thousandths of a core of all processes."""
        return sum(self.mcores.values())

    @property
    def redis_with_a_million(self) -> float:
        """Thousandths of a core that Redis would use if a million waited: its use grows in
        proportion to the line."""
        return self.mcores["redis"] * 1_000_000 / self.waiting

    @property
    def verdict(self) -> str:
        return at_most(self.target, self.together, 0)

    @property
    def redis_verdict(self) -> str:
        return at_most(REDIS_TARGET, self.redis_with_a_million, 0)


class RoomBench(Document):
    """The result of `make bench LOAD=room`."""

    taken: datetime.datetime
    seconds: int
    machine: dict[str, str]
    rows: list[RoomRow]


def at_most(target: float | None, found: float, decimals: int) -> str:
    """A target that a figure must not exceed, and whether it does as it is printed."""
    if target is None:
        return "as it comes"
    return f"≤ {target}: {'met' if round(found, decimals) <= target else 'MISSED'}"
