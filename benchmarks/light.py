"""`make bench LOAD=light`: what a request costs while the machine is mostly idle.

Starts a whole stack of its own (free ports, temporary data) and the yardstick, a FastAPI route that
does nothing. k6 sends the requests of one route at a constant rate, one route and rate after
another, round after round. Quoted are medians of the response times and of the processor time of
all programs and stores per request, which includes what they use when nobody asks; that is also
measured alone. Beside them stands how long a sync to disk took meanwhile. Afterwards the invariants
are verified.
Prints the figures and writes results/bench/<time>-light/light.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import typer

from benchmarks import page
from benchmarks.bench import PROGRAM_ENV, Seed, nothing_process
from benchmarks.model import Light, LightRoute, Measurement, People
from benchmarks.shop import CASES, NOTHING, SHOPPERS, WAITING, Case, Shop
from benchmarks.wrk import Request
from concert_service.seed import SIZES
from docs import generate
from harness import invariants, stopping
from harness.cli import run_app
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local import Ports, Stack
from loadtests import machine, scripts, verify
from loadtests.metrics import Meter, ProcessTree, Sources
from loadtests.model import now
from loadtests.opening import target_of
from loadtests.report.words import say
from servicekit.client import DIRECT

RATES = (150, 500)
WARM_UP_SECONDS = 2
#: Pause between two syncs to disk.
SYNC_SECONDS = 0.1
#: k6 starts within this time, also when the machine is busy.
_START_SECONDS = 4.0
#: After its start, a stack compiles, loads and connects for a while.
_SETTLING_SECONDS = 20.0
_SCRIPT = Path(__file__).with_name("light")
_CASES = {case.name: case for case in (NOTHING, *CASES)}


class Target(NamedTuple):
    """What a route may use at one rate."""

    #: Processor time of all processes, in ms per request.
    cpu_ms: float | None = None
    #: Response times in ms.
    p50_ms: float | None = None
    p99_ms: float | None = None


#: The routes that are measured unless --only names others, and their targets by rate.
TARGETS: dict[str, dict[int, Target]] = {
    "order": {150: Target(cpu_ms=0.50), 500: Target(cpu_ms=0.30, p50_ms=1.0)},
    "concerts": {150: Target(cpu_ms=0.55)},
    "schedules": {150: Target(cpu_ms=0.55)},
    "seats_20": {150: Target(cpu_ms=0.55)},
    "seats_any": {150: Target(cpu_ms=1.0, p99_ms=12)},
    "reserve": {150: Target(cpu_ms=2.9, p99_ms=15)},
    "pay": {150: Target(cpu_ms=7.0, p99_ms=18)},
}
IDLE = "idle"


class Used(NamedTuple):
    """What was used in a span of time."""

    #: Process → seconds of processor time.
    cpu: dict[str, float]
    #: The length of the span.
    seconds: float
    #: Share of the machine that the hypervisor gave to other machines.
    steal: float


class Measurements:
    """The measurements of `sources` behind the gateway at `base_url`, `seconds` each. `work` is a
    folder for temporary files."""

    def __init__(self, base_url: str, sources: Sources, work: Path, seconds: int) -> None:
        self._base_url = base_url
        self._sources = sources
        self._work = work
        self._seconds = seconds
        self._ended = threading.Event()

    def idle(self) -> dict[str, float]:
        """Thousandths of a core that each process uses while nobody asks."""
        say(f"Nobody asks for {_SETTLING_SECONDS:.0f} + {self._seconds} s")
        stopping.wait(_SETTLING_SECONDS)
        meter, began = Meter(self._sources), time.monotonic()
        stopping.wait(self._seconds)
        used, seconds = meter.used(), time.monotonic() - began
        return {name: round(1000 * cpu / seconds, 2) for name, cpu in used.items()}

    def run(self, requests: Sequence[Request], route: LightRoute) -> None:
        """Adds one measurement to the route. Raises UserError for a response that is no success."""
        file, summary = self._work / "requests.json", self._work / "summary.json"
        file.write_text(json.dumps(requests))
        start_at = time.time() + _START_SECONDS
        environ = {
            "BASE_URL": self._base_url,
            "REQUESTS": str(file),
            "RATE": str(route.per_second),
            "WARM_UP": str(WARM_UP_SECONDS),
            "SECONDS": str(self._seconds),
            "START_AT": str(round(1000 * start_at)),
        }
        self._ended.clear()
        with ThreadPoolExecutor(2) as pool:
            span = pool.submit(self._used, start_at + WARM_UP_SECONDS)
            syncs = pool.submit(self._sync_times)
            try:
                scripts.execute(
                    [str(_SCRIPT), "--summary-export", str(summary)], environ, self._work / "k6.log"
                )
            finally:
                self._ended.set()
            used = span.result()
        metrics = scripts.Summary.model_validate_json(summary.read_text()).metrics
        count = int(metrics["http_reqs{phase:run}"].count)
        times = metrics["http_req_duration{phase:run}"].stats()
        if not count or times is None:
            raise UserError(f"{route.title}: no response at all.")
        if dropped := metrics.get("dropped_iterations"):
            route.dropped += int(dropped.count)
        route.runs.append(
            Measurement(
                rate=round(count / self._seconds, 1),
                p50_ms=times.med,
                p99_ms=times.p99,
                max_ms=times.max,
                requests=count,
                steal=round(used.steal, 4),
                sync_p99_ms=round(statistics.quantiles(syncs.result(), n=100)[-1], 2),
                cpu_ms=per_request(used, count / self._seconds),
            )
        )

    def _sync_times(self) -> list[float]:
        """Writes and syncs every SYNC_SECONDS until k6 has ended. Returns how long each took, in
        ms: at least two."""
        times: list[float] = []
        with (self._work / "sync").open("wb", buffering=0) as file:
            while len(times) < 2 or not self._ended.wait(SYNC_SECONDS):
                began = time.perf_counter()
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
                times.append(1000 * (time.perf_counter() - began))
        return times

    def _used(self, begin: float) -> Used:
        """Measures from `begin`, a Unix time, until k6 sends nothing more."""
        self._ended.wait(max(0.0, begin - time.time()))
        meter, began = Meter(self._sources), time.monotonic()
        self._ended.wait(max(0.0, begin + self._seconds - time.time()))
        return Used(meter.used(), time.monotonic() - began, meter.stolen())


def chosen(requests: Sequence[Request], case: Case, rate: int) -> Sequence[Request]:
    """What k6 sends: of requests that may be repeated, one for each that is sent per second, so
    that each person sends one per second."""
    return requests if case.rate or case.name == "seats_any" else requests[:rate]


def per_request(used: Used, rate: float) -> dict[str, float]:
    """Process → processor time per request, in ms."""
    return {name: round(1000 * cpu / used.seconds / rate, 4) for name, cpu in used.cpu.items()}


def measure(
    seed: Seed, rounds: int, seconds: int, names: Sequence[str], rates: Sequence[int]
) -> Path:
    """Starts everything, measures, verifies, stops everything; returns the path of light.json."""
    taken, began = now(), time.monotonic()
    routes = [name for name in names if name != IDLE]
    if routes:
        routes.insert(0, NOTHING.name)
    cells = [_cell(name, rate) for rate in rates for name in routes]
    buyers = rounds * sum(_CASES[cell.name].buyers(_needed(cell, seconds)) for cell in cells)
    idle: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="frontrow-bench-") as folder,
        Stack(Path(folder), Ports.free(), program_env=PROGRAM_ENV) as stack,
    ):
        say(f"Starting a stack ({seed} data)")
        stack.start(seed=seed, show=True)
        measurements = Measurements(
            stack.gateway_url,
            {process.name: ProcessTree(process.pid) for process in stack.processes()},
            stack.root,
            seconds,
        )
        if IDLE in names:
            idle = measurements.idle()
        if cells:
            yardstick = nothing_process(stack.root / "nothing.log")
            # Stopped like a server of the stack.
            stack.servers.append(yardstick)
            yardstick.start()
            nothing = Measurements(
                f"http://{yardstick.address}",
                {NOTHING.name: ProcessTree(yardstick.pid)},
                stack.root,
                seconds,
            )
            _measure_cells(stack, measurements, nothing, seed, buyers, rounds, seconds, cells)
        say("Verifying")
        violated = invariants.violated(verify.settled(target_of(stack)))
        if violated:
            raise UserError(f"Violated invariants: {violated}.")
        say("Stopping")
    result = Light(
        taken=taken,
        minutes=round((time.monotonic() - began) / 60, 1),
        seed=seed,
        rounds=rounds,
        seconds=seconds,
        people=People(shopping=SHOPPERS, waiting=WAITING),
        machine=machine.hardware() | machine.versions() | {"k6": scripts.version()},
        idle=idle,
        routes=cells,
    )
    file = REPOSITORY / "results" / "bench" / f"{taken:%Y%m%dT%H%M%SZ}-light" / "light.json"
    file.parent.mkdir(parents=True)
    result.write(file)
    return file


def _needed(cell: LightRoute, seconds: int) -> int:
    return cell.per_second * (WARM_UP_SECONDS + seconds + 1)


def _cell(name: str, rate: int) -> LightRoute:
    target = TARGETS.get(name, {}).get(rate, Target())
    return LightRoute(
        name=name,
        title=_CASES[name].title,
        target=target.cpu_ms,
        p50_target=target.p50_ms,
        p99_target=target.p99_ms,
        per_second=rate,
        runs=[],
    )


def _measure_cells(
    stack: Stack,
    measurements: Measurements,
    nothing: Measurements,
    seed: Seed,
    buyers: int,
    rounds: int,
    seconds: int,
    cells: Sequence[LightRoute],
) -> None:
    say(f"Admitting {SHOPPERS + buyers:,} people, and {WAITING:,} more to wait in line")
    with (
        grpc.insecure_channel(stack.address("queue_service"), options=DIRECT) as queue,
        grpc.insecure_channel(stack.address("reservation_service"), options=DIRECT) as reservation,
    ):
        shop = Shop(queue, reservation, SIZES[seed], buyers, stack.secrets.admin_token)
        for number in range(1, rounds + 1):
            for place, cell in enumerate(cells, 1):
                say(
                    f"Round {number} of {rounds}, {place} of {len(cells)}:"
                    f" {cell.title}, {cell.per_second}/s"
                )
                requests = _CASES[cell.name].requests(shop, _needed(cell, seconds))
                measured = nothing if cell.name == NOTHING.name else measurements
                measured.run(chosen(requests, _CASES[cell.name], cell.per_second), cell)
                found = cell.runs[-1]
                cpu = sum(found.cpu_ms.values())
                say(f"  {cpu:.2f} ms CPU, p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms")
        shop.fit_capacity()


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    rounds: Annotated[int, typer.Option(min=1, max=20)] = 5,
    seconds: Annotated[int, typer.Option(min=1, max=600, help="Of one measurement.")] = 60,
    only: Annotated[str, typer.Option(metavar="NAMES", help="Such as order,idle.")] = "",
    rates: Annotated[str, typer.Option(metavar="NUMBERS", help="Requests per second.")] = ",".join(
        map(str, RATES)
    ),
    seed: Annotated[Seed, typer.Option(envvar="BENCH_SEED", help="What is for sale.")] = "full",
    result: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="Only puts FILE into docs/performance.md."),
    ] = None,
) -> None:
    if result:
        Light.read(result).write(page.LIGHT_SOURCE)
        page.PAGE.write_text(generate.generate(page.PAGE.read_text()))
        return
    known = (*(case.name for case in CASES), IDLE)
    names = [name for name in only.split(",") if name] or [IDLE, *TARGETS]
    for name in names:
        if name not in known:
            raise UserError(f"--only knows {', '.join(known)}, not {name}.")
    numbers = [number for number in rates.split(",") if number]
    for number in numbers:
        if not number.isdecimal() or not 1 <= int(number) <= 2_000:
            raise UserError(f"--rates are numbers from 1 to 2000, not {number}.")
    file = measure(seed, rounds, seconds, names, list(map(int, numbers)))
    say(f"\n{page.light_figures(Light.read(file))}\nWritten to {file.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    sys.exit(run_app(app))
