"""The requests of load tests, and what is read from k6: plans, samples, errors. Little is run."""

import os
import re
from pathlib import Path

import pytest

from harness.cli import run_app
from harness.errors import UserError
from loadtests import scripts
from loadtests.cli import app
from loadtests.request import EVERYBODY, Request

HEAD = "metric_name,timestamp,metric_value,expected_response,name,status,extra_tags,metadata\n"


def environ(**settings: str) -> dict[str, str]:
    """Ours, without what a developer may have set."""
    known = {"PROFILE", "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS"}
    return {k: v for k, v in os.environ.items() if k not in known} | settings


def test_there_is_a_script_for_each_route_and_the_journey() -> None:
    found = {path.stem for path in scripts.SCRIPTS.glob("*.js")}
    assert found == {*scripts.NAMES, "prepare"}


@pytest.mark.parametrize("file", [*scripts.SCRIPTS.glob("*.js"), *scripts.SCRIPTS.glob("lib/*.js")])
def test_no_script_loads_anything_from_the_network(file: Path) -> None:
    text = file.read_text()
    imports = re.findall(r"""\b(?:from|import|require)\b\s*\(?\s*["'`]([^"'`]*)["'`]""", text)
    for source in imports:
        assert source.startswith(("./", "k6/")) or source == "k6", source
    for opened in re.findall(r"\bopen\((.+)", text):
        # A file beside the script, or the one that the environment names.
        assert opened.startswith(("import.meta.resolve('../profiles.json'", "FILE)")), opened
    # What is asked of the network at all is asked of the gateway.
    for url in re.findall(r"https?://[^'\s]+", re.sub(r"^ *//.*", "", text, flags=re.M)):
        assert url == "http://127.0.0.1:8080"


def test_the_ways_to_load_that_the_test_above_sees(tmp_path: Path) -> None:
    for line in (
        'import "https://x/y.js";',
        "import x from 'https://x/y.js';",
        'import { x } from "https://x/y.js";',
        "const x = require(`https://x/y.js`);",
        "const x = await import( 'https://x/y.js' );",
        "const x = open(elsewhere);",
    ):
        file = tmp_path / "script.js"
        file.write_text(f"import 'k6/http';\n{line}\n")
        with pytest.raises(AssertionError):
            test_no_script_loads_anything_from_the_network(file)


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
    "settings",
    [{"STAGES": "soon"}, {"CONCERTS": "many"}, {"THINK_SECONDS": "-1"}, {"MAX_P99_MS": "x"}],
)
def test_bad_settings_are_one_sentence(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^seats: (STAGES|CONCERTS|THINK_SECONDS|MAX_P99_MS) "):
        scripts.plan("seats", environ(**settings))


@pytest.mark.parametrize(
    ("profile", "script", "settings"),
    [
        ("baseline", "seats", {"VUS": "500"}),
        ("baseline", "journey", {"RATE": "5"}),
        ("x10", "pay", {"DURATION": "1m"}),
        ("hotseat", "reserve", {"STAGES": "1s:5"}),
        ("hotseat", "reserve", {"RATE": "5"}),
        ("soak", "journey", {"VUS": "5"}),
        ("smoke", "seats", {"PREALLOCATED_VUS": "5"}),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(
    profile: str, script: str, settings: dict[str, str]
) -> None:
    (name,) = settings
    said = rf"^{script}: {name} changes nothing in the profile {profile}\.$"
    with pytest.raises(UserError, match=said):
        scripts.plan(script, environ(PROFILE=profile, **settings))


@pytest.mark.parametrize(
    ("profile", "settings"),
    [
        ("soak", {"RATE": "0"}),
        ("soak", {"RATE": "1.5"}),
        ("soak", {"DURATION": "soon"}),
        ("soak", {"PREALLOCATED_VUS": "0"}),
        ("rush", {"STAGES": "soon:5"}),
    ],
)
def test_a_bad_load_is_one_sentence(profile: str, settings: dict[str, str]) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=rf"^journey: {name} must [^\n]+\.$"):
        scripts.plan("journey", environ(PROFILE=profile, **settings))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SCRIPT": "seats,lunch"}, "no script 'lunch'"),
        ({"SCRIPT": "lunch"}, "no script 'lunch'"),
        ({"PROFILE": "tea"}, "no profile 'tea'"),
        ({"PROFILE": "rush", "SCRIPT": "seats"}, "rush is for journey"),
        ({"SEED": "huge"}, "SEED must be"),
        ({"BASE_URL": "http://127.0.0.1:9"}, "No gateway answers at http://127.0.0.1:9"),
        ({"BASE_URL": "ftp://shop"}, "BASE_URL must look like"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    settings: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SCRIPT", "PROFILE", "SEED", "BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run_app(app, ["loadtest"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("frontrow: ")
    assert said.count("\n") == 1


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
