"""From figures to words: the terminal's table, the HTML page, the charts, the committed page."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from loadtests import runner, verify
from loadtests.metrics import Watch
from loadtests.model import (
    Capacity,
    Cores,
    Counted,
    K6Metric,
    Result,
    Sample,
    Script,
    Second,
    Series,
    Stats,
)
from loadtests.report import charts, committed, run_report, words
from loadtests.scripts import Plan, Ran, Wanted
from tests.loadtests.figures import STATS, a_result, a_script, a_series

GOOD = a_result()
#: Slow, without requests in its journey, unfinished, violated, disturbed, and held up by its caps.
BAD = a_result(
    a_script(
        passed=False,
        duration=STATS | {"p99": 250.0},
        thresholds={"http_req_duration{phase:run} p(99)<200": False, "wrong_replies x": False},
        cpu={name: {"mean": 0.2, "peak": 0.4} for name in ("gateway", "redis", "k6")},
        throttled={"gateway": 0.25},
        other_cores=0.8,
    ),
    a_script("journey", duration=None, requests=0, per_second=0, routes={"pay": {"requests": 0}}),
    about="<b>bold</b>",
    caps={
        "gateway": {"cores": 1.5, "mib": 3072, "containers": 2},
        "redis": {"cores": 0.5, "mib": 1024, "containers": 1},
    },
    changed={"POLL_SECONDS": "2", "VUS": "$3"},
    own_stack=False,
    missing={"pay": "Seats cannot be held."},
    unverified="Kafka died",
    invariants={"reservations_charged_twice": 3, "another_name": 0},
    passed=False,
)


def test_table_of_the_terminal() -> None:
    text = words.table(a_result(a_script("order"), *BAD.scripts, missing=BAD.missing))
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "GET /queues/order 3,700 requests 61.7/s avg 3.0 p95 6.0 p99 20.0 ms 0 wrong ok",
        "GET …/seats 3,700 requests 61.7/s avg 3.0 p95 6.0 p99 250.0 ms 0 wrong"
        " THRESHOLDS BROKEN: p(99)<200, wrong_replies x",
        "the journey no request was made",
        "POST …/pay not measured",
    ]


def written(folder: Path, result: Result, series: Series) -> str:
    """The HTML page that is in the folder of a result."""
    for script in result.scripts:
        (folder / script.name).mkdir()
        series.write(folder / script.name / "series.json")
    result.write(folder / "result.json")
    run_report.write(folder)
    assert (folder / "charts.png").read_bytes().startswith(b"\x89PNG")
    return (folder / "report.html").read_text()


def test_html_of_a_good_run(tmp_path: Path) -> None:
    page = written(tmp_path, GOOD, a_series())
    # The charts of the only script are those of the run.
    assert page.count("<svg") == 1
    for loading in ("<script", "<link", "<img", "@import", "url(http", "src="):
        assert loading not in page
    assert "a stack started for it</p>" in page
    assert "cap, cores" not in page


def test_html_of_a_bad_run(tmp_path: Path) -> None:
    page = written(tmp_path, BAD, Series(requests=[], machine=[]))
    assert page.count("<svg") == 3
    for fact in (
        "&lt;b&gt;bold&lt;/b&gt;",
        "a running system of 3 containers, 2c4g in all",
        "changed: POLL_SECONDS=2, VUS=$3",
        "<b>Not measured: POST …/pay: Seats cannot be held.</b>",
        "<b>Not verified: Kafka died.</b>",
        "<td>A reservation is charged at most once.</td><td>reservations_charged_twice</td><td>3<",
        "<td>broken: p(99)&lt;200, wrong_replies x</td>",
        "<td>the journey</td><td>150</td><td>0</td><td>0.0</td><td></td>",
        "<th>containers</th><th>cap, MiB</th><th>cap, cores</th><th>throttled</th>",
        "<td>gateway</td><td>2</td><td>3,072</td><td>1.50</td><td>25 %</td><td>0.20</td>"
        "<td>0.40</td><td>80</td><td>90</td><td>4</td><td>5</td>",
        "<td>redis</td><td>1</td><td>1,024</td><td>0.50</td><td>0 %</td><td>0.20</td>",
        "<td>k6</td><td></td><td></td><td></td><td></td><td>0.20</td>",
    ):
        assert fact in page


def test_charts_say_what_was_changed_and_capped() -> None:
    assert charts.title(GOOD) == "Load test baseline, 2026-01-02: some users"
    assert charts.title(BAD) == (
        "Load test baseline in containers (2c4g), 2026-01-02: <b>bold</b>\n"
        "changed: POLL_SECONDS=2, VUS=$3"
    )
    series = dict.fromkeys(("seats", "journey"), a_series())
    drawn = charts.overview(BAD, series, "svg").decode()
    assert "changed: POLL_SECONDS=2, VUS=$3" in drawn


@pytest.mark.parametrize(
    "draw",
    [
        lambda script: charts.of_script(script, a_series(), "svg"),
        lambda script: charts.overview(a_result(script), {"seats": a_series()}, "svg"),
    ],
)
def test_charts_show_the_limit_of_the_run(draw: Callable[[Script], bytes]) -> None:
    limits = ("avg<50", "p(99)<5000")
    asked = {f"http_req_duration{{phase:run}} {limit}": True for limit in limits}
    assert b">limit of p99, 5,000<" in draw(a_script(thresholds=asked))
    assert b"limit of" not in draw(a_script(thresholds={}))


@pytest.mark.parametrize(
    ("requests", "counted", "fact"),
    [
        (1, {"seats_won": 1, "seats_taken": 1}, "1 request in 60 s, 0 wrong; 1 seat was held, 1 t"),
        (1, {"prepared_late": 1}, "1 person was prepared during the load, and not before;"),
        (1, {"dropped_iterations": 1}, "k6 could not start 1 iteration;"),
        (2, {"seats_won": 2, "seats_taken": 1_000}, "2 seats were held, 1,000 times somebody else"),
        (2, {"journeys_bought": 0}, "2 requests in 60 s, 0 wrong; 0 people bought a seat, 0 did"),
    ],
)
def test_facts_of_a_script(requests: int, counted: dict[str, int], fact: str) -> None:
    assert fact in words.facts(a_script(requests=requests, counted=counted))


def test_figures_of_a_script_are_those_under_load() -> None:
    trend = {"avg": 3, "min": 1, "med": 2, "max": 30, "p(90)": 5, "p(95)": 6, "p(99)": 20}
    metrics = {
        "http_req_duration{phase:run}": trend | {"thresholds": {"avg<50": False}},
        "http_req_duration{phase:run,name:seats}": trend,
        "wrong_replies{phase:run}": {"passes": 2, "fails": 8, "thresholds": {"rate<0.02": True}},
        "wrong_replies": {"passes": 3, "fails": 8},
        "seats_taken": {"count": 4, "rate": 1},
    }
    ran = Ran(
        passed=False,
        metrics={name: K6Metric.model_validate(found) for name, found in metrics.items()},
        seconds=[Second(t=t, n=5, routes={"seats": 5}, at=1000.0 + t) for t in range(2)],
    )
    watch = Watch.__new__(Watch)
    watch._sources, watch._throttled = {}, {}
    watch.points = [
        Sample(at=at, cpu={"gateway": cores}, mb={}, other=0.5)
        for at, cores in [(990, 9.0), (1000.5, 0.2), (1001.5, 0.4), (1090, 9.0)]
    ]
    plan = Plan(users=5, seconds=2, scenario={}, people=Wanted(0, False, True))
    other = a_script()
    script = runner.summarised("seats", plan, ran, watch, other.room, other.before, other.after)
    assert (script.requests, script.per_second, script.wrong) == (10, 5.0, 2)
    assert script.prepared_wrong == 1
    assert script.duration == Stats(**STATS)
    assert script.cpu == {"gateway": Cores(mean=0.3, peak=0.3)}
    assert script.counted == Counted(seats_taken=4)
    assert script.routes["seats"].requests == 10
    assert script.thresholds == {
        "http_req_duration{phase:run} avg<50": True,
        "wrong_replies{phase:run} rate<0.02": False,
    }


def test_violations_stand_out() -> None:
    text = verify.lines({"good": 0, "bad": 2})
    assert "0  good" in text
    assert text.endswith("2  bad   VIOLATED")


# --- the committed page ----------------------------------------------------------------------


def test_committed_page_of_good_runs() -> None:
    rush = a_result(a_script("journey"), profile="rush")
    text = committed.page({"baseline": GOOD, "rush": rush}, None)
    for fact in (
        "Left out: GET /concerts, POST /queues/enqueue, GET /queues/order, GET …/schedules,",
        "Targets: 2 of 2 met.",
        "**All thresholds and invariants held.**",
        "x10, hotseat, soak",
    ):
        assert fact in text
    assert "Left out" not in text[text.index("## Profile `rush`") :]


def test_committed_page_of_a_bad_run() -> None:
    text = committed.page({"baseline": GOOD, "baseline-2c4g": BAD}, None)
    text = text[text.index("## Profile `baseline` in containers, 2c4g") :]
    for fact in (
        "a running system of 3 containers. Changed: `POLL_SECONDS=2`, `VUS=$3`.",
        "**Not measured: POST …/pay: Seats cannot be held.**",
        "**Not verified: Kafka died.**",
        "during 1 of 2 scripts other programs, which have nothing to do with the test, took 0.8 co",
        "| 847 → **250** (3.4) | 58.7 → **61.7** | overload |",
        "| 20.0 | **250** | 61.7 | **61.7** |",
        "Targets: 1 of 3 met. **Missed**: GET …/seats p99 250 ms (target 25); the journey p99 not"
        " measured (target 40).",
        "- GET …/seats: `p(99)<200`, `wrong_replies x`",
        "| A reservation is charged at most once. | **3** |",
        "| another name | 0 |",
        "k6 ran on it; queue_service, payment_service, reservation_service, concert_service,"
        " mariadb, kafka elsewhere, or out of sight.",
        "| cap, cores | 1.50 | 0.50 |",
        "| GET …/seats | 25 % | 0 % |",
        "load-test-report/baseline-2c4g/charts.png",
    ):
        assert fact in text
    assert "All thresholds and invariants held" not in text


def test_committed_page_of_what_the_search_found() -> None:
    one = {"users": 800, "per_second": 700.0, "p99": 150.0, "stopped_by": "p99 999 ms",
           "bottleneck": "gateway: its core is full", "steps": []}  # fmt: skip
    none = one | {"users": 0, "p99": None, "stopped_by": "the queue is full"}
    found = Capacity.model_validate({
        "file": "", "machine": {}, "taken": "2026-01-02T03:04:05Z",
        "max_p99_ms": 200, "max_failed": 0.01, "think_seconds": 1,
        "step_seconds": 12, "rise_seconds": 3,
        "volume": {"concerts": 100, "schedules": 10_000, "seats": 1_500_000},
        "missing": {"pay": "the search was stopped"},
        "scripts": {"seats": one, "order": none, "pay": one},
    })  # fmt: skip
    text = committed.page({}, found)
    assert "| GET …/seats | 800 | 700.0 | 150 | p99 999 ms | gateway: its core is full |" in text
    assert "| GET /queues/order | 0 | 700.0 |  | the queue is full |" in text
    assert "with the 3 s in which they arrived in all figures" in text
    assert "- Not found: POST …/pay: the search was stopped." in text
    assert "| POST …/pay |" not in text


def test_committed_page_is_made_from_the_committed_runs() -> None:
    results = committed.results_of_runs()
    assert results, "a run is committed"
    assert committed.PAGE.read_text() == committed.page(results, committed.capacity_of_runs())


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        committed.take_over(tmp_path)
    (tmp_path / "result.json").write_text('{"scripts": []}')
    with pytest.raises(UserError, match="is not a Result of this version"):
        committed.take_over(tmp_path)


def test_violations_during_and_after_the_load_are_added() -> None:
    settled = {"lost_seats": 1, "samples_over_capacity": 2}
    assert runner.added(settled, {"samples_over_capacity": 3}) == {
        "lost_seats": 1,
        "samples_over_capacity": 5,
    }
