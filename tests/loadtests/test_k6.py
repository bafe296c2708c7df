"""What the load tests make of k6: its settings, its samples, its last words. Little is run."""

import os
import re
from pathlib import Path

import pytest

from harness.errors import UserError
from loadtests import capacity, k6, run

HEAD = "metric_name,timestamp,metric_value,expected_response,name,status,extra_tags,metadata\n"


def environ(**settings: str) -> dict[str, str]:
    """Ours, without what a developer may have set."""
    known = {"PROFILE", "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS"}
    return {k: v for k, v in os.environ.items() if k not in known} | settings


def test_there_is_a_script_for_each_route_and_the_journey() -> None:
    assert {path.stem for path in k6.SCRIPTS.glob("*.js")} == set(k6.NAMES)


@pytest.mark.parametrize("file", [*k6.SCRIPTS.glob("*.js"), *k6.SCRIPTS.glob("lib/*.js")])
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
    plan = k6.plan(script, environ(PROFILE=profile))
    assert (plan["users"], plan["seconds"]) == (users, seconds)


def test_smoke_takes_20_seconds_in_all() -> None:
    smoke = k6.PROFILES["smoke"]
    total = sum(
        k6.seconds(stage["duration"])
        for name in k6.NAMES
        for stage in smoke["journey" if name == "journey" else "route"]["stages"]
    )
    assert total == 20


def test_the_environment_changes_the_numbers() -> None:
    plan = k6.plan("seats", environ(STAGES="2s:7,1m:9"))
    assert (plan["users"], plan["seconds"]) == (9, 62)
    settings = {"DURATION": "90s", "RATE": "3", "PREALLOCATED_VUS": "7"}
    plan = k6.plan("journey", environ(PROFILE="soak", **settings))
    assert (plan["users"], plan["seconds"]) == (7, 90)
    assert plan["scenario"]["rate"] == 3
    assert k6.plan("reserve", environ(PROFILE="hotseat", VUS="9"))["users"] == 9


@pytest.mark.parametrize(
    "settings",
    [{"STAGES": "soon"}, {"CONCERTS": "many"}, {"THINK_SECONDS": "-1"}, {"MAX_P99_MS": "x"}],
)
def test_bad_settings_are_one_sentence(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^seats: (STAGES|CONCERTS|THINK_SECONDS|MAX_P99_MS) "):
        k6.plan("seats", environ(**settings))


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
        k6.plan(script, environ(PROFILE=profile, **settings))


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
        k6.plan("journey", environ(PROFILE=profile, **settings))


def test_several_scripts_run_in_their_order() -> None:
    asked = run.Asked({"SCRIPT": "pay, seats"})
    assert asked.scripts == ["seats", "pay"]
    assert run.Asked({"PROFILE": "rush"}).scripts == ["journey"]
    assert run.Asked({}).scripts == list(k6.NAMES)


def test_how_many_are_let_in() -> None:
    asked = run.Asked({})
    assert asked.capacity_for("seats") == run.EVERYBODY
    assert asked.capacity_for("order") == 0
    assert asked.capacity_for("enqueue") is None
    assert run.Asked({"PROFILE": "rush"}).capacity_for("journey") == 50
    asked = run.Asked({"PROFILE": "rush", "CAPACITY": "7"})
    assert asked.capacity_for("journey") == 7
    assert asked.capacity_for("seats") == run.EVERYBODY
    with pytest.raises(UserError, match="CAPACITY"):
        run.Asked({"CAPACITY": "-1"})


@pytest.mark.parametrize(
    ("settings", "told"),
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
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SCRIPT", "PROFILE", "SEED", "BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run.main([]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("frontrow: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"FIRST_USERS": "0"}, "FIRST_USERS must be"), ({"STEP_SECONDS": "x"}, "STEP_SECONDS must")],
)
def test_bad_input_of_the_search(
    settings: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert capacity.main([]) == 2
    assert told in capsys.readouterr().err


def test_durations() -> None:
    assert k6.seconds("1m30s") == 90
    assert k6.seconds("500ms") == 0.5


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
    first, empty, last = k6.read_series(file)
    assert (first["n"], first["avg"], first["p50"]) == (10, 4.5, 4.5)
    assert first["routes"] == {"seats": 10}
    assert empty["n"] == 0
    assert (last["t"], last["n"], last["routes"]) == (2, 1, {"pay": 1})
    assert "p99" not in last, "one request has no percentiles"
    assert last["at"] == first["at"] + 2


def test_percentiles_lie_between_neighbours() -> None:
    assert k6.percentile([1, 2, 3, 4], 50) == 2.5
    assert k6.percentile([5], 99) == 5


def test_the_last_words_of_k6() -> None:
    told = (
        'time="x" level=info msg="all well"\n'
        'time="x" level=error msg="test aborted: There are no concerts: seed the database.'
        ' at file:///a/b.js:1:2(3)" hint="script"\n'
    )
    assert k6._reason(told) == "There are no concerts: seed the database."
    assert k6._reason("") == "k6 ended without a word."
    told = 'level=error msg="test aborted: Seats cannot be held: are there any left?"'
    assert k6._reason(told) == "Seats cannot be held: are there any left?"
    told = 'level=error msg="GoError: the room is full, look at it\\n\\tat a (file:///a.js:1:2(3))"'
    assert k6._reason(told) == "the room is full, look at it."
    told = 'level=error msg="Error: stop at once at default (file:///a.js:1:2(3))"'
    assert k6._reason(told) == "stop at once."
