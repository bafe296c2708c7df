"""`make bench`: the hot paths beside a FastAPI route that does nothing.

Starts a whole stack of its own (free ports, temporary data) and, beside it, that route, which is
the yardstick. wrk requests the routes in turn, round after round, and the yardstick between any two
of them; quoted are medians of the ratio to the two yardsticks around. Prints the figures and writes
results/bench/<time>/bench.json.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import grpc
import psutil
import typer

from benchmarks import page, wrk
from benchmarks.model import Bench, Measurement, People, Route
from benchmarks.shop import CASES, NOTHING, SHOPPERS, WAITING, Case, Shop
from concert_service.seed import SIZES
from docs import generate
from harness.cli import run_app
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local import Ports, Stack
from harness.local.ports import HOST, free_ports
from harness.local.process import Process
from harness.local.stack import PYTHON, http_status
from loadtests.machine import describe
from loadtests.metrics import Meter, ProcessTree
from loadtests.model import now
from loadtests.report.words import say
from servicekit.client import DIRECT

#: What concert_service.seed puts up for sale.
Seed = Literal["full", "small"]
WARM_UP_SECONDS = 1
#: Requests that are sent only once are prepared for the expected rate, or for the highest so far,
#: times this.
SPARE = 1.5
PROGRAM_ENV = {
    "queue_service": {
        # The people of the measurements poll less often than real ones.
        "QUEUE_CLAIM_WINDOW_SECONDS": "7200",
        "QUEUE_ADMISSION_TTL_SECONDS": "7200",
    },
    # Otherwise most polls of the case "order" would be answered without the call that it measures.
    "gateway": {"GATEWAY_ENFORCE_PACE": "false"},
}


def nothing_process(log_path: Path) -> Process:
    """The yardstick's process."""
    port = free_ports(1)[0]
    address = f"{HOST}:{port}"
    return Process(
        "nothing",
        [PYTHON, "-m", "benchmarks.nothing", str(port)],
        probe=lambda: http_status(address, "/nothing") == 200,
        log_path=log_path,
        stopping=threading.Event(),
        address=address,
    )


class Measurements:
    """The measurements on a running stack, `seconds` per run of wrk. Raises UserError."""

    def __init__(self, stack: Stack, nothing: Process, shop: Shop, seconds: int) -> None:
        self._stack = stack
        self._nothing = nothing
        self._shop = shop
        self._seconds = seconds
        self._rates: dict[str, float] = {}

    def measure(self, cases: Sequence[Case], rounds: int) -> list[Route]:
        """The yardstick and then each case, with a measurement per round."""
        yardstick, *routes = (
            Route(name=case.name, title=case.title, target=case.target, runs=[])
            for case in (NOTHING, *cases)
        )
        say(f"Warming up, {WARM_UP_SECONDS} s per route")
        for case in (NOTHING, *cases):
            self._run(case, WARM_UP_SECONDS)
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}, {self._seconds} s per route")
            before = self._run(NOTHING, self._seconds)
            yardstick.runs.append(before)
            for case, route in zip(cases, routes, strict=True):
                found = self._run(case, self._seconds)
                after = self._run(NOTHING, self._seconds)
                yardstick.runs.append(after)
                found.ratio = 2 * found.rate / (before.rate + after.rate)
                route.runs.append(found)
                say(f"  {case.title:38} {found.rate:7,.0f}/s  {found.ratio:.2f} of nothing")
                before = after
        return [yardstick, *routes]

    def _run(self, case: Case, seconds: int) -> Measurement:
        rate = max(case.rate, self._rates.get(case.name, 0))
        requests = case.requests(self._shop, _prepared(rate, seconds))
        url = f"http://{self._nothing.address}" if case is NOTHING else self._stack.gateway_url
        processes = self._stack.processes()
        meter = Meter({process.name: ProcessTree(process.pid) for process in processes})
        wrk_before = _children_seconds()
        ran = wrk.run(url, requests, seconds=seconds, work=self._stack.root, what=case.title)
        used = meter.used() | {"wrk": _children_seconds() - wrk_before}
        if case.rate and ran.issued > len(requests):
            raise UserError(
                f"{case.title}: more requests were needed than the {len(requests)} prepared: the"
                " machine is faster than this benchmark expects, raise its rate in"
                " benchmarks/shop.py."
            )
        self._rates[case.name] = max(rate, ran.rate)
        return Measurement(
            rate=round(ran.rate, 1),
            p50_ms=round(ran.p50_ms, 2),
            p99_ms=round(ran.p99_ms, 2),
            max_ms=round(ran.max_ms, 1),
            requests=ran.requests,
            steal=round(meter.stolen(), 4),
            cpu_ms={
                name: round(1000 * cpu_seconds / ran.requests, 4)
                for name, cpu_seconds in used.items()
                if cpu_seconds / ran.requests > 1e-6
            },
        )


