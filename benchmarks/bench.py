"""`make bench`: the hot paths beside a FastAPI route that does nothing.

Starts a whole stack of its own (free ports, temporary data) and, beside it, that route, which is
the yardstick. wrk asks the routes in turn, round after round, and the yardstick between any two of
them; quoted are medians of the ratio to the two yardsticks around. Prints the table and writes
results/bench/<time>/bench.json.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks import page
from benchmarks.model import Bench, Measurement, People, Route
from benchmarks.shop import Shop
from benchmarks.wrk import CONNECTIONS, Request, Run, RunError, run
from concert_service.seed import SCHEDULES_A_CONCERT
from harness.cli import run_app
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local import Ports, Stack
from harness.local.ports import HOST, free_ports
from harness.local.process import Process
from harness.local.programs import PYTHON
from loadtests.machine import describe
from loadtests.metrics import Meter, ProcessTree
from loadtests.model import now
from loadtests.report.words import say

#: What concert_service.seed puts up for sale.
Seed = Literal["full", "small"]
#: Concerts, and schedules of each.
SEEDS: Mapping[Seed, tuple[int, int]] = {"full": (100, SCHEDULES_A_CONCERT), "small": (2, 3)}
# With fewer, one place would reach its limit of 20 requests per second.
SHOPPERS = 2_000
WAITING = 10_000
WARM_UP_SECONDS = 1
ROUTES = (
    "order",
    "concerts",
    "schedules",
    "seats_one",
    "seats_20",
    "seats_any",
    "enqueue",
    "reserve",
    "pay",
)
# Requests per second that two cores can serve. A request that cannot be repeated is prepared for
# this rate, or for the highest one so far, times SPARE.
EXPECTED_RATE = {"enqueue": 4_000, "reserve": 900, "pay": 500}
SPARE = 1.5

PROGRAM_ENV = {
    "queue_service": {
        # The people of the measurements poll less often than real ones.
        "QUEUE_CLAIM_WINDOW_SECONDS": "7200",
        "QUEUE_ADMISSION_TTL_SECONDS": "7200",
    }
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One route as it is measured.

    `requests(n)` makes n requests that may be sent once, or, without `once`, any number of requests
    that wrk sends in a cycle.
    """

    name: str
    title: str
    target: float | None
    requests: Callable[[int], Sequence[Request]]
    once: bool = False


