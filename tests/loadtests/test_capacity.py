"""The search for the most users: how it closes in, what it survives, what it blames."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import run_app
from harness.errors import UserError
from loadtests import capacity, scripts
from loadtests.capacity import Search
from loadtests.cli import app
from loadtests.model import Cap, Capacity, Cores, Found, Load, Script, Step, System
from tests.loadtests.figures import STATS, a_result, a_script


def searched(limit: int, search: Search) -> list[Found]:
    """What is known after each step of a search in a system that serves `limit` users."""

    def step(users: int) -> Step:
        return capacity.step_of(users, a_script(), "" if users <= limit else "p99 999 ms", {})

    return list(search.run(step))


@pytest.mark.parametrize("limit", [0, 5, 9, 70, 199, 200, 201, 1_000, 1_599, 6_400, 10**6])
@pytest.mark.parametrize("first", [1, 10, 200, 1_600, 6_400])
def test_closes_in(limit: int, first: int) -> None:
    """To within a quarter, or within ten users, between nobody and the most."""
    found = searched(limit, Search(first=first))
    last, limit = found[-1], min(limit, 6_400)
    assert last.users <= limit
    doubled_to = first * 2 ** ((6_400 // first).bit_length() - 1)
    assert limit <= last.users * 1.25 or limit - last.users <= 10 or last.users == doubled_to
    assert last.stopped_by == ("p99 999 ms" if last.users < doubled_to else "the end of the search")
    assert last.bottleneck.startswith("no processor is full (0.31 of the machine's")
    assert [step.users for step in last.steps] == sorted(step.users for step in last.steps)
    # What is known so far comes after each step.
    assert [len(each.steps) for each in found] == list(range(1, len(found) + 1))


def test_all_scripts_end_within_half_an_hour() -> None:
    search = Search()
    steps = max(len(searched(limit, search)) for limit in range(0, search.most + 1, 10))
    # 12 s to prepare people and to let them leave.
    assert len(scripts.NAMES) * steps * (search.rise_seconds + search.seconds + 12) <= 30 * 60


def test_what_is_known_in_words() -> None:
    _, second, *_, last = searched(100, Search(first=100))
    assert capacity.so_far(None) == "step 1"
    assert capacity.so_far(second) == "step 3, so far 100 users held and 200 did not"
    assert capacity.summary(last).startswith(
        "100 users, 61.7 requests/s, p99 20 ms; then p99 999 ms; no processor is full"
    )


def run(
    target: object,
    room: object,
    name: str,
    wanted: int | None,
    folder: Path,
    environ: Mapping[str, str],
) -> Script:
    """A system that serves 300 users, and cannot be measured with `pay` at all."""
    assert environ["CONCERTS"] == "100"
    users = int(environ["STAGES"].rpartition(":")[2])
    if name == "pay":
        raise UserError("Seats cannot be held.")
    if name == "enqueue" and users > 200:
        raise UserError("The waiting room does not answer.")
    if users > 300:
        raise scripts.GaveUp(f"{name}: no place in the queue.")
    return a_script(name)


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    system = System.model_validate(a_result().model_dump(include=set(System.model_fields)))
    target = SimpleNamespace(base_url="http://shop")
    monkeypatch.setattr(capacity, "opened", lambda environ, seed: nullcontext(target))
    monkeypatch.setattr(capacity, "system_of", lambda target: system)
    monkeypatch.setattr(capacity, "Room", nullcontext)
    monkeypatch.setattr(capacity, "run", run)
    monkeypatch.setattr(capacity, "REPOSITORY", tmp_path)
    monkeypatch.setattr(capacity, "RESULTS", tmp_path / "results")
    return tmp_path


def test_a_script_that_cannot_be_measured_leaves_the_others(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRIPT", "pay,order,enqueue")
    assert run_app(app, ["capacity"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "frontrow: pay is not done: Seats cannot be held.\n"
        "frontrow: enqueue is not done: The waiting room does not answer.\n"
    )
    assert "script 3 of 3, step 2, so far 200 users held" in said.out
    (file,) = faked.glob("results/*/capacity.json")
    found = Capacity.read(file)
    assert found.missing.keys() == {"pay", "enqueue"}
    assert found.scripts.keys() == {"order", "enqueue"}
    # What was found before a step failed is kept.
    assert found.scripts["enqueue"].users == 200
    order = found.scripts["order"]
    assert (order.users, order.stopped_by) == (300, "no place in the queue")
    # A step that k6 ended did not hold, and the search went on.
    assert [each.users for each in order.steps if not each.passed] == [350, 400]
    assert order.bottleneck == "unknown: no process could be seen"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration": None}, "no request was made"),
        ({"duration": STATS | {"p99": 999.0}}, "p99 999 ms"),
        ({"wrong": 38}, "38 wrong replies"),
        ({"thresholds": {"dropped_iterations count==0": False}}, "dropped_iterations count==0"),
    ],
)
def test_why_a_step_did_not_hold(changes: dict[str, Any], words: str) -> None:
    assert capacity.reason(a_script(passed=False, **changes)) == words


def test_nothing_found_is_one_sentence(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SCRIPT": "pay", "FIRST_USERS": "10", "MOST_USERS": "10"}.items():
        monkeypatch.setenv(name, value)
    assert run_app(app, ["capacity"]) == 2
    assert capsys.readouterr().err == "frontrow: Seats cannot be held.\n"


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
