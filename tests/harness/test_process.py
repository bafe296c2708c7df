from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.local import Process
from harness.local.process import in_parallel, run_to_end


class Script(Process):
    """A Python script that serves once it has written the file `ready`."""

    # Generous: other tests may keep the machine busy.
    start_timeout = 30.0
    stop_timeout = 10.0

    def __init__(self, script: str, directory: Path) -> None:
        super().__init__(
            "script", log_path=directory / "log", cwd=directory, stopping=threading.Event()
        )
        self._script = script
        self._ready = directory / "ready"

    def prepare(self) -> None:
        self._ready.unlink(missing_ok=True)

    def command(self, module: str | None) -> Sequence[str]:
        return [sys.executable, "-c", textwrap.dedent(self._script)]

    def probe(self) -> bool:
        return self._ready.exists()


Make = Callable[[str], Script]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Script] = []

    def make_one(script: str) -> Script:
        made.append(Script(script, tmp_path))
        return made[-1]

    yield make_one
    for script in made:
        script.kill()


SERVES = """
    import os, signal, time
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


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
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


def test_what_ignores_sigterm_is_killed_and_that_is_told(make: Make) -> None:
    script = make(IGNORES_SIGTERM)
    script.stop_timeout = 0.3
    script.start()
    pid = script.pid
    assert not script.stop()
    assert not alive(pid)


def test_what_hangs_in_sigstop_can_be_stopped(make: Make) -> None:
    script = make(SERVES)
    script.start()
    script.signal(signal.SIGSTOP)
    assert script.stop()


def test_a_death_while_starting_is_told_with_the_end_of_the_log(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"(?s)script died while starting: exit code 3.*no such luck"
    ) as e:
        make("print('no such luck'); raise SystemExit(3)").start()
    assert "log" in str(e.value)


def test_one_that_never_serves_is_told(make: Make) -> None:
    script = make("import time; time.sleep(60)")
    script.start_timeout = 0.2
    with pytest.raises(UserError, match="does not serve after 0 s"):
        script.start()


def test_a_kill_is_no_unexpected_death_but_a_crash_is(make: Make) -> None:
    script = make(SERVES)
    script.start()
    os.kill(script.pid, signal.SIGKILL)
    assert script.wait(30) == -signal.SIGKILL
    assert script.wanted
    script.start()
    script.kill()
    assert not script.wanted
    assert not script.running


def test_what_it_started_itself_is_killed_with_it(make: Make) -> None:
    script = make(
        """
        import subprocess, time
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        open("ready", "w").close()
        time.sleep(60)
        """
    )
    script.start()
    grandchild = int(script.log_path.read_text())
    script.stop()
    wait_until(lambda: not alive(grandchild))


def test_nothing_starts_once_the_stack_is_stopping(make: Make) -> None:
    script = make(SERVES)
    script._stopping.set()
    with pytest.raises(UserError, match="stopping"):
        script.start()


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import os, sys, threading, time
                from pathlib import Path
                from harness.local.process import spawn
                # From a thread that ends at once: its end must not take the child along.
                def start():
                    child = spawn(["sleep", "60"], env=os.environ, cwd=Path("."), output=None)
                    print(child.pid, flush=True)
                thread = threading.Thread(target=start)
                thread.start()
                thread.join()
                time.sleep(60)
                """
            ),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        time.sleep(0.2)
        assert alive(child)
        supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not alive(child))


def test_a_step_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)Tidying failed \(exit code 4\).*dust everywhere"):
        run_to_end(
            ["sh", "-c", "echo dust everywhere; exit 4"],
            what="tidying",
            log_path=tmp_path / "log",
            stopping=threading.Event(),
            timeout=10,
        )


def test_parallel_tasks_all_run_and_the_first_error_is_raised() -> None:
    done: list[int] = []

    def fail(message: str) -> None:
        raise UserError(message)

    with pytest.raises(UserError, match="first"):
        in_parallel(
            [lambda: done.append(1), lambda: fail("first"), lambda: fail("second")],
            threading.Event(),
        )
    assert done == [1]
