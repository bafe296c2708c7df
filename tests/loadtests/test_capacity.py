"""The search for the most users: how it closes in, what it survives, what it blames."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.cli import run_app
from harness.errors import UserError
from loadtests import capacity, scripts
from loadtests.cli import app
from loadtests.model import Cap, Capacity, Cores, Found, Load, Script, Step, Volume
from loadtests.request import Search
from loadtests.scripts import Plan
from tests.loadtests.figures import STATS, a_script


def search(limit: int, most: int = 6_400, first: int = 100) -> Found:
    """The search on a system that serves `limit` users."""

    def step(users: int) -> Step:
        holds = users <= limit
        script = a_script(passed=holds, duration=STATS | {"p99": 20.0 if holds else 999.0})
        return capacity.step_of(users, script, {}, 1)

    return capacity.search(Search(12, first, most), step)


def test_closes_in() -> None:
    found = search(1_000)
    assert 800 <= found.users <= 1_000
    assert found.stopped_by == "p99 999 ms"
    assert found.bottleneck.startswith("no processor is full (0.31 of the machine's")
    assert [step.users for step in found.steps] == sorted(step.users for step in found.steps)


def test_ends_at_the_most() -> None:
    found = search(100_000, most=400)
    assert (found.users, found.stopped_by) == (400, "the end of the search")


def test_finds_that_it_stands_few_or_none() -> None:
    assert 55 <= search(70).users <= 70
    assert search(0).users == 0


@pytest.mark.parametrize("first", [1, 10, 100, 200, 1_600, 6_400])
@pytest.mark.parametrize("limit", [0, 5, 9, 90, 100, 199, 201, 1_000, 1_599, 1_601, 5_000, 10**6])
def test_takes_no_more_steps_than_it_says(first: int, limit: int) -> None:
    steps = Search.from_environ({"FIRST_USERS": str(first)})
    assert len(search(limit, first=first).steps) <= steps.most_steps()


@pytest.mark.parametrize(
    ("first", "most"), [(1, 1), (10, 10), (11, 11), (100, 200), (200, 200), (200, 1_600)]
)
def test_some_system_needs_as_many_steps_as_it_says(first: int, most: int) -> None:
    environ = {"FIRST_USERS": str(first), "MOST_USERS": str(most)}
    needed = max(len(search(limit, most, first).steps) for limit in range(most + 1))
    assert Search.from_environ(environ).most_steps() == needed


def test_all_scripts_end_within_half_an_hour() -> None:
    assert Search.from_environ({}).minutes(8) <= 30


def test_a_step_that_k6_ended_did_not_hold_and_the_search_goes_on() -> None:
    seen: list[Found] = []

    def step(users: int) -> Step:
        if users <= 100:
            return capacity.step_of(users, a_script(), {}, 1)
        gave_up = scripts.GaveUp("seats: the queue is full.")
        return capacity.step_given_up(users, "seats", gave_up, {}, 1)

    found = capacity.search(Search(12, 100, 6_400), step, seen.append)
    assert found.users == 100
    assert found.stopped_by == "the queue is full"
    assert found.bottleneck == "unknown: no process could be seen"
    assert [each.passed for each in found.steps] == [True, False, False, False]
    # The caller gets what is known after each step.
    assert [len(each.steps) for each in seen] == [1, 2, 3, 4]
    assert capacity.so_far(seen[1]) == "step 3, so far 100 users held and 200 did not"
    assert "then the queue is full" in capacity.summary(found)


def test_what_was_found_before_a_step_failed_is_kept() -> None:
    seen: list[Found] = []

    def step(users: int) -> Step:
        if users > 200:
            raise UserError("Gone.")
        return capacity.step_of(users, a_script(), {}, 1)

    with pytest.raises(UserError, match="Gone"):
        capacity.search(Search(12, 100, 6_400), step, seen.append)
    assert seen[-1].users == 200


class FakeRunner:
    """The runner of a system that serves 300 users, and cannot be measured with `pay` at all."""

    def __init__(self, target: object, environ: object) -> None:
        pass

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self, name: str, plan: Plan, wanted: int | None, folder: Path, settings: Mapping[str, str]
    ) -> Script:
        assert settings["BASE_URL"] == "http://shop"
        assert f":{plan.users}," in settings["STAGES"]
        if name == "pay":
            raise UserError("Seats cannot be held.")
        if plan.users > 300:
            raise scripts.GaveUp(f"{name}: no place in the queue.")
        return a_script(name)


class FakeTarget:
    base_url = "http://shop"

    def volume(self) -> Volume:
        return Volume(concerts=100, schedules=10_000, seats=1_500_000)

    def caps(self) -> dict[str, Cap]:
        return {}

    def versions(self) -> tuple[str, dict[str, str]]:
        return "", {}


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(capacity, "opened", lambda environ, seed: nullcontext(FakeTarget()))
    monkeypatch.setattr(capacity, "Runner", FakeRunner)
    monkeypatch.setattr(capacity, "REPOSITORY", tmp_path)
    monkeypatch.setattr(capacity, "RESULTS", tmp_path / "results")
    return tmp_path


def test_a_script_that_cannot_be_measured_leaves_the_others(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRIPT", "pay,order,enqueue")
    assert run_app(app, ["capacity"]) == 2
    said = capsys.readouterr()
    assert said.err == "frontrow: pay is not done: Seats cannot be held.\n"
    assert "steps for each of 3 scripts, about 11 minutes in all" in said.out
    assert "script 3 of 3, step 2, so far 200 users held" in said.out
    (file,) = faked.glob("results/*/capacity.json")
    found = Capacity.read(file)
    assert found.missing == {"pay": "Seats cannot be held."}
    assert found.scripts.keys() == {"order", "enqueue"}
    assert found.scripts["order"].users == 300
    assert found.scripts["order"].stopped_by == "no place in the queue"


def test_nothing_found_is_one_sentence(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SCRIPT": "pay", "FIRST_USERS": "10", "MOST_USERS": "10"}.items():
        monkeypatch.setenv(name, value)
    assert run_app(app, ["capacity"]) == 2
    said = capsys.readouterr()
    assert said.err == "frontrow: Seats cannot be held.\n"
    assert "At most 1 step for 1 script, about 1 minute in all" in said.out


CAPS = {"gateway": Cap(cores=0.38, mib=448, containers=1)}


def used(**cores: float) -> dict[str, Cores]:
    return {name: Cores(mean=mean, peak=mean) for name, mean in cores.items()}


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (Load(), "unknown: no process could be seen"),
        (Load(cpu=used(k6=0.3)), "unknown: only k6 runs where it can be seen"),
        (Load(cpu=used(k6=1.9)), "the machine is full (1.90 of the machine's 2 cores in use)"),
        (
            Load(cpu=used(gateway=0.37, redis=0.2), throttled={"gateway": 0.6, "redis": 0.1}),
            "gateway: its cap of 0.38 cores held it up in 60 % of the time",
        ),
        (Load(cpu=used(gateway=0.9, k6=0.2)), "gateway: its core is full (0.90"),
        # MariaDB has many threads, and so no core of its own.
        (Load(cpu=used(mariadb=0.9, gateway=0.3)), "no processor is full (1.20"),
        (
            Load(cpu=used(mariadb=1.1, gateway=0.5, k6=0.3)),
            "the machine is full (1.90 of the machine's 2 cores in use), most of it by mariadb",
        ),
        (
            Load(cpu=used(gateway=0.6, k6=1.2)),
            "the machine is full (1.80 of the machine's 2 cores in use), most of it by k6",
        ),
        (
            Load(cpu=used(gateway=0.2), other_cores=1.6),
            "the machine is full (1.80 of the machine's 2 cores in use), most of it by anything",
        ),
        (Load(cpu=used(gateway=0.2)), "no processor is full (0.20"),
    ],
)
def test_names_what_was_short(load: Load, words: str) -> None:
    assert capacity.bottleneck(load, CAPS, cores=2).startswith(words)


def test_two_gateways_fill_two_cores() -> None:
    load = Load(cpu=used(gateway=0.9))
    two = {"gateway": Cap(cores=2.0, mib=448, containers=2)}
    assert "core is full" in capacity.bottleneck(load, {}, 1, cores=4)
    assert "core is full" not in capacity.bottleneck(load, {}, 2, cores=4)
    assert "core is full" not in capacity.bottleneck(load, two, 1, cores=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FIRST_USERS": "0"}, "FIRST_USERS must be"),
        ({"STEP_SECONDS": "x"}, "STEP_SECONDS must"),
        ({"FIRST_USERS": "7000"}, "FIRST_USERS (7,000) must not be more than MOST_USERS (6,400)"),
        ({"MAX_WAIT_SECONDS": "-1"}, "journey: MAX_WAIT_SECONDS must be"),
        ({"SCRIPT": "lunch"}, "no script 'lunch'"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    settings: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(capacity, "opened", None)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run_app(app, ["capacity"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
