"""How a run ends that is not all well: its exit status, what it leaves, what it puts back."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from harness.cli import run_app
from harness.local.ports import Ports, free_ports, setting_of
from harness.local.stack import Stack
from harness.local.supervisor import LOCAL
from loadtests import scripts, verify
from loadtests.cli import app
from loadtests.model import Result
from loadtests.opening import target_of

_UNSET = ("PROFILE", "SCRIPT", "SEED", "STAGES", "BASE_URL", "GATEWAY_LISTEN")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("attached"),
        Ports.free(),
        program_env={"gateway": {"GATEWAY_DRAIN_ANNOUNCE_SECONDS": "0.2"}},
    )
    with stack:
        stack.start(seed="small")
        yield stack
        killed = stack.stop()
    assert killed == [], "these did not stop when asked"


@pytest.fixture
def attached(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a run of one script against the stack."""
    ports = {setting_of(name): str(port) for name, port in stack.ports.numbers.items()}
    target = target_of(stack)
    urls = {f"{name.upper()}_MYSQL_URL": url for name, url in target.mysql_urls.items()}
    settings = {
        **ports,
        **urls,
        "BASE_URL": target.base_url,
        "QUEUE_REDIS_URL": target.redis_url,
        "QUEUE_KAFKA_BOOTSTRAP": target.kafka_bootstrap,
        "QUEUE_LISTEN": target.queue_addr,
        "PROFILE": "smoke",
        "SCRIPT": "concerts",
        "STAGES": "200ms:3,600ms:3,200ms:0",
    }
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def results(repository: Path) -> Iterator[Path]:
    """Where results go; those of the test are deleted."""
    folder = repository / "results" / "loadtest"
    before = set(folder.glob("*"))
    yield folder
    for made in set(folder.glob("*-smoke")) - before:
        shutil.rmtree(made)


def newest(results: Path) -> Path:
    return max(results.glob("*-smoke"))


def saved(results: Path) -> Result:
    """The newest result."""
    return Result.read(newest(results) / "result.json")


@dataclasses.dataclass(frozen=True)
class Ended:
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
        said = capsys.readouterr()
        print(said.out, said.err)  # for whoever reads why the test failed
        return Ended(status, said.out, said.err)

    return run_with


def capacity(stack: Stack) -> int:
    with redis.Redis.from_url(stack.redis_url) as connection:
        return int(connection.hget("{queue:main}:state", "capacity") or 0)


def inside(stack: Stack) -> set[bytes]:
    """Everybody who has a place."""
    with redis.Redis.from_url(stack.redis_url) as connection:
        return set(connection.hkeys("{queue:main}:users"))


def test_a_broken_threshold_is_status_1(run_with: RunWith, results: Path) -> None:
    ended = run_with(MAX_AVG_MS="0.001")
    assert ended.status == 1
    assert "THRESHOLDS BROKEN" in ended.out
    result = saved(results)
    assert not result.passed
    assert set(result.invariants.values()) == {0}
    assert result.scripts[0].room.samples > 0


def test_a_journey_in_which_nobody_is_let_in_is_status_1(run_with: RunWith, results: Path) -> None:
    assert run_with(SCRIPT="journey", CAPACITY="0", MAX_WAIT_SECONDS="1").status == 1
    (script,) = saved(results).scripts
    assert script.wrong == 0
    assert script.counted.journeys_bought == 0
    assert not script.thresholds["journeys_bought count>=1"]


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
    target = target_of(stack)
    # No seat that is for sale: one of those may be held.
    seat = 1_000_000_000
    with target.database("reservation") as cursor:
        cursor.execute(
            """INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status,
                held_until, lapses_at, created_at, updated_at)
            VALUES (1, %s, 1, 'A1', 1, 'CONFIRMED', NOW(6), NOW(6), NOW(6), NOW(6))""",
            (seat,),
        )
    try:
        ended = run_with()
    finally:
        with target.database("reservation") as cursor:
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
            so_far = saved(results)
            assert [each.name for each in so_far.scripts] == ["concerts"]
            raise scripts.GaveUp("seats: The sky has fallen.")
        return real(script, *rest)

    monkeypatch.setattr(scripts, "run", second_gives_up)
    before = capacity(stack)
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
    assert capacity(stack) == before


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
    ("setting", "message"),
    [
        ("QUEUE_REDIS_URL", "set QUEUE_REDIS_URL to the one behind that gateway"),
        ("QUEUE_LISTEN", "set QUEUE_LISTEN to where queue_service is"),
    ],
)
def test_the_waiting_room_of_another_system_is_refused(
    stack: Stack, run_with: RunWith, setting: str, message: str
) -> None:
    others = {
        "QUEUE_REDIS_URL": stack.redis_url.removesuffix("/0") + "/1",
        "QUEUE_LISTEN": stack.address("concert_service"),
    }
    before = inside(stack)
    ended = run_with(**{setting: others[setting]})
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert inside(stack) <= before, "who looked has left"


