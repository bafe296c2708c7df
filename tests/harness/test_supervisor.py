"""Deaths and restarts under `make run`, and that it runs once."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from harness.errors import UserError
from harness.local import Process, Stack, supervisor
from harness.local.supervisor import Watcher


class Sleeper(Process):
    def command(self, module: str | None) -> Sequence[str]:
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    def probe(self) -> bool:
        return True

    def crash(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait(30)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    process = Sleeper("sleeper", log_path=tmp_path / "log", stopping=threading.Event())
    process.start()
    yield process
    process.kill()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def watcher(sleeper: Sleeper, output: io.StringIO) -> Watcher:
    stack = SimpleNamespace(processes=lambda: [sleeper])
    return Watcher(cast(Stack, stack), Console(file=output, width=200))


def test_a_death_is_reported_and_the_process_restarted(
    sleeper: Sleeper, watcher: Watcher, output: io.StringIO
) -> None:
    sleeper.crash()
    deadline = time.monotonic() + 30
    while "serves again" not in output.getvalue():
        assert time.monotonic() < deadline
        watcher.check(sleeper)
        time.sleep(0.02)
    assert "sleeper died (killed by SIGKILL; log: " in output.getvalue()
    assert sleeper.running


def test_a_process_that_was_stopped_stays_stopped(
    sleeper: Sleeper, watcher: Watcher, output: io.StringIO
) -> None:
    sleeper.stop()
    watcher.check(sleeper)
    assert output.getvalue() == ""
    assert not sleeper.running


def test_a_process_that_keeps_dying_is_given_up(
    sleeper: Sleeper, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.0)
    for _ in range(supervisor._MAX_DEATHS):
        sleeper.crash()
        watcher.check(sleeper)  # notes the death
        watcher.check(sleeper)  # restarts it
    sleeper.crash()
    with pytest.raises(UserError, match="died 6 times"):
        watcher.check(sleeper)


def test_only_one_runs_from_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOCAL", tmp_path)
    monkeypatch.setattr(supervisor, "_LOCK", tmp_path / "supervisor.lock")
    (tmp_path / "supervisor.lock").write_text("1")  # left by one that was killed
    assert supervisor.running_pid() is None
    with supervisor._only_one():
        assert supervisor.running_pid() == os.getpid()
        with pytest.raises(UserError, match=f"running already \\(process {os.getpid()}\\)"):
            supervisor.clean()
    assert supervisor.running_pid() is None
    assert supervisor.stop_running() == 0
