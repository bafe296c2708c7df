"""Processes: start, death, stop, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.errors import UserError
from harness.local import Process, process
from harness.local.process import in_parallel, run_to_end

Make = Callable[..., Process]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes the process of a Python script that serves once it has written the file `ready`."""
    made: list[Process] = []

    # Generous: other tests may keep the machine busy.
    def make_one(script: str, start_timeout: float = 30.0, stop_timeout: float = 10.0) -> Process:
        ready = tmp_path / "ready"
        made.append(
            Process(
                "script",
                [sys.executable, "-c", textwrap.dedent(script)],
                prepare=lambda: ready.unlink(missing_ok=True),
                probe=ready.exists,
                log_path=tmp_path / "log",
                cwd=tmp_path,
                stopping=threading.Event(),
                start_timeout=start_timeout,
                stop_timeout=stop_timeout,
            )
        )
        return made[-1]

    yield make_one
    for script in made:
        script.kill()


SERVES = """
    import os, time
    print("mood:", os.environ.get("MOOD"), flush=True)
    open("ready", "w").close()
    time.sleep(60)
"""
IGNORES_SIGTERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("ready", "w").close()
    time.sleep(60)
"""
HAS_A_CHILD = """
    import subprocess, time
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    open("ready", "w").close()
    time.sleep(60)
"""


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.02)


def test_it_starts_stops_and_starts_again_with_another_environment(make: Make) -> None:
    script = make(SERVES)
    script.start(extra_env={"MOOD": "good"})
    first = script.pid
    assert script.wanted
    assert script.stop()
    assert not script.wanted
    assert script.exit_code == -signal.SIGTERM
    script.start()
    assert script.pid != first
    assert "mood: good\nmood: None" in script.log_path.read_text()


def test_a_process_that_ignores_sigterm_is_killed(make: Make) -> None:
    script = make(IGNORES_SIGTERM, stop_timeout=0.3)
    script.start()
    pid = script.pid
    assert not script.stop(), "it reports the kill"
    wait_for_end(pid)


def test_a_process_that_hangs_in_sigstop_can_be_stopped(make: Make) -> None:
    script = make(SERVES)
    script.start()
    script.signal(signal.SIGSTOP)
    assert script.stop()


def test_a_death_while_starting_is_reported_with_the_end_of_the_log(make: Make) -> None:
    reason = r"(?s)script died while starting: exit code 3; its log is .*/log.*no such luck"
    with pytest.raises(UserError, match=reason):
        make("print('no such luck'); raise SystemExit(3)").start()


WRITES_NUMBERED_LINES = """
    import itertools
    open("ready", "w").close()
    for number in itertools.count():
        print(f"{number:09}", flush=True)
"""


class TestTheLog:
    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.local.process._LOG_LIMIT", 100_000)

    def test_is_rotated_while_its_process_writes(self, make: Make) -> None:
        script = make(WRITES_NUMBERED_LINES)
        script.start()
        older = script.log_path.with_name("log.1")
        rotations, last = 0, 0
        deadline = time.monotonic() + 30
        while rotations < 5:
            assert time.monotonic() < deadline
            script.rotate_log()
            lines = older.read_text().splitlines() if older.exists() else []
            if lines and int(lines[-1]) != last:
                rotations, last = rotations + 1, int(lines[-1])
            time.sleep(0.005)
        while len(later := script.log_path.read_text().split()) < 2:
            assert time.monotonic() < deadline
        assert int(later[1]) > last  # the first line may be incomplete
        # The process writes to the start of the emptied file, not beyond a hole of zeros.
        assert b"\0" not in script.log_path.read_bytes()

    def test_and_its_older_part_are_for_the_owner_only(self, tmp_path: Path) -> None:
        path = tmp_path / "some.log"
        path.write_bytes(b"x" * 100_001)
        path.chmod(0o644)
        process.open_log(path).close()
        older = tmp_path / "some.log.1"
        assert (older.stat().st_size, path.stat().st_size) == (100_001, 0)
        assert {file.stat().st_mode & 0o777 for file in (path, older)} == {0o600}

    def test_within_its_limit_is_appended_to(self, tmp_path: Path) -> None:
        path = tmp_path / "logs" / "some.log"
        for _ in range(2):
            with process.open_log(path) as log:
                log.write(b"line\n")
        assert path.read_text() == "line\nline\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_that_cannot_be_copied_is_emptied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("shutil.copyfileobj", fail)
        path = tmp_path / "some.log"
        path.write_bytes(b"x" * 100_001)
        process.open_log(path).close()
        assert list(tmp_path.iterdir()) == [path]
        assert path.stat().st_size == 0

    def test_of_a_death_after_a_rotation_is_quoted(self, make: Make) -> None:
        script = make(f"print('x' * 200_000, flush=True)\n{textwrap.dedent(SERVES)}")
        script.start()
        script.rotate_log()
        with script.log_path.open("ab") as log:
            log.write(b"no such luck\n")
        assert "no such luck" in script.log_tail()


def test_a_process_that_never_serves_is_reported(make: Make) -> None:
    with pytest.raises(UserError, match="does not serve after 0 s"):
        make("import time; time.sleep(60)", start_timeout=0.2).start()


def test_only_a_death_that_we_did_not_cause_is_unexpected(make: Make) -> None:
    script = make(SERVES)
    script.start()
    os.kill(script.pid, signal.SIGKILL)
    assert script.wait(30) == -signal.SIGKILL
    assert script.wanted
    script.start()
    script.kill()
    assert not script.wanted
    assert not script.running


def test_its_children_are_killed_with_it(make: Make) -> None:
    script = make(HAS_A_CHILD)
    script.start()
    child = int(script.log_path.read_text())
    script.stop()
    wait_for_end(child)


def test_nothing_starts_once_the_stack_is_stopping(make: Make) -> None:
    script = make(SERVES)
    script.stopping.set()
    with pytest.raises(UserError, match="stopping"):
        script.start()


# From a thread that ends at once: its end must not kill the child.
SUPERVISOR = """
    import threading, time
    from harness.local.process import spawn
    def start():
        print(spawn(["sleep", "60"], output=None).pid, flush=True)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(60)
"""


def test_children_die_with_a_supervisor_that_is_killed(repository: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SUPERVISOR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        time.sleep(0.2)
        assert psutil.pid_exists(child)
        supervisor.kill()
        wait_for_end(child)


def test_a_step_that_fails_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)Migrating failed \(exit code 4\).*syntax error"):
        run_to_end(
            ["sh", "-c", "echo syntax error; exit 4"],
            what="migrating",
            log_path=tmp_path / "log",
            stopping=threading.Event(),
            timeout=10,
        )


def test_parallel_tasks_all_run_and_the_first_error_is_raised() -> None:
    done: list[int] = []

    def fail(message: str) -> None:
        raise UserError(message)

    tasks = [lambda: done.append(1), lambda: fail("first"), lambda: fail("second")]
    with pytest.raises(UserError, match="first"):
        in_parallel(tasks, threading.Event())
    assert done == [1]