class NothingProcess(Process):
    """The yardstick's process."""

    def __init__(self, port: int, log_path: Path) -> None:
        super().__init__("nothing", log_path=log_path, cwd=REPOSITORY, stopping=threading.Event())
        self._port = port
        self.url = f"http://{HOST}:{port}"

    def command(self, module: str | None) -> Sequence[str]:
        return [str(PYTHON), "-m", "benchmarks.nothing", str(self._port)]

    def probe(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/nothing", timeout=1) as reply:
            return bool(reply.status == 200)


class Measurements:
    """The measurements on a running stack."""

    def __init__(self, stack: Stack, nothing: NothingProcess, work: Path, seconds: int) -> None:
        self._stack = stack
        self._nothing = nothing
        self._work = work
        self._seconds = seconds
        self._rates: dict[str, float] = dict(EXPECTED_RATE)

    def measure(self, cases: Sequence[Case], rounds: int) -> list[Route]:
        """The yardstick and then each case, with a measurement per round.

        Raises RunError if a reply was no success.
        """
        yardstick = Route(name="nothing", title="a FastAPI route that does nothing", runs=[])
        routes = [Route(name=c.name, title=c.title, target=c.target, runs=[]) for c in cases]
        say(f"Warming up, {WARM_UP_SECONDS} s per route")
        self._yardstick(WARM_UP_SECONDS)
        for case in cases:
            self.run(case, WARM_UP_SECONDS)
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}, {self._seconds} s per route")
            before = self._yardstick(self._seconds)
            yardstick.runs.append(before)
            for case, route in zip(cases, routes, strict=True):
                found = self.run(case, self._seconds)
                after = self._yardstick(self._seconds)
                yardstick.runs.append(after)
                found.ratio = 2 * found.rate / (before.rate + after.rate)
                route.runs.append(found)
                say(f"  {case.title:38} {found.rate:7,.0f}/s  {found.ratio:.2f} of nothing")
                before = after
        return [yardstick, *routes]

    def _yardstick(self, seconds: int) -> Measurement:
        return self._observe(self._nothing.url, [Request("GET", "/nothing")], seconds, "nothing")[1]

    def run(self, case: Case, seconds: int) -> Measurement:
        """Measures one route once. Raises RunError."""
        count = CONNECTIONS + int(SPARE * self._rates.get(case.name, 0) * seconds)
        requests = case.requests(count)
        run, found = self._observe(self._stack.gateway_url, requests, seconds, case.title)
        if case.once and run.issued > len(requests):
            raise RunError(
                f"{case.title}: more requests were needed than the {len(requests)} prepared: the"
                " machine is faster than this benchmark expects, raise EXPECTED_RATE."
            )
        self._rates[case.name] = max(run.rate, self._rates.get(case.name, 0))
        return found

    def _observe(
        self, url: str, requests: Sequence[Request], seconds: int, what: str
    ) -> tuple[Run, Measurement]:
        processes = [*self._stack.processes(), self._nothing]
        meter = Meter({process.name: ProcessTree(process.pid) for process in processes})
        wrk_before = _children_seconds()
        ran = run(url, requests, seconds=seconds, work=self._work, what=what)
        used = meter.used() | {"wrk": _children_seconds() - wrk_before}
        return ran, Measurement(
            rate=round(ran.rate, 1),
            p50_ms=round(ran.p50_ms, 2),
            p99_ms=round(ran.p99_ms, 2),
            max_ms=round(ran.max_ms, 1),
            requests=ran.requests,
            steal=round(meter.stolen(), 4),
            cpu_ms={
                name: round(1000 * seconds / ran.requests, 4)
                for name, seconds in used.items()
                if seconds / ran.requests > 1e-6
            },
        )


