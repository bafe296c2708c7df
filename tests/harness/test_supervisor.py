"""Deaths and restarts under `make run`, and that it runs once."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness import stopping
from harness.errors import UserError
from harness.local import Ports, Process, Stack, supervisor
from harness.local.supervisor import Watcher


def crash(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = Process(
        "sleeper",
        ["sleep", "60"],
        probe=lambda: True,
        log_path=tmp_path / "log",
        stopping=threading.Event(),
    )
    process.start()
    yield process
    process.kill()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def watcher(sleeper: Process, output: io.StringIO) -> Watcher:
    return Watcher([sleeper], Console(file=output, width=200))


def test_a_death_is_reported_and_the_process_restarted(
    sleeper: Process, watcher: Watcher, output: io.StringIO
) -> None:
    crash(sleeper)
    deadline = time.monotonic() + 30
    while "serves again" not in output.getvalue():
        assert time.monotonic() < deadline
        watcher.check(sleeper)
        time.sleep(0.02)
    assert "sleeper died (killed by SIGKILL; log: " in output.getvalue()
    assert sleeper.running


def test_a_process_that_was_stopped_stays_stopped(
    sleeper: Process, watcher: Watcher, output: io.StringIO
) -> None:
    sleeper.stop()
    watcher.check(sleeper)
    assert output.getvalue() == ""
    assert not sleeper.running


def test_a_process_that_keeps_dying_is_given_up(
    sleeper: Process, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.0)
    for _ in range(supervisor._MAX_DEATHS):
        crash(sleeper)
        watcher.check(sleeper)  # notes the death
        watcher.check(sleeper)  # restarts it
    crash(sleeper)
    with pytest.raises(UserError, match="died 6 times"):
        watcher.check(sleeper)


@pytest.mark.parametrize(
    ("environ", "refused"),
    [
        ({"GATEWAY_LISTEN": "0.0.0.0:8080"}, True),
        ({"GATEWAY_LISTEN": "[::]:8080", "PAYMENT_PROVIDER": ""}, True),
        ({"GATEWAY_LISTEN": "shop.example:8080"}, True),
        ({"GATEWAY_LISTEN": "0.0.0.0:8080", "PAYMENT_PROVIDER": "sandbox"}, False),
        ({"GATEWAY_LISTEN": "127.0.0.2:8080"}, False),
        ({"GATEWAY_LISTEN": "[::1]:8080"}, False),
        ({}, False),
    ],
)
def test_a_shop_for_others_needs_a_payment_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], refused: bool
) -> None:
    class Passed(Exception):
        pass

    def require_free(_: Ports) -> None:
        raise Passed

    monkeypatch.setattr(supervisor, "LOCAL", tmp_path)
    monkeypatch.setattr(Ports, "require_free", require_free)
    with pytest.raises(UserError if refused else Passed) as raised:
        supervisor.run(environ)
    if refused:
        assert str(raised.value) == (
            "PAYMENT_PROVIDER must be http, or sandbox, which approves nearly everything and moves"
            f" no money, because GATEWAY_LISTEN={environ['GATEWAY_LISTEN']} is no loopback address."
        )


@pytest.mark.parametrize(
    ("settings", "documented", "purchase"),
    [
        ({}, True, True),
        ({"GATEWAY_DOCUMENTATION": "0"}, False, True),
        ({"GATEWAY_DOCUMENTATION": "TRUE", "GATEWAY_IDENTITY": "jwt"}, True, False),
        ({"GATEWAY_CHALLENGE": "altcha"}, True, False),
    ],
)
def test_prints_only_what_works(settings: dict[str, str], documented: bool, purchase: bool) -> None:
    text = supervisor.banner("http://127.0.0.1:8080", settings)
    assert "Frontrow serves on http://127.0.0.1:8080" in text
    assert ("/docs" in text, "curl" in text) == (documented, purchase)
    assert "make stop" in text
    assert "Admin API" not in text


def test_says_how_to_get_a_key() -> None:
    settings = {"GATEWAY_ADMIN_LISTEN": "127.0.0.1:8081"}
    text = supervisor.banner("http://127.0.0.1:8080", settings)
    assert "http://127.0.0.1:8081" in text
    assert "make key NAME=" in text


@pytest.mark.parametrize(("status", "damaged"), [(2, False), (1, True), (None, True)])
def test_only_a_failure_that_data_can_cause_mentions_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, damaged: bool
) -> None:
    stack = Stack(tmp_path, Ports.free())
    monkeypatch.setattr(Process, "exit_code", status)
    assert ("make clean" in supervisor._advice(stack)) == damaged


def test_only_one_runs_from_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOCAL", tmp_path)
    (tmp_path / "supervisor.lock").write_text("1")  # left by one that was killed
    assert supervisor.running_pid() is None
    with supervisor._only_one():
        assert supervisor.running_pid() == os.getpid()
        with pytest.raises(UserError, match=f"running already \\(process {os.getpid()}\\)"):
            supervisor.clean()
    assert supervisor.running_pid() is None
    assert supervisor.stop_running() == 0


def test_the_log_of_a_running_process_is_kept_short(
    sleeper: Process, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        raise stopping.Stopped(signal.SIGTERM)

    monkeypatch.setattr("harness.local.process._LOG_LIMIT", 10)
    monkeypatch.setattr(stopping, "wait", stop)
    sleeper.log_path.write_text("x" * 11)
    with pytest.raises(stopping.Stopped):
        watcher.watch()
    assert sleeper.log_path.read_text() == ""
    assert sleeper.running


@pytest.mark.parametrize(
    ("seed", "megabytes", "refusal"),
    [
        ("full", 620, None),
        (
            "full",
            619,
            "with SEED=full needs 620 MB: free some space, or start with SEED=small, which needs"
            " 260 MB.",
        ),
        ("small", 260, None),
        ("small", 259, "with SEED=small needs 260 MB: free some space."),
        ("none", 260, None),
        ("none", 259, "with SEED=none needs 260 MB: free some space."),
    ],
)
def test_a_first_start_needs_room_for_its_seed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seed: str,
    megabytes: int,
    refusal: str | None,
) -> None:
    class Started(Exception):
        pass

    def start(*_: object) -> None:
        raise Started

    usage = SimpleNamespace(free=megabytes * 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(supervisor, "LOCAL", tmp_path)
    monkeypatch.setattr(Ports, "from_environ", lambda _: Ports.free())
    monkeypatch.setattr(supervisor, "_start", start)
    if refusal is None:
        with pytest.raises(Started):
            supervisor.run({"SEED": seed})
        return
    with pytest.raises(UserError) as refused:
        supervisor.run({"SEED": seed})
    assert str(refused.value) == (
        f"Only {megabytes} MB are free on the disk of {tmp_path}, and a first start {refusal}"
    )
    # With the data of an earlier start it is only a start.
    (tmp_path / "data" / "mariadb").mkdir(parents=True)
    with pytest.raises(Started):
        supervisor.run({"SEED": seed})
