"""The benchmark's reading of wrk, its arithmetic and its figures; nothing is measured here."""

import json
from pathlib import Path

import pytest

from benchmarks import bench, page, wrk
from benchmarks.model import Bench, Measurement
from benchmarks.wrk import Request
from harness.cli import run_app
from harness.errors import UserError

NUMBERS = {
    "requests": 1_000, "issued": 1_051, "seconds": 2.0, "p50_ms": 9.5, "p99_ms": 20.0,
    "max_ms": 31.0, "not_2xx": 0, "socket_errors": 0, "timeouts": 0,
}  # fmt: skip


def run_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, status: int = 0, **changes: int
) -> wrk.Run:
    """One run of a wrk that prints these numbers."""
    fake = folder / "wrk"
    numbers = json.dumps(NUMBERS | changes)
    fake.write_text(f"#!/bin/sh\necho 'Running 2s test\n\n{numbers}'; echo no >&2; exit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    requests = [Request("POST", "/x", "t", '{"userId": 1}'), Request("GET", "/x")]
    return wrk.run("http://127.0.0.1:1", requests, seconds=2, work=folder, what="pay")


def test_a_run_of_wrk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = run_with(monkeypatch, tmp_path)
    assert run.rate == 500
    assert (run.p50_ms, run.p99_ms, run.max_ms, run.issued) == (9.5, 20.0, 31.0, 1_051)
    # As cycle.lua reads them.
    lines = (tmp_path / "requests.tsv").read_text()
    assert lines == 'POST\t/x\tt\t{"userId": 1}\nGET\t/x\t\t\n'


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"not_2xx": 3}, "pay: 3 responses that were no success among 1000 requests"),
        ({"socket_errors": 3}, "pay: 3 connection errors among 1000 requests"),
        ({"timeouts": 3}, "pay: 3 responses that took over 10 s among 1000 requests"),
        ({"requests": 0}, "pay: no response at all"),
        ({"status": 1}, "wrk failed on pay: no"),
    ],
)
def test_anything_but_success_is_an_error(
    bad: dict[str, int], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        run_with(monkeypatch, tmp_path, **bad)


def a_run(rate: float, ratio: float, steal: float = 0.0) -> Measurement:
    cpu = {"gateway": 0.1, "queue_service": 0.02, "redis": 0.01, "wrk": 0.005}
    return Measurement(
        rate=rate,
        p50_ms=1,
        p99_ms=2,
        max_ms=3,
        requests=10,
        steal=steal,
        cpu_ms=cpu,
        ratio=ratio,
        sync_p99_ms=0.4,
    )


def a_result(*orders: Measurement) -> Bench:
    figures = {
        "taken": "2026-01-02T03:04:05Z",
        "minutes": 7.5,
        "seed": "full",
        "rounds": len(orders),
        "seconds": 5,
        "connections": 50,
        "people": {"shopping": 2000, "waiting": 10000},
        "gateway_megabytes": [100, 120],
        "machine": {"processor": "some, 2 cores"},
        "routes": [
            {"name": "nothing", "title": "nothing", "runs": [a_run(5000, 1)]},
            {"name": "order", "title": "order", "target": 0.6, "runs": orders},
            {"name": "pay", "title": "pay", "runs": [a_run(500, 0.1)]},
        ],
    }
    return Bench.model_validate(figures)


@pytest.mark.parametrize(
    ("orders", "facts"),
    [
        pytest.param(
            [a_run(1, 0.1), a_run(3_210, 0.596), a_run(9_999, 0.9)],
            [
                "| nothing | 5,000 | 1 | | 1.0",
                "| order | 3,210 | **0.60** | 0.6: met | 1.0 / 2.0 / 3.0 |"
                " 0.100 + 0.020 + 0.010 + 0.005 |",
                "| pay | 500 | **0.10** | as it comes |",
                "7.5 minutes: 3 rounds of 5 s per route with 50 connections",
                "0 of 5 runs were excluded",
                "| processor | some, 2 cores |",
            ],
            id="medians, and targets judged as they are printed",
        ),
        pytest.param([a_run(3_000, 0.594)], ["0.6: MISSED"], id="a missed target"),
        pytest.param(
            [a_run(3_000, 0.7), a_run(900, 0.2, steal=0.2)],
            ["| order | 3,000 | **0.70** |", "at most 20.0 %; 1 of 4 runs were excluded"],
            id="a run that lost the machine does not count",
        ),
        pytest.param(
            [a_run(3_000, 0.7), a_run(900, 0.2, steal=0.2), a_run(900, 0.2, steal=0.2)],
            ["| order | 900 | **0.20** |", "0 of 5 runs were excluded"],
            id="unless more than half of the runs did",
        ),
    ],
)
def test_figures(orders: list[Measurement], facts: list[str], tmp_path: Path) -> None:
    result = a_result(*orders)
    result.write(tmp_path / "bench.json")
    text = " ".join(page.figures(Bench.read(tmp_path / "bench.json")).split())
    for fact in facts:
        assert fact in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "'--rounds': Input should be greater than or equal to 1"),
        (["--only", "order,lunch"], "--only knows order, concerts,"),
        ([], "BENCH_SEED"),
        (["--page", "/nowhere/bench.json"], "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BENCH_SEED", "full" if arguments else "huge")
    assert run_app(bench.app, arguments) == 2
    output = capsys.readouterr().err
    assert message in output
    assert output.startswith("frontrow: ")
    assert output.count("\n") == 1
