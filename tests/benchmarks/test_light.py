"""The benchmark at a low rate: its arithmetic, its figures, and k6 against one route."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import light, page
from benchmarks.bench import nothing_process
from benchmarks.light import Measurements, Used
from benchmarks.model import Light, LightRoute
from benchmarks.shop import CASES
from benchmarks.wrk import Request
from harness.cli import run_app
from harness.errors import UserError
from harness.local.process import Process
from loadtests.metrics import ProcessTree
from tests.benchmarks.test_bench import a_run

CASE = {case.name: case for case in CASES}
NOTHING = [Request("GET", "/nothing", "a token"), Request("GET", "/nothing")]


def a_route(**changes: object) -> LightRoute:
    fields = {"name": "order", "title": "order", "per_second": 150, "runs": []}
    return LightRoute.model_validate(fields | changes)


def a_result(**changes: object) -> Light:
    fields = {
        "taken": "2026-01-02T03:04:05Z",
        "minutes": 7.5,
        "seed": "full",
        "rounds": 3,
        "seconds": 60,
        "people": {"shopping": 2000, "waiting": 10000},
        "machine": {"processor": "some, 2 cores"},
        "idle": dict.fromkeys(page.LIGHT_PROCESSES, 3.125),
        "routes": [],
    }
    return Light.model_validate(fields | changes)


def shown(result: Light, file: Path) -> str:
    result.write(file)
    return " ".join(page.light_figures(Light.read(file)).split())


def test_processor_time_per_request() -> None:
    used = Used({"gateway": 0.6, "redis": 0.0}, seconds=10.0, steal=0.0)
    assert light.per_request(used, 150) == {"gateway": 0.4, "redis": 0.0}


def test_the_target_of_a_response_time() -> None:
    runs = [a_run(500, 1)]
    assert a_route(runs=runs).p50_verdict == "as it comes"
    assert a_route(runs=runs, p50_target=1.0).p50_verdict == "≤ 1.0: met"
    assert a_route(runs=runs, p50_target=0.9).p50_verdict == "≤ 0.9: MISSED"
    assert a_route(runs=runs, p99_target=2.0).p99_verdict == "≤ 2.0: met"


def test_who_may_repeat_a_request_sends_one_per_second() -> None:
    requests = [Request("GET", f"/{number}") for number in range(500)]
    assert light.chosen(requests, CASE["order"], 150) == requests[:150]
    for name in ("pay", "seats_any"):
        assert light.chosen(requests, CASE[name], 150) == requests


def the_yardstick() -> LightRoute:
    run = a_run(150, 1).model_copy(update={"cpu_ms": {"nothing": 0.0675}})
    return a_route(name="nothing", title="does nothing", runs=[run])


def test_figures(tmp_path: Path) -> None:
    runs = [a_run(150, 1), a_run(150, 1), a_run(150, 1, steal=0.2)]
    met, missed = a_route(runs=runs, target=0.15), a_route(runs=runs, target=0.1, dropped=7)
    routes = [the_yardstick(), met, missed, a_route(runs=runs)]
    text = shown(a_result(routes=routes), tmp_path / "light.json")
    for fact in (
        "| does nothing | 150 | 1.0 / 2.0 | as it comes | as it comes | 0.4 | **0.07** |",
        "| order | 150 | 1.0 / 2.0 | as it comes | as it comes | 0.4 | **0.14** | ≤ 0.15: met"
        " | 2.00 | 0.100 | 0.020 |",
        "≤ 0.1: MISSED",
        "as it comes",
        "| | **25.0** | ≤ 25.0: met | 3.1 |",
        "medians of 3 rounds of 60 s",
        "Steal: at most 20.0 %; 7 requests were not sent in time.",
        "| processor | some, 2 cores |",
    ):
        assert fact in text


def test_figures_of_one_part(tmp_path: Path) -> None:
    idle = shown(a_result(idle=dict.fromkeys(page.LIGHT_PROCESSES, 3.2)), tmp_path / "light.json")
    assert "≤ 25.0: MISSED" in idle
    assert "CPU ms per request" not in idle
    measured = [the_yardstick(), a_route(runs=[a_run(1, 1)])]
    routes = shown(a_result(idle={}, routes=measured), tmp_path / "light.json")
    assert "idle, nobody" not in routes
    assert "CPU ms per request" in routes


@pytest.fixture
def nothing(tmp_path: Path) -> Iterator[Process]:
    process = nothing_process(tmp_path / "nothing.log")
    process.start()
    yield process
    process.stop()


def test_k6_sends_at_the_rate(
    nothing: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "WARM_UP_SECONDS", 1)
    sources = {"gateway": ProcessTree(nothing.pid)}
    measurements = Measurements(f"http://{nothing.address}", sources, tmp_path, 1)
    route = a_route(per_second=50)
    measurements.run(NOTHING, route)
    (run,) = route.runs
    assert 48 <= run.requests + route.dropped <= 52
    assert 0 < run.p50_ms <= run.p99_ms <= run.max_ms
    assert 0 < run.cpu_ms["gateway"] < 20
    assert run.sync_p99_ms is not None
    assert run.sync_p99_ms > 0

    with pytest.raises(UserError, match="GET /missing failed with status 404"):
        measurements.run([Request("GET", "/missing")], route)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "lunch"], "--only knows order, concerts,"),
        (["--rates", "150,fast"], "--rates are numbers from 1 to 2000, not fast"),
        (["--seconds", "0"], "'--seconds'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(light.app, arguments) == 2
    assert message in capsys.readouterr().err