def _children_seconds() -> float:
    """Processor time of ended children, which is that of wrk."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cases_of(shop: Shop, seed: Seed, rounds: int, seconds: int) -> list[Case]:
    """Admits the people, and makes the routes with the requests that these people send."""
    concerts, schedules_each = SEEDS[seed]
    payers = int(EXPECTED_RATE["pay"] * SPARE) * (rounds * seconds + WARM_UP_SECONDS)
    payers += CONNECTIONS * (rounds + 1)
    sells = seed == "full"
    shoppers = shop.admit(shoppers=SHOPPERS, payers=payers if sells else 0)
    waiting = shop.queue_up(WAITING)

    def get(path: str, tokens: Sequence[str]) -> list[Request]:
        return [Request("GET", path, token) for token in tokens]

    inside = [shopper.token for shopper in shoppers]

    def schedules(_: int) -> list[Request]:
        return [
            Request("GET", f"/concerts/{number % concerts + 1}/schedules", token)
            for number, token in enumerate(inside)
        ]

    def seats(which: Sequence[int]) -> list[Request]:
        return [
            Request("GET", f"/concerts/schedules/{which[number]}/seats", inside[number % SHOPPERS])
            for number in range(len(which))
        ]

    some = shop.any_schedules(20)
    read = [
        Case(
            "order",
            "GET /queues/order, waiting",
            0.6,
            lambda _: get("/queues/order", [ticket.token for ticket in waiting]),
        ),
        Case("concerts", "GET /concerts", 0.7, lambda _: get("/concerts", inside)),
        Case("schedules", "GET …/schedules, any concert", 0.7, schedules),
        Case("seats_one", "GET …/seats, one date", 0.3, lambda _: seats(some[:1] * SHOPPERS)),
        Case("seats_20", "GET …/seats, 20 dates", 0.3, lambda _: seats(some * 100)),
        Case(
            "seats_any",
            f"GET …/seats, any of {concerts * schedules_each:,} dates",
            0.3,
            lambda _: seats(shop.any_schedules(20_000)),
        ),
        Case("enqueue", "POST /queues/enqueue", None, shop.newcomers, once=True),
    ]

    def payments(count: int) -> list[Request]:
        shop.settle()
        return shop.payments(count)

    write = [
        Case(
            "reserve",
            "POST /concerts/reservation",
            None,
            lambda count: shop.reservations(shoppers, count),
            once=True,
        ),
        Case("pay", "POST …/pay", None, payments, once=True),
    ]
    return [*read, *write] if sells else read


def measure(seed: Seed, rounds: int, seconds: int, only: Sequence[str]) -> Path:
    """Starts everything, measures, stops everything; returns the path of bench.json."""
    taken = now()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="frontrow-bench-") as name:
        root = Path(name)
        stack = Stack(root, Ports.free(), program_env=PROGRAM_ENV)
        nothing = NothingProcess(free_ports(1)[0], root / "nothing.log")
        with stack:
            say(f"Starting a stack ({seed} data) and the route that does nothing")
            stack.start_servers(migrate=True)
            stack.seed(seed, show=True)
            stack.start_services()
            try:
                nothing.start()
                shop = Shop(stack, schedules_of(seed))
                say(f"Admitting {SHOPPERS:,} people, and {WAITING:,} more to wait in line")
                cases = cases_of(shop, seed, rounds, seconds)
                gateway = ProcessTree(stack.process("gateway").pid)
                memory_before = gateway.megabytes()
                measurements = Measurements(stack, nothing, root, seconds)
                routes = measurements.measure(
                    [case for case in cases if not only or case.name in only], rounds
                )
                memory = round(memory_before), round(gateway.megabytes())
                shop.close()
            finally:
                nothing.stop()
            say("Stopping")
    result = Bench(
        taken=taken,
        minutes=round((time.monotonic() - began) / 60, 1),
        seed=seed,
        rounds=rounds,
        seconds=seconds,
        connections=CONNECTIONS,
        people=People(shopping=SHOPPERS, waiting=WAITING),
        gateway_megabytes=memory,
        machine=describe(),
        routes=routes,
    )
    file = REPOSITORY / "results" / "bench" / f"{taken:%Y%m%dT%H%M%SZ}" / "bench.json"
    file.parent.mkdir(parents=True)
    result.write(file)
    return file


def schedules_of(seed: Seed) -> list[int]:
    """The ids of what is for sale; see concert_service.seed."""
    concerts, schedules_each = SEEDS[seed]
    return [
        concert * SCHEDULES_A_CONCERT + number
        for concert in range(concerts)
        for number in range(1, schedules_each + 1)
    ]


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    rounds: Annotated[int, typer.Option(min=1, max=20)] = 6,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="Of one run of wrk.")] = 3,
    only: Annotated[str, typer.Option(metavar="NAMES", help="Routes, such as order,pay.")] = "",
    seed: Annotated[Seed, typer.Option(envvar="BENCH_SEED", help="What is for sale.")] = "full",
    result: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="Only puts FILE into docs/performance.md."),
    ] = None,
) -> int:
    if result:
        page.write(Bench.read(result))
        return 0
    names = [name for name in only.split(",") if name]
    for name in names:
        if name not in ROUTES:
            raise UserError(f"--only knows {', '.join(ROUTES)}, not {name}.")
    try:
        file = measure(seed, rounds, seconds, names)
    except RunError as error:
        print(f"frontrow: {error}", file=sys.stderr)
        return 1
    say(f"\n{page.table(Bench.read(file))}\nWritten to {file.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_app(app))
