"""How a run ends that is not all well: its exit status, what it leaves, what it puts back."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from deploy.local.ports import Ports, free_ports, setting_of
from deploy.local.stack import Stack
from deploy.local.supervisor import LOCAL
from loadtests import k6, run, verify
from loadtests.target import Target

_UNSET = ("PROFILE", "SCRIPT", "SEED", "STAGES", "BASE_URL", "GATEWAY_LISTEN")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("attached"), Ports.free())
    with stack:
        stack.start(seed="small")
        yield stack
        killed = stack.stop()
    assert killed == [], "these did not stop when asked"


@pytest.fixture
def attached(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that leads to the stack."""
    ports = {setting_of(name): str(port) for name, port in dataclasses.asdict(stack.ports).items()}
    settings = ports | {
        "BASE_URL": stack.gateway_url,
        "CONCERT_MYSQL_URL": stack.mysql_url("concert"),
        "RESERVATION_MYSQL_URL": stack.mysql_url("reservation"),
        "PAYMENT_MYSQL_URL": stack.mysql_url("payment"),
        "QUEUE_REDIS_URL": stack.redis_url,
        "QUEUE_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "QUEUE_LISTEN": stack.address("queue_service"),
        "PROFILE": "smoke",
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


def newest(results: Path) -> dict[str, Any]:
    folder = max(results.glob("*-smoke"))
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def capacity(stack: Stack) -> int:
    with redis.Redis.from_url(stack.redis_url) as connection:
        return int(connection.hget("{queue:main}:state", "capacity") or 0)


def inside(stack: Stack) -> set[bytes]:
    """Everybody who has a place."""
    with redis.Redis.from_url(stack.redis_url) as connection:
        return set(connection.hkeys("{queue:main}:users"))


def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "settled", verify.count)


