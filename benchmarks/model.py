"""bench.json: the result of `make bench`."""

from __future__ import annotations

import datetime

from loadtests.model import Document, Model


class Measurement(Model):
    """One run of wrk against one route. Every reply was a success."""

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


class Route(Model):
    name: str
    title: str
    #: The ratio that the route should reach.
    target: float | None = None
    runs: list[Measurement]


class People(Model):
    shopping: int
    waiting: int


class Bench(Document):
    """The yardstick and then the routes, each with one measurement per round."""

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
