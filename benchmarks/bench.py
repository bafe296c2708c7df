"""`make bench`: the hot paths against a FastAPI route that does nothing, side by side.

Starts a whole stack of its own (free ports, temporary data; BENCH_SEED=small for a quick try)
and, beside it, that route. wrk then asks the routes in turn, round after round, the yardstick
between any two of them; what is quoted are medians of the ratio to the two yardsticks around.
Prints the table and writes results/bench/<time>/bench.json, machine included.

    python -m benchmarks.bench [--rounds 6] [--seconds 3] [--only order,pay]
    python -m benchmarks.bench --page FILE     puts the table of that bench.json into
                                              docs/performance.md
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import resource
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bench_page
from benchmarks.shop import Shop
from benchmarks.wrk import CONNECTIONS, Request, Run, RunError, run
from concert_service.seed import SCHEDULES_A_CONCERT
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local import Ports, Stack
from harness.local.ports import HOST, free_ports
from harness.local.process import Process
from harness.local.programs import PYTHON
from loadtests import command
from loadtests.machine import Meter, describe, resident_megabytes

#: concerts, schedules of each: what concert_service.seed makes.
SEEDS = {"full": (100, SCHEDULES_A_CONCERT), "small": (2, 3)}
# With fewer, the limit of 20 requests a second for one place would be met.
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
# How many requests of a kind that cannot be repeated are made ready for a second: half as many
# again as were ever needed, beginning with what two cores can do.
EXPECTED_RATE = {"enqueue": 4_000, "reserve": 900, "pay": 500}
SPARE = 1.5

PROGRAM_ENV = {
    "queue_service": {
        # The people of the measurements do not come by as often as real ones.
        "QUEUE_CLAIM_WINDOW_SECONDS": "7200",
        "QUEUE_ADMISSION_TTL_SECONDS": "7200",
    }
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One route as it is measured. `requests(n)` makes n requests that may be sent once, or, if
    not `once`, any number to be sent again and again."""

    name: str
    title: str
    target: float | None
    requests: Callable[[int], Sequence[Request]]
    once: bool = False


class Nothing(Process):
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


class Bench:
    """The measurements on a stack that runs."""

    def __init__(self, stack: Stack, nothing: Nothing, work: Path, seconds: int) -> None:
        self._stack = stack
        self._nothing = nothing
        self._work = work
        self._seconds = seconds
        self._rates: dict[str, float] = dict(EXPECTED_RATE)

    def measure(self, cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
        """For each case its runs, a dict a round; "nothing" comes first.

        Raises RunError if a request was not answered with success.
        """
        runs: dict[str, list[dict[str, Any]]] = {"nothing": [], **{c.name: [] for c in cases}}
        say(f"Warming up, {WARM_UP_SECONDS} s a route")
        self._yardstick(WARM_UP_SECONDS)
        for case in cases:
            self._run(case, WARM_UP_SECONDS)
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}, {self._seconds} s a route")
            before = self._yardstick(self._seconds)
            runs["nothing"].append(before)
            for case in cases:
                result = self._run(case, self._seconds)
                after = self._yardstick(self._seconds)
                runs["nothing"].append(after)
                result["ratio"] = 2 * result["rate"] / (before["rate"] + after["rate"])
                runs[case.name].append(result)
                say(f"  {case.title:38} {result['rate']:7,.0f}/s  {result['ratio']:.2f} of nothing")
                before = after
        rows: list[tuple[str, str, float | None]] = [
            ("nothing", "a FastAPI route that does nothing", None)
        ]
        rows += [(case.name, case.title, case.target) for case in cases]
        return [
            {"name": name, "title": title, "target": target, "runs": runs[name]}
            for name, title, target in rows
        ]

    def _yardstick(self, seconds: int) -> dict[str, Any]:
        return self._observe(self._nothing.url, [Request("GET", "/nothing")], seconds, "nothing")[1]

    def _run(self, case: Case, seconds: int) -> dict[str, Any]:
        count = CONNECTIONS + int(SPARE * self._rates.get(case.name, 0) * seconds)
        requests = case.requests(count)
        run, result = self._observe(self._stack.gateway_url, requests, seconds, case.title)
        if case.once and run.issued > len(requests):
            raise RunError(
                f"{case.title}: more requests were needed than the {len(requests)} made ready; the"
                " machine is quicker than this benchmark expects, raise EXPECTED_RATE."
            )
        self._rates[case.name] = max(run.rate, self._rates.get(case.name, 0))
        return result

    def _observe(
        self, url: str, requests: Sequence[Request], seconds: int, what: str
    ) -> tuple[Run, dict[str, Any]]:
        processes = [*self._stack.processes(), self._nothing]
        meter = Meter({process.name: process.pid for process in processes})
        wrk_before = _children_seconds()
        result = run(url, requests, seconds=seconds, work=self._work, what=what)
        used = meter.used() | {"wrk": _children_seconds() - wrk_before}
        return result, {
            "rate": round(result.rate, 1),
            "p50_ms": round(result.p50_ms, 2),
            "p99_ms": round(result.p99_ms, 2),
            "max_ms": round(result.max_ms, 1),
            "requests": result.requests,
            "steal": round(meter.stolen(), 4),
            "cpu_ms": {
                name: round(1000 * seconds / result.requests, 4)
                for name, seconds in used.items()
                if seconds / result.requests > 1e-6
            },
        }