def test_a_broken_threshold_is_status_1(
    attached: dict[str, str],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SCRIPT", "concerts")
    monkeypatch.setenv("MAX_AVG_MS", "0.001")
    assert run.main() == 1
    assert "THRESHOLDS BROKEN" in capsys.readouterr().out
    result = newest(results)
    assert not result["passed"]
    assert set(result["invariants"].values()) == {0}
    assert result["scripts"][0]["room"]["samples"] > 0


def test_a_journey_in_which_nobody_is_let_in_is_status_1(
    attached: dict[str, str], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SCRIPT": "journey", "CAPACITY": "0", "MAX_WAIT_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run.main() == 1
    (script,) = newest(results)["scripts"]
    assert script["wrong"] == 0
    assert script["counted"]["journeys_bought"] == 0
    assert not script["thresholds"]["journeys_bought count>=1"]


def test_people_who_do_not_fit_into_setup_are_ready_before(
    attached: dict[str, str], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPT", "order,reserve,pay")
    monkeypatch.setenv("PREPARED_MEGABYTES", "0")
    assert run.main() == 0
    for script in newest(results)["scripts"]:
        assert "prepared_late" not in script["counted"]
        assert script["requests"] > 0


def test_a_violation_is_status_1(
    stack: Stack,
    attached: dict[str, str],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SCRIPT", "concerts")
    settled_at_once(monkeypatch)
    target = an_own(stack)
    with target.database("reservation") as cursor:
        cursor.execute(
            """INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status,
                held_until, lapses_at, created_at, updated_at)
            VALUES (1, 1, 1, 'A1', 1, 'CONFIRMED', NOW(6), NOW(6), NOW(6), NOW(6))"""
        )
    try:
        assert run.main() == 1
    finally:
        with target.database("reservation") as cursor:
            cursor.execute("DELETE FROM reservation WHERE seat_id = 1")
    assert "confirmed and not charged   VIOLATED" in capsys.readouterr().out
    assert all(script["passed"] for script in newest(results)["scripts"])


def an_own(stack: Stack) -> Target:
    return Target(
        base_url=stack.gateway_url,
        mysql_urls={"reservation": stack.mysql_url("reservation")},
        redis_url=stack.redis_url,
        kafka_bootstrap=stack.kafka_bootstrap,
        queue_addr=stack.address("queue_service"),
        ports=stack.ports,
        own=True,
    )


def test_what_was_measured_before_a_script_failed_is_verified_and_reported(
    stack: Stack,
    attached: dict[str, str],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = k6.run

    def second_gives_up(script: str, *rest: Any) -> dict[str, Any]:
        if script == "seats":
            saved = newest(results)
            assert [each["name"] for each in saved["scripts"]] == ["concerts"]
            raise k6.GaveUp("seats: The sky has fallen.")
        return real(script, *rest)

    monkeypatch.setattr(k6, "run", second_gives_up)
    monkeypatch.setenv("SCRIPT", "concerts,seats,order")
    before = capacity(stack)
    assert run.main() == 2
    said = capsys.readouterr()
    assert "frontrow: seats is missing: seats: The sky has fallen." in said.err
    assert "frontrow: order is missing: not run after seats failed" in said.err
    result = newest(results)
    assert not result["passed"]
    assert [script["name"] for script in result["scripts"]] == ["concerts"]
    assert result["missing"]["seats"] == "seats: The sky has fallen."
    assert result["invariants"]
    page = (max(results.glob("*-smoke")) / "report.html").read_text()
    assert "The sky has fallen." in page
    assert capacity(stack) == before


def test_what_cannot_be_verified_is_said(
    attached: dict[str, str],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SCRIPT", "concerts")
    monkeypatch.setenv("PAYMENT_MYSQL_URL", attached["CONCERT_MYSQL_URL"])
    assert run.main() == 2
    assert "frontrow: Not verified: The database payment at" in capsys.readouterr().err
    result = newest(results)
    assert result["unverified"]
    assert not result["passed"]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("QUEUE_REDIS_URL", "set QUEUE_REDIS_URL to the one behind that gateway"),
        ("QUEUE_LISTEN", "set QUEUE_LISTEN to where queue_service is"),
    ],
)
def test_the_waiting_room_of_another_system_is_refused(
    stack: Stack,
    attached: dict[str, str],
    setting: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = {
        "QUEUE_REDIS_URL": stack.redis_url.removesuffix("/0") + "/1",
        "QUEUE_LISTEN": stack.address("concert_service"),
    }
    monkeypatch.setenv(setting, others[setting])
    before = inside(stack)
    assert run.main() == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert inside(stack) <= before, "who looked has left"


# --- stopped from outside --------------------------------------------------------------------


class Started:
    """A run of its own process, and all that it has started so far."""

    def __init__(self, repository: Path, environ: dict[str, str]) -> None:
        self.pids: set[int] = set()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.run"],
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
    started = Started(repository, attached | {"SCRIPT": "concerts", "STAGES": "90s:2"})
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


@pytest.mark.timeout(240)
def test_ctrl_c_leaves_nothing_of_a_stack_of_our_own(repository: Path, results: Path) -> None:
    before = set(LOCAL.glob("loadtest-*"))
    started = Started(repository, an_own_stack() | {"STAGES": "90s:2"})
    started.wait_for("k6", "mariadbd", "redis-server", "java")
    assert len(started.pids) > 8
    started.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    started.process.send_signal(signal.SIGINT)  # of somebody impatient
    assert started.end() == 128 + signal.SIGINT
    assert started.left() == []
    assert set(LOCAL.glob("loadtest-*")) <= before


@pytest.mark.timeout(240)
def test_a_stack_that_does_not_start_is_one_sentence(repository: Path) -> None:
    before = set(LOCAL.glob("loadtest-*"))
    started = Started(repository, an_own_stack() | {"QUEUE_CAPACITY": "many"})
    assert started.end(200) == 2
    assert [line for line in started.lines if line.startswith("frontrow: ")], started.lines
    assert "Traceback" not in "".join(started.lines[-3:])
    assert started.left() == []
    assert set(LOCAL.glob("loadtest-*")) <= before


def an_own_stack() -> dict[str, str]:
    return {
        "PROFILE": "smoke",
        "SCRIPT": "concerts",
        # Where no gateway answers, so that a system that runs here is left alone.
        setting_of("gateway"): str(free_ports(1)[0]),
    }
