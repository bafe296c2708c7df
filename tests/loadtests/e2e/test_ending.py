"""How a run ends that is not all well: its exit status, what it leaves, what it puts back."""

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from harness.cli import run_app
from harness.local.ports import Ports, setting_of
from harness.local.stack import Stack
from loadtests import scripts, verify
from loadtests.cli import app
from loadtests.model import Result
from loadtests.opening import target_of
from tests.loadtests.e2e.conftest import UNSET, Start


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("attached"),
        Ports.free(),
        program_env={
            "gateway": {"GATEWAY_DRAIN_ANNOUNCE_SECONDS": "0.2", "GATEWAY_ENFORCE_PACE": "false"}
        },
    )
    with stack:
        stack.start(seed="small")
        yield stack
        killed = stack.stop()
    assert killed == [], "these did not stop when asked"


@pytest.fixture
def attached(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a run of one script against the stack; ours until the test ends."""
    target = target_of(stack)
    settings = {
        **{setting_of(name): str(port) for name, port in stack.ports.numbers.items()},
        **{f"{name.upper()}_MYSQL_URL": url for name, url in target.mysql_urls.items()},
        "BASE_URL": target.base_url,
        "QUEUE_REDIS_URL": target.redis_url,
        "QUEUE_ADMIN_TOKEN": target.admin_token,
        "QUEUE_KAFKA_BOOTSTRAP": target.kafka_bootstrap,
        "QUEUE_LISTEN": target.queue_addr,
        "PROFILE": "smoke",
        "SCRIPT": "concerts",
        "STAGES": "200ms:3,600ms:3,200ms:0",
    }
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


def newest(results: Path) -> Path:
    return max(results.glob("*-smoke"))


def saved(results: Path) -> Result:
    """The newest result."""
    return Result.read(newest(results) / "result.json")


class Ended(NamedTuple):
    """A run that has ended, and what it printed."""

    status: int
    out: str
    err: str


RunWith = Callable[..., Ended]


@pytest.fixture
def run_with(
    attached: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunWith:
    """Runs it against the stack, with these settings beside those of `attached`."""

    def run_with(**settings: str) -> Ended:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        status = run_app(app, ["loadtest"])
        return Ended(status, *capsys.readouterr())

    return run_with


def in_room(stack: Stack) -> tuple[int, set[bytes]]:
    """The capacity of the waiting room, and everybody who has a place."""
    with redis.Redis.from_url(stack.redis_url) as connection:
        capacity = connection.hget("{queue:main}:state", "capacity")
        return int(capacity or 0), set(connection.hkeys("{queue:main}:users"))


def test_a_broken_threshold_is_status_1(run_with: RunWith, results: Path) -> None:
    ended = run_with(MAX_AVG_MS="0.001")
    assert ended.status == 1
    assert "BROKEN: avg<0.001" in ended.out
    result = saved(results)
    assert not result.passed
    assert set(result.invariants.values()) == {0}
    assert result.scripts[0].room.samples > 0


def test_people_who_do_not_fit_into_setup_are_ready_before(
    run_with: RunWith, results: Path
) -> None:
    assert run_with(SCRIPT="order,reserve,pay", PREPARED_MEGABYTES="0").status == 0
    for script in saved(results).scripts:
        assert script.counted.prepared_late is None
        assert script.requests > 0


def test_a_violation_is_status_1(
    stack: Stack, run_with: RunWith, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At once: nothing will put it right.
    monkeypatch.setattr(verify, "settled", partial(verify.settled, within=0))
    # No seat that is for sale: one of those may be held.
    seat = 1_000_000_000
    with target_of(stack).database("reservation") as cursor:
        cursor.execute(
            """INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status,
                held_until, lapses_at, created_at, updated_at)
            VALUES (1, %s, 1, 'A1', 1, 'CONFIRMED', NOW(6), NOW(6), NOW(6), NOW(6))""",
            (seat,),
        )
        try:
            ended = run_with()
        finally:
            cursor.execute("DELETE FROM reservation WHERE seat_id = %s", (seat,))
    assert ended.status == 1
    assert "seats_without_a_charge   VIOLATED" in ended.out
    assert all(script.passed for script in saved(results).scripts)


def test_what_was_measured_before_a_script_failed_is_verified_and_reported(
    stack: Stack, run_with: RunWith, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scripts.run

    def second_gives_up(script: str, *rest: Any) -> scripts.Ran:
        if script == "seats":
            assert [each.name for each in saved(results).scripts] == ["concerts"]
            raise scripts.GaveUp("seats: The sky has fallen.")
        return real(script, *rest)

    monkeypatch.setattr(scripts, "run", second_gives_up)
    before, _ = in_room(stack)
    ended = run_with(SCRIPT="concerts,seats,order")
    assert ended.status == 2
    assert "frontrow: seats is missing: seats: The sky has fallen." in ended.err
    assert "frontrow: order is missing: not run after seats failed" in ended.err
    result = saved(results)
    assert not result.passed
    assert [script.name for script in result.scripts] == ["concerts"]
    assert result.missing["seats"] == "seats: The sky has fallen."
    assert result.invariants
    assert "The sky has fallen." in (newest(results) / "report.html").read_text()
    assert in_room(stack)[0] == before


def test_what_cannot_be_verified_is_said(
    attached: dict[str, str], run_with: RunWith, results: Path
) -> None:
    ended = run_with(PAYMENT_MYSQL_URL=attached["CONCERT_MYSQL_URL"])
    assert ended.status == 2
    assert "frontrow: Not verified: The database payment at" in ended.err
    result = saved(results)
    assert result.unverified
    assert not result.passed


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (
            "QUEUE_REDIS_URL",
            lambda stack: stack.redis_url.removesuffix("/0") + "/1",
            "set QUEUE_REDIS_URL to the one behind that gateway",
        ),
        (
            "QUEUE_LISTEN",
            lambda stack: stack.address("concert_service"),
            "set QUEUE_LISTEN to where queue_service is",
        ),
    ],
)
def test_the_waiting_room_of_another_system_is_refused(
    stack: Stack, run_with: RunWith, setting: str, value: Callable[[Stack], str], message: str
) -> None:
    _, before = in_room(stack)
    ended = run_with(**{setting: value(stack)})
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert in_room(stack)[1] <= before, "the user of the check has left"


# --- stopped from outside --------------------------------------------------------------------


def test_the_end_of_the_terminal_puts_the_waiting_room_back(
    stack: Stack, attached: dict[str, str], results: Path, start: Start
) -> None:
    before, _ = in_room(stack)
    started = start(attached | {"STAGES": "90s:2"})
    started.until(lambda: "k6" in started.programs() and in_room(stack)[0] != before)
    started.process.send_signal(signal.SIGHUP)
    assert started.end() == 128 + signal.SIGHUP
    assert started.log.read_text().endswith("\nfrontrow: Stopped.\n")
    assert in_room(stack)[0] == before


@pytest.mark.timeout(240)
def test_ctrl_c_leaves_nothing_of_a_stack_of_our_own(
    unattached: dict[str, str], results: Path, start: Start
) -> None:
    started = start(unattached | {"STAGES": "90s:2"})
    programs = {"k6", "mariadbd", "redis-server", "java"}
    started.until(lambda: programs <= set(started.programs()))
    assert len(started.programs()) > 8
    started.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    started.process.send_signal(signal.SIGINT)  # of somebody impatient
    assert started.end() == 128 + signal.SIGINT


@pytest.mark.timeout(240)
def test_a_stack_that_does_not_start_is_one_sentence(
    unattached: dict[str, str], start: Start
) -> None:
    started = start(unattached | {"QUEUE_CAPACITY": "many"})
    assert started.end(200) == 2
    lines = started.log.read_text().splitlines()
    assert [line for line in lines if line.startswith("frontrow: ")], lines
    assert not [line for line in lines[-3:] if "Traceback" in line]