def _children_seconds() -> float:
    """Processor time of children that have ended and been waited for: of wrk, here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cases_of(shop: Shop, seed: str, rounds: int, seconds: int) -> list[Case]:
    """Lets the people in and tells what is asked on their behalf."""
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


def measure(seed: str, rounds: int, seconds: int, only: str | None) -> Path:
    """Starts everything, measures, stops everything; returns the path of bench.json."""
    concerts, schedules_each = SEEDS[seed]
    schedules = [
        concert * SCHEDULES_A_CONCERT + number
        for concert in range(concerts)
        for number in range(1, schedules_each + 1)
    ]
    now = datetime.datetime.now(datetime.UTC)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="frontrow-bench-") as name:
        root = Path(name)
        stack = Stack(root, Ports.free(), program_env=PROGRAM_ENV)
        nothing = Nothing(free_ports(1)[0], root / "nothing.log")
        with stack:
            say("Starting Redis, MariaDB and Kafka, and making the tables")
            stack.start_servers()
            stack.migrate()
            say(f"Making what is for sale ({seed})")
            stack.seed("full" if seed == "full" else "small", show=True)
            say("Starting the services, the gateway, and the route that does nothing")
            stack.start_services()
            try:
                nothing.start()
                shop = Shop(stack, schedules)
                say(f"Letting in {SHOPPERS:,} people, and {WAITING:,} more to stand in line")
                cases = cases_of(shop, seed, rounds, seconds)
                if only:
                    cases = [case for case in cases if case.name in only.split(",")]
                gateway = stack.process("gateway").pid
                memory_before = resident_megabytes(gateway)
                bench = Bench(stack, nothing, root, seconds)
                routes = bench.measure(cases, rounds)
                memory = [round(memory_before), round(resident_megabytes(gateway))]
                shop.close()
            finally:
                nothing.stop()
            say("Stopping")
    result = {
        "taken": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "seed": seed,
        "rounds": rounds,
        "seconds": seconds,
        "connections": CONNECTIONS,
        "people": {"shopping": SHOPPERS, "waiting": WAITING},
        "gateway_megabytes": memory,
        "machine": describe(),
        "routes": routes,
    }
    file = REPOSITORY / "results" / "bench" / now.strftime("%Y%m%dT%H%M%SZ") / "bench.json"
    file.parent.mkdir(parents=True)
    file.write_text(bench_page.to_json(result))
    return file


def say(line: str) -> None:
    print(line, flush=True)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for what cannot be measured."""
    parser = command.Parser("bench", __doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3, help="of one run of wrk")
    parser.add_argument("--only", metavar="NAMES", help="of routes as in bench.json: order,pay")
    parser.add_argument("--page", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.rounds <= 20 or not 1 <= arguments.seconds <= 60:
        raise UserError("--rounds must be 1 to 20 and --seconds 1 to 60.")
    for name in (arguments.only or "").split(","):
        if name and name not in ROUTES:
            raise UserError(f"--only knows {', '.join(ROUTES)}, not {name}.")
    arguments.seed = os.environ.get("BENCH_SEED", "full")
    if arguments.seed not in SEEDS:
        raise UserError(f"BENCH_SEED must be full or small, not {arguments.seed!r}.")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Exit status 0: measured; 1: a measurement failed; 2: the arguments or the machine are not
    fit; 128 + the signal's number: stopped."""
    return command.run(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    if arguments.page:
        bench_page.write(bench_page.read(arguments.page))
        return 0
    try:
        file = measure(arguments.seed, arguments.rounds, arguments.seconds, arguments.only)
    except RunError as error:
        print(f"frontrow: {error}", file=sys.stderr)
        return 1
    result = bench_page.read(file)
    say("\n" + bench_page.table(result) + f"\n\nWritten to {file.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