def _prepared(rate: float, seconds: int) -> int:
    """How many requests one run needs at most."""
    return wrk.CONNECTIONS + int(SPARE * rate * seconds)


def _children_seconds() -> float:
    """Processor time of ended children, which is that of wrk."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def measure(seed: Seed, rounds: int, seconds: int, only: Sequence[str]) -> Path:
    """Starts everything, measures, stops everything; returns the path of bench.json."""
    taken, began = now(), time.monotonic()
    cases = [
        case
        for case in CASES
        if (not only or case.name in only) and (seed == "full" or not case.per_buyer)
    ]
    buyers = sum(
        case.buyers(_prepared(case.rate, WARM_UP_SECONDS))
        + rounds * case.buyers(_prepared(case.rate, seconds))
        for case in cases
    )
    with (
        tempfile.TemporaryDirectory(prefix="frontrow-bench-") as folder,
        Stack(Path(folder), Ports.free(), program_env=PROGRAM_ENV) as stack,
    ):
        say(f"Starting a stack ({seed} data) and the route that does nothing")
        stack.start(seed=seed, show=True)
        nothing = nothing_process(stack.root / "nothing.log")
        # Measured and stopped like a server of the stack.
        stack.servers.append(nothing)
        nothing.start()
        with (
            grpc.insecure_channel(stack.address("queue_service"), options=DIRECT) as queue,
            grpc.insecure_channel(
                stack.address("reservation_service"), options=DIRECT
            ) as reservation,
        ):
            say(f"Admitting {SHOPPERS + buyers:,} people, and {WAITING:,} more to wait in line")
            shop = Shop(queue, reservation, SIZES[seed], buyers, stack.secrets.admin_token)
            gateway = ProcessTree(stack.process("gateway").pid)
            memory_before = round(gateway.megabytes())
            routes = Measurements(stack, nothing, shop, seconds).measure(cases, rounds)
            memory = memory_before, round(gateway.megabytes())
        say("Stopping")
    result = Bench(
        taken=taken,
        minutes=round((time.monotonic() - began) / 60, 1),
        seed=seed,
        rounds=rounds,
        seconds=seconds,
        connections=wrk.CONNECTIONS,
        people=People(shopping=SHOPPERS, waiting=WAITING),
        gateway_megabytes=memory,
        machine=describe(),
        routes=routes,
    )
    file = REPOSITORY / "results" / "bench" / f"{taken:%Y%m%dT%H%M%SZ}" / "bench.json"
    file.parent.mkdir(parents=True)
    result.write(file)
    return file


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
) -> None:
    if result:
        Bench.read(result).write(page.SOURCE)
        page.PAGE.write_text(generate.generate(page.PAGE.read_text()))
        return
    names = [name for name in only.split(",") if name]
    routes = [case.name for case in CASES]
    for name in names:
        if name not in routes:
            raise UserError(f"--only knows {', '.join(routes)}, not {name}.")
    file = measure(seed, rounds, seconds, names)
    say(f"\n{page.figures(Bench.read(file))}\nWritten to {file.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    sys.exit(run_app(app))
