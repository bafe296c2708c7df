"""From figures to words: the terminal's table, the HTML page, the committed page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_table_of_the_terminal() -> None:
    text = words.table(a_result(a_script(), a_script("pay", passed=False)))
    assert "GET …/seats" in text
    assert text.splitlines()[1].endswith("ok")
    assert text.splitlines()[2].endswith("THRESHOLDS BROKEN")


def test_broken_thresholds_are_named() -> None:
    broken = {"http_req_duration{phase:run} p(99)<200": False, "wrong_replies{phase:run} x": False}
    script = a_script(thresholds=broken)
    assert words.broken_limits(script) == ["p(99)<200", "wrong_replies x"]
    assert "BROKEN: p(99)<200" in words.one_line(script)


def test_page_loads_nothing_and_escapes(tmp_path: Path) -> None:
    result = a_result(about="<b>bold</b>")
    (tmp_path / "seats").mkdir()
    a_series().write(tmp_path / "seats" / "series.json")
    result.write(tmp_path / "result.json")
    run_report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;bold" in page
    # The charts of the only script are those of the run.
    assert page.count("<svg") == 1
    for loading in ("<script", "<link", "<img", "@import", "url(http", "src="):
        assert loading not in page
    assert (tmp_path / "charts.png").read_bytes().startswith(b"\x89PNG")


def test_page_shows_each_of_several_scripts_larger() -> None:
    result = a_result(a_script("seats"), a_script("pay"))
    assert run_report.page(result, {"seats": a_series(), "pay": a_series()}).count("<svg") == 3


def in_containers(**changes: Any) -> Result:
    """A run in them, in which a cap held up the gateway."""
    caps = {
        "gateway": {"cores": 1.5, "mib": 3072, "containers": 2},
        "redis": {"cores": 0.5, "mib": 1024, "containers": 1},
    }
    script = a_script(
        cpu={name: {"mean": 0.2, "peak": 0.4} for name in ("gateway", "redis", "k6")},
        throttled={"gateway": 0.25},
    )
    return a_result(script, caps=caps, **changes)


def test_page_says_what_the_caps_did() -> None:
    text = run_report.page(in_containers(own_stack=False), {"seats": a_series()})
    assert "a running system of 3 containers, 2c4g in all" in text
    assert words.ABOUT_CAPS in text
    assert "<th>containers</th><th>cap, MiB</th><th>cap, cores</th><th>held up</th>" in text
    assert "<td>gateway</td><td>2</td><td>3,072</td><td>1.50</td><td>25 %</td><td>0.20" in text
    assert "<td>redis</td><td>1</td><td>1,024</td><td>0.50</td><td>0 %</td><td>0.20" in text
    assert "<td>k6</td><td></td><td></td><td></td><td></td><td>0.20" in text
    text = run_report.page(a_result(), {"seats": a_series()})
    assert "a stack started for it</p>" in text
    assert "cap, cores" not in text


def test_charts_say_what_was_changed_and_capped() -> None:
    assert words.title(a_result()) == "Load test baseline, 2026-01-02: some users"
    changed = in_containers(changed={"POLL_SECONDS": "2", "VUS": "$3"})
    title = words.title(changed)
    assert title == (
        "Load test baseline in containers (2c4g), 2026-01-02: some users\n"
        "changed: POLL_SECONDS=2, VUS=$3"
    )
    drawn = charts.overview(title, changed, {"seats": a_series()}, "svg").decode()
    assert "changed: POLL_SECONDS=2, VUS=$3" in drawn


@pytest.mark.parametrize(
    "draw",
    [
        lambda script: charts.of_script(script, a_series(), "svg"),
        lambda script: charts.overview("", a_result(script), {"seats": a_series()}, "svg"),
    ],
)
def test_charts_show_the_limit_of_the_run(draw: Callable[[Script], bytes]) -> None:
    asked = {
        "http_req_duration{phase:run} avg<50": True,
        "http_req_duration{phase:run} p(99)<5000": True,
    }
    assert b">limit of p99, 5,000<" in draw(a_script(thresholds=asked))
    assert b"limit of" not in draw(a_script(thresholds={}))


def test_one_is_not_many() -> None:
    counted = {"seats_won": 1, "seats_taken": 1, "prepared_late": 1, "dropped_iterations": 1}
    text = words.facts(a_script(requests=1, counted=counted))
    assert text.startswith("1 request in 60 s, 0 wrong; 1 seat was held, 1 time somebody else had")
    assert "1 person was prepared during the load, and not before; k6 could not start 1 it" in text
    counted = {"seats_won": 2, "seats_taken": 1_000, "journeys_bought": 0}
    text = words.facts(a_script(counted=counted))
    assert "0 people bought a seat" in text
    assert "2 seats were held, 1,000 times somebody else had the seat (409)" in text


def test_a_script_without_requests_can_be_reported(tmp_path: Path) -> None:
    result = a_result(a_script(duration=None, requests=0, routes={"seats": {"requests": 0}}))
    (tmp_path / "seats").mkdir()
    Series(requests=[], machine=[]).write(tmp_path / "seats" / "series.json")
    result.write(tmp_path / "result.json")
    run_report.write(tmp_path)
    assert "no request" in words.one_line(result.scripts[0])
    assert words.table(result)


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


def test_page_compares_with_the_report_to_beat() -> None:
    text = committed.page({"baseline": a_result(a_script("seats"), a_script("journey"))}, None)
    assert (
        "| GET …/seats | 82.5 → **3.0** (28) | 435 → **6.0** (72) | 847 → **20.0** (42)"
        " | 58.7 → **61.7** | overload |" in text
    )
    assert "Targets: 3 of 3 met." in text
    assert "x10, rush, hotseat, soak" in text


def test_page_names_what_was_left_out_and_what_is_missing() -> None:
    scripts = [a_script(name) for name in ("concerts", "schedules", "seats", "order", "journey")]
    text = committed.page({"x10": a_result(*scripts, profile="x10")}, None)
    assert "Left out: POST /queues/enqueue, POST /concerts/reservation, POST …/pay." in text
    missing = {"pay": "pay: Seats cannot be held.", "enqueue": "not run after pay failed"}
    gone = a_result(*scripts, passed=False, missing=missing, invariants={}, unverified="Kafka died")
    text = committed.page({"baseline": gone}, None)
    assert "Left out: POST /concerts/reservation." in text
    assert "**Not measured: POST …/pay: pay: Seats cannot be held.**" in text
    assert "**Not verified: Kafka died.**" in text
    assert "What must be 0" not in text
    rush = a_result(a_script("journey"), profile="rush")
    assert "Left out" not in committed.page({"rush": rush}, None)


def test_page_of_a_script_without_requests() -> None:
    none = a_script("journey", duration=None, requests=0, per_second=0.0,
                    routes={"pay": {"requests": 0}})  # fmt: skip
    text = committed.page({"baseline": a_result(none, passed=False)}, None)
    assert "Targets: 0 of 1 met. **Missed**: the journey p99 not measured (target 40)." in text


def test_page_says_what_ran_on_the_machine() -> None:
    everything = {name: {"mean": 0.1, "peak": 0.2} for name in words.PROCESSES}
    together = a_result(a_script(cpu=everything))
    assert "Everything ran on it together, k6 and Kafka" in committed.page({"x10": together}, None)
    apart = a_result(a_script(cpu={"k6": everything["k6"]}))
    text = committed.page({"x10": apart}, None)
    assert "Everything ran on it" not in text
    assert "k6 ran on it; gateway, queue_service," in text
    assert "kafka elsewhere, or out of sight." in text


def test_page_has_no_versions_of_the_machine_around_containers() -> None:
    machine = {"processor": "some", "python": "3.11.7", "k6": "1.1.0"}
    text = committed.page({"baseline-2c4g": in_containers(machine=machine)}, None)
    assert "processor some, k6 1.1.0. Which versions ran in the containers was not" in text
    assert "3.11.7" not in text
    known = in_containers(machine=machine, versions_of="containers")
    text = committed.page({"baseline-2c4g": known}, None)
    assert "processor some, python 3.11.7, k6 1.1.0." in text


def test_page_of_what_the_search_found() -> None:
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


def test_page_says_what_was_missed_or_broken() -> None:
    slow = a_script("seats", duration=STATS | {"p99": 250.0}, thresholds={"p(99)<200": False})
    text = committed.page(
        {"baseline": a_result(slow, invariants={"charged and not confirmed": 3}, passed=False)},
        None,
    )
    assert "**Missed**: GET …/seats p99 250 ms (target 25)" in text
    assert "- GET …/seats: `p(99)<200`" in text
    assert "| charged and not confirmed | **3** |" in text
    assert "All thresholds and invariants held" not in text


def test_a_run_in_containers_stands_beside_the_one_without() -> None:
    free, capped = a_result(a_script("seats")), in_containers()
    text = committed.page({"baseline": free, "baseline-2c4g": capped}, None)
    assert "## Profile `baseline` in containers, 2c4g" in text
    assert "a stack started for it of 3 containers." in text
    assert "p99 uncapped | capped" in text
    assert "| cap, cores | 1.50 | 0.50 |" in text
    assert "| GET …/seats | 25 % | 0 % |" in text
    assert "load-test-report/baseline-2c4g/charts.png" in text


def test_committed_page_is_made_from_the_committed_runs() -> None:
    results = committed.results_of_runs()
    assert results, "a run is committed"
    assert committed.PAGE.read_text() == committed.page(results, committed.capacity_of_runs())


def test_results_are_read_back_from_their_json(tmp_path: Path) -> None:
    result = in_containers(missing={"pay": "no"})
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


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