# --- stopped from outside --------------------------------------------------------------------


class Started:
    """A run of its own process, and all that it has started so far."""

    def __init__(self, repository: Path, environ: dict[str, str]) -> None:
        self.pids: set[int] = set()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.cli", "loadtest"],
            cwd=repository,
            env={k: v for k, v in os.environ.items() if k not in _UNSET} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            self.lines.extend(output)

    def wait_for(self, *names: str, seconds: float = 120) -> None:
        """Until programs with these names run below it."""
        deadline = time.monotonic() + seconds
        while not set(names) <= set(self._below()):
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.05)

    def _below(self) -> Sequence[str]:
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.pids |= {each.pid for each in below}
        names = []
        for each in below:
            try:
                names.append(each.name())
            except psutil.NoSuchProcess:
                continue
        return names

    def end(self, seconds: float = 90) -> int:
        """Its exit status, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                # Or it would be the failure of a later test too.
                self.process.kill()
                self.process.wait(10)
                pytest.fail(f"still running: {self.lines}")
            self._below()
            time.sleep(0.05)
        self._reader.join(5)
        return self.process.returncode

    def left(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid)]


def test_the_end_of_the_terminal_puts_the_waiting_room_back(
    stack: Stack, attached: dict[str, str], results: Path, repository: Path
) -> None:
    before = capacity(stack)
    started = Started(repository, attached | {"STAGES": "90s:2"})
    started.wait_for("k6")
    deadline = time.monotonic() + 20
    while capacity(stack) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert capacity(stack) != before
    started.process.send_signal(signal.SIGHUP)
    assert started.end() == 128 + signal.SIGHUP
    assert started.lines[-1] == "frontrow: Stopped.\n"
    assert started.left() == []
    assert capacity(stack) == before


@pytest.fixture
def unattached() -> Iterator[dict[str, str]]:
    """The environment of a run that starts a stack of its own, of which nothing may be left."""
    before = set(LOCAL.glob("loadtest-*"))
    yield {
        "PROFILE": "smoke",
        "SCRIPT": "concerts",
        # Where no gateway answers, so that a system that runs here is left alone.
        setting_of("gateway"): str(free_ports(1)[0]),
    }
    assert set(LOCAL.glob("loadtest-*")) <= before


@pytest.mark.timeout(240)
def test_ctrl_c_leaves_nothing_of_a_stack_of_our_own(
    unattached: dict[str, str], repository: Path, results: Path
) -> None:
    started = Started(repository, unattached | {"STAGES": "90s:2"})
    started.wait_for("k6", "mariadbd", "redis-server", "java")
    assert len(started.pids) > 8
    started.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    started.process.send_signal(signal.SIGINT)  # of somebody impatient
    assert started.end() == 128 + signal.SIGINT
    assert started.left() == []


@pytest.mark.timeout(240)
def test_a_stack_that_does_not_start_is_one_sentence(
    unattached: dict[str, str], repository: Path
) -> None:
    started = Started(repository, unattached | {"QUEUE_CAPACITY": "many"})
    assert started.end(200) == 2
    assert [line for line in started.lines if line.startswith("frontrow: ")], started.lines
    assert "Traceback" not in "".join(started.lines[-3:])
    assert started.left() == []
