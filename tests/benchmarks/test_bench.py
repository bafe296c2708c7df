"""The benchmark's reading of wrk, its arithmetic and its page; nothing is measured here."""

import json
import os
import signal
from pathlib import Path

import pytest

from benchmarks import bench, page
from benchmarks.model import Bench, Measurement
from benchmarks.wrk import Request, RunError, parse
from harness import stopping
from harness.cli import run_app
from harness.errors import UserError
from loadtests.machine import describe
from loadtests.metrics import Meter, ProcessTree

NUMBERS = {
    "requests": 1_000,
    "issued": 1_051,
    "microseconds": 2_000_000,
    "bytes": 1,
    "not_2xx": 0,
    "socket_errors": 0,
    "timeouts": 0,
    "p50_us": 9_500,
    "p99_us": 20_000,
    "max_us": 31_000,
}


def output(**changes: int) -> str:
    return f"Running 2s test @ http://127.0.0.1:1\n\n{json.dumps(NUMBERS | changes)}\n"


def a_run(rate: float, ratio: float, steal: float = 0.0) -> Measurement:
    return Measurement(
        rate=rate,
        p50_ms=1.0,
        p99_ms=2.0,
        max_ms=3.0,
        requests=10,
        steal=steal,
        cpu_ms={"gateway": 0.1, "queue_service": 0.02, "redis": 0.01, "wrk": 0.005},
        ratio=ratio,
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


def test_reads_what_wrk_saw() -> None:
    run = parse(output(), "order")
    assert run.rate == 500
    assert (run.p50_ms, run.p99_ms, run.max_ms, run.issued) == (9.5, 20.0, 31.0, 1_051)


@pytest.mark.parametrize("bad", ["not_2xx", "socket_errors", "timeouts"])
def test_anything_but_success_is_an_error(bad: str) -> None:
    with pytest.raises(RunError, match=r"pay: 3 .* among 1000 requests"):
        parse(output(**{bad: 3}), "pay")


def test_no_reply_at_all_is_an_error() -> None:
    with pytest.raises(RunError, match="no reply at all"):
        parse(output(requests=0), "pay")


def test_a_request_is_one_line_for_the_script() -> None:
    assert Request("POST", "/x", "t", '{"userId": 1}').line() == 'POST\t/x\tt\t{"userId": 1}\n'
    assert Request("GET", "/x").line() == "GET\t/x\t\t\n"


def test_table_quotes_medians_and_judges_them_as_printed() -> None:
    rows = page.table(a_result(a_run(1, 0.1), a_run(3_210, 0.596), a_run(9_999, 0.9))).splitlines()
    assert "| order | 3,210 | **0.60** | 0.6: met | 1.0 / 2.0 / 3.0 |" in rows[3]
    assert "0.100 + 0.020 + 0.010 + 0.005" in rows[3]
    assert "| as it comes |" in rows[4]


def test_a_missed_target_is_said() -> None:
    assert "0.6: MISSED" in page.table(a_result(a_run(3_000, 0.594)))


def test_runs_that_lost_the_machine_do_not_count() -> None:
    good, stolen = a_run(3_000, 0.7), a_run(900, 0.2, steal=0.2)
    assert page.counted([good, stolen]) == [good]
    assert page.counted([good, stolen, stolen]) == [good, stolen, stolen]
    assert "1 of 4 runs were excluded" in " ".join(page.section(a_result(good, stolen)).split())


def test_page_keeps_what_is_written_by_hand() -> None:
    text = f"# Title\n\nbefore\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    once = page.inserted(text, a_result(a_run(3_000, 0.7)))
    assert once.startswith("# Title\n\nbefore\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert page.inserted(once, a_result(a_run(3_000, 0.7))) == once


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(UserError, match="markers"):
        page.inserted("# Title\n", a_result(a_run(3_000, 0.7)))


def test_json_survives_its_writing(tmp_path: Path) -> None:
    result = a_result(a_run(3_000, 0.7), a_run(3_100, 0.72))
    result.write(tmp_path / "bench.json")
    assert Bench.read(tmp_path / "bench.json") == result


def test_committed_page_is_made_from_the_committed_figures() -> None:
    text = page.PAGE.read_text()
    assert page.inserted(text, Bench.read(page.SOURCE)) == text


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--rounds", "0"], {}, "'--rounds': Input should be greater than or equal to 1"),
        (["--seconds", "x"], {}, "valid integer"),
        (["--only", "order,lunch"], {}, "lunch"),
        ([], {"BENCH_SEED": "huge"}, "BENCH_SEED"),
        (["--page", "/nowhere/bench.json"], {}, "cannot be read"),
        (["--page", __file__], {}, "is not a Bench of this version"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_app(bench.app, arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("frontrow: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("happens", "status", "message"),
    [
        (RunError("pay: no reply at all."), 1, "pay: no reply at all."),
        (UserError("redis-server is not installed."), 2, "redis-server is not installed."),
        (OSError(28, "No space left on device", "bench.json"), 2, "No space left on device: "),
        (signal.SIGINT, 130, "Stopped."),
        (signal.SIGTERM, 143, "Stopped."),
        (signal.SIGHUP, 129, "Stopped."),
    ],
)
def test_what_ends_it_is_one_sentence_and_its_status(
    happens: Exception | signal.Signals,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(*arguments: object) -> Path:
        if isinstance(happens, Exception):
            raise happens
        os.kill(os.getpid(), happens)
        stopping.wait(10)
        pytest.fail("was not stopped")

    monkeypatch.setattr(bench, "measure", measure)
    assert run_app(bench.app, []) == status
    said = capsys.readouterr().err
    assert said.startswith(f"frontrow: {message}")
    assert said.count("\n") == 1


def test_meter_and_machine() -> None:
    meter = Meter({"me": ProcessTree(os.getpid())})
    assert meter.used()["me"] >= 0
    assert 0 <= meter.stolen() <= 1
    assert "cores" in describe()["processor"]
