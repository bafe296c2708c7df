"""The requests of load tests, and what is read from k6: plans, samples, errors. Little is run."""

import os
import re
from pathlib import Path

import pytest

from harness.errors import UserError
from loadtests import scripts
from loadtests.request import EVERYBODY, Request

HEAD = "metric_name,timestamp,metric_value,expected_response,name,status,extra_tags,metadata\n"


def environ(**settings: str) -> dict[str, str]:
    """Ours, without what a developer may have set."""
    known = {"PROFILE", "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS"}
    return {k: v for k, v in os.environ.items() if k not in known} | settings


def test_there_is_a_script_for_each_route_and_the_journey() -> None:
    found = {path.stem for path in scripts.SCRIPTS.glob("*.js")}
    assert found == {*scripts.NAMES, "prepare"}


@pytest.mark.parametrize("file", list(scripts.SCRIPTS.glob("**/*.js")), ids=lambda file: file.stem)
def test_no_script_loads_anything_from_the_network(file: Path) -> None:
    code = re.sub(r"^ *//.*", "", file.read_text(), flags=re.M)
    for source in re.findall(r"""\b(?:from|import|require)\b\s*\(?\s*["'`]([^"'`]*)["'`]""", code):
        assert source.startswith(("./", "k6/")) or source == "k6", source
    for opened in re.findall(r"\bopen\((.+)", code):
        # A file beside the script, or the one that the environment names.
        assert opened.startswith(("import.meta.resolve('../profiles.json'", "FILE)")), opened
    # Requests go to the gateway only.
    assert set(re.findall(r"https?://[^'\s]+", code)) <= {"http://127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("script", "profile", "users", "seconds"),
    [
        ("seats", "baseline", 150, 60),
        ("journey", "baseline", 150, 120),
        ("pay", "x10", 1_500, 60),
        ("journey", "rush", 2_000, 6),
        ("reserve", "hotseat", 300, 20),
        ("journey", "soak", 200, 1_800),
        ("enqueue", "smoke", 5, 2.5),
    ],
)
def test_profiles(script: str, profile: str, users: int, seconds: float) -> None:
    plan = scripts.plan(script, environ(PROFILE=profile))
    assert (plan.users, plan.seconds) == (users, seconds)


@pytest.mark.parametrize(
    ("script", "people"),
    [
        ("enqueue", 0),
        ("seats", 150),  # the most users at once
        ("pay", 3_900),  # the most iterations: 50 + 150 + 50 users, 15 s, and one more of each user
        ("reserve", 488),  # the same, of which one person makes eight
    ],
)
def test_how_many_people_a_script_needs(script: str, people: int) -> None:
    assert scripts.plan(script, environ(PROFILE="baseline")).people.people == people


def test_smoke_takes_20_seconds_in_all() -> None:
    smoke = scripts.PROFILES["smoke"]
    loads = (smoke.journey if name == "journey" else smoke.route for name in scripts.NAMES)
    assert sum(load.seconds() for load in loads) == 20


def test_the_environment_changes_the_numbers() -> None:
    plan = scripts.plan("seats", environ(STAGES="2s:7,1m:9"))
    assert (plan.users, plan.seconds) == (9, 62)
    settings = {"DURATION": "90s", "RATE": "3", "PREALLOCATED_VUS": "7"}
    plan = scripts.plan("journey", environ(PROFILE="soak", **settings))
    assert (plan.users, plan.seconds) == (7, 90)
    assert plan.scenario["rate"] == 3
    assert scripts.plan("reserve", environ(PROFILE="hotseat", VUS="9")).users == 9


@pytest.mark.parametrize(
    ("script", "profile", "setting", "problem"),
    [
        ("seats", "baseline", "STAGES=soon", "must look like 15s:50,15s:150,15s:0"),
        ("seats", "baseline", "CONCERTS=many", "must be a number from 0 up, not many"),
        ("seats", "baseline", "THINK_SECONDS=-1", "must be a number from 0 up, not -1"),
        ("seats", "baseline", "MAX_P99_MS=x", "must be a number from 0 up, not x"),
        ("journey", "soak", "RATE=0", "must be a whole number from 1 up, not 0"),
        ("journey", "soak", "RATE=1.5", "must be a whole number from 1 up, not 1.5"),
        ("journey", "soak", "DURATION=soon", "must look like 90s or 1h30m, not soon"),
        ("journey", "soak", "PREALLOCATED_VUS=0", "must be a whole number from 1 up, not 0"),
        ("journey", "rush", "STAGES=soon:5", "must look like 15s:50,15s:150,15s:0"),
        ("seats", "baseline", "VUS=500", "changes nothing in the profile baseline"),
        ("journey", "baseline", "RATE=5", "changes nothing in the profile baseline"),
        ("pay", "x10", "DURATION=1m", "changes nothing in the profile x10"),
        ("reserve", "hotseat", "STAGES=1s:5", "changes nothing in the profile hotseat"),
        ("reserve", "hotseat", "RATE=5", "changes nothing in the profile hotseat"),
        ("journey", "soak", "VUS=5", "changes nothing in the profile soak"),
        ("seats", "smoke", "PREALLOCATED_VUS=5", "changes nothing in the profile smoke"),
    ],
)
def test_a_bad_setting_is_one_sentence(
    script: str, profile: str, setting: str, problem: str
) -> None:
    name, value = setting.split("=")
    with pytest.raises(UserError) as refused:
        scripts.plan(script, environ(PROFILE=profile, **{name: value}))
    assert str(refused.value) == f"{script}: {name} {problem}."


def test_several_scripts_run_in_their_order() -> None:
    assert Request.from_environ({"SCRIPT": "pay, seats"}).scripts == ["seats", "pay"]
    assert Request.from_environ({"PROFILE": "rush"}).scripts == ["journey"]
    assert Request.from_environ({}).scripts == list(scripts.NAMES)


def test_how_many_are_admitted() -> None:
    request = Request.from_environ({})
    assert request.capacity_for("seats") == EVERYBODY
    assert request.capacity_for("order") == 0
    assert request.capacity_for("enqueue") is None
    assert Request.from_environ({"PROFILE": "rush"}).capacity_for("journey") == 50
    request = Request.from_environ({"PROFILE": "rush", "CAPACITY": "7"})
    assert request.capacity_for("journey") == 7
    assert request.capacity_for("seats") == EVERYBODY
    with pytest.raises(UserError, match="CAPACITY"):
        Request.from_environ({"CAPACITY": "-1"})


def test_durations() -> None:
    assert scripts.seconds("1m30s") == 90
    assert scripts.seconds("500ms") == 0.5


def test_samples_become_points_of_a_second(tmp_path: Path) -> None:
    rows = [
        f"http_req_duration,{1_700_000_000_000 + at},{ms},true,{name},200,{tags},\n"
        for at, ms, name, tags in [
            *((100 * n, n, "seats", "phase=run") for n in range(10)),
            (50, 9_999, "enqueue", "phase=prepare"),
            (2_100, 7, "pay", "phase=run&x=y"),
        ]
    ]
    file = tmp_path / "samples.csv"
    file.write_text(HEAD + "vus,1700000000000,1,,,,,\n" + "".join(rows))
    first, empty, last = scripts.read_seconds(file)
    assert (first.n, first.avg, first.p50, first.p99) == (10, 4.5, 4.5, 8.91)
    assert first.routes == {"seats": 10}
    assert empty.n == 0
    assert (last.t, last.n, last.routes) == (2, 1, {"pay": 1})
    assert last.p99 is None, "one request has no percentiles"
    assert last.at == first.at + 2
