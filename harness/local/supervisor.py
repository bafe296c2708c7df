"""`make run`: the stack in the foreground, watched until a stop is requested."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, NoReturn

from rich.console import Console

from harness import stopping
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.journey import curl_journey
from harness.local.ports import Ports
from harness.local.process import Process
from harness.local.stack import SeedSize, Stack

LOCAL = REPOSITORY / ".local"
_LOCK = LOCAL / "supervisor.lock"

# A first start writes about 400 MB (1.5 million seats, MariaDB's redo log). With less free space
# than this, the servers fail with errors that are hard to read.
_DISK_NEEDED = 1_500_000_000

# A process that dies more often than this within the window is not restarted.
_MAX_DEATHS = 5
_DEATH_WINDOW = 120.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 15.0

# Longer than all the bounded waits of Stack.stop() together.
_STOP_TIMEOUT = 90.0


def run(environ: Mapping[str, str]) -> int:
    """Starts everything, prints where it serves, and watches it until a stop is requested.

    Returns the exit status: 2 when something cannot be started or kept running, which is printed
    on standard error. Raises UserError when nothing was started. Leaves no process behind.
    """
    console = Console(highlight=False, soft_wrap=True)
    seed = _seed_size(environ.get("SEED", "full"))
    with _only_one():
        ports = Ports.from_environ(environ)
        ports.require_free()
        _require_disk()
        _require_own_data()
        stack = Stack(LOCAL, ports, buffer_pool="1G", inherit_settings=True)
        try:
            _start(stack, seed, console)
            console.print(curl_journey(stack.gateway_url), markup=False)
            Watcher(stack, console).watch()
        except stopping.Stopped:
            return 0
        except UserError as error:
            # Printed before stopping, which takes a moment and would hide it.
            print(
                f"frontrow: {error}\nFix that and type make run again. If the data is damaged, make"
                " clean deletes it, and the next start creates it again.",
                file=sys.stderr,
                flush=True,
            )
            return 2
        finally:
            _stop(stack, console)


def _start(stack: Stack, seed: SeedSize, console: Console) -> None:
    began = time.monotonic()
    ports = stack.ports
    servers = f"Redis ({ports['redis']}), MariaDB ({ports['mariadb']}) and Kafka ({ports['kafka']})"
    with _step(console, f"{servers}, and the migrations"):
        stack.start_servers(migrate=True)
    if seed != "none":
        # It shows its own progress.
        with _step(console, f"Concerts, schedules and seats (SEED={seed})", spin=False):
            stack.seed(seed, show=True)
    with _step(console, "The four services and the gateway"):
        stack.start_services()
    console.print(f"Serving after {time.monotonic() - began:.1f} s. Logs: make logs.")


@contextlib.contextmanager
def _step(console: Console, what: str, *, spin: bool = True) -> Iterator[None]:
    began = time.monotonic()
    if spin and console.is_terminal:
        with console.status(f"{what} …"):
            yield
    else:
        console.print(f"… {what}", markup=False)
        yield
    console.print(f"✓ {what} ({time.monotonic() - began:.1f} s)", markup=False)


def _stop(stack: Stack, console: Console) -> None:
    if console.is_terminal:
        console.show_cursor()  # a progress bar that was killed left it hidden
    console.print("\nStopping: gateway, services, then the servers.")
    for name in stack.stop():
        console.print(f"{name} did not stop in time and was killed.")
    console.print("Stopped; nothing is left running.")


def _seed_size(value: str) -> SeedSize:
    match value:
        case "full" | "small" | "none":
            return value
        case _:
            raise UserError(f"SEED must be full, small or none, not {value!r}.")


def _require_disk() -> None:
    free = shutil.disk_usage(LOCAL).free
    if not (LOCAL / "data" / "mariadb").exists() and free < _DISK_NEEDED:
        raise UserError(
            f"Only {free // 1_000_000} MB are free on the disk of {LOCAL}, and a first start needs"
            f" {_DISK_NEEDED // 1_000_000} MB: free some space, or start with SEED=none."
        )


def _require_own_data() -> None:
    """Another user's data cannot be served: the files are closed, and MariaDB admits only them."""
    for path in (LOCAL / "data").glob("*"):
        if path.stat().st_uid != os.geteuid():
            raise UserError(
                f"{path} belongs to {path.owner()}, who ran this before: run it as that user, or"
                " delete the data as that user with make clean."
            )


class Watcher:
    """Restarts processes that die, with growing delays, and gives up on one that keeps dying."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._deaths: dict[str, list[float]] = {}
        self._restart_at: dict[str, float] = {}
        self._restarted: set[str] = set()

    def watch(self) -> NoReturn:
        """Never returns. Raises UserError when a process died too often."""
        while True:
            for process in self._stack.processes():
                self.check(process)
            stopping.wait(0.25)

    def check(self, process: Process) -> None:
        """Notes a death, restarts the process when its delay is over, reports when it serves."""
        name = process.name
        if process.running:
            if name in self._restarted and _serves(process):
                self._restarted.discard(name)
                self._console.print(f"{name} serves again.")
        elif process.wanted:
            now = time.monotonic()
            if name not in self._restart_at:
                self._restart_at[name] = now + self._note_death(process, now)
            elif now >= self._restart_at[name]:
                del self._restart_at[name]
                self._restarted.add(name)
                process.start(wait=False)

    def _note_death(self, process: Process, now: float) -> float:
        """Returns the delay before the restart, in seconds."""
        deaths = [at for at in self._deaths.get(process.name, []) if now - at < _DEATH_WINDOW]
        deaths.append(now)
        self._deaths[process.name] = deaths
        if len(deaths) > _MAX_DEATHS:
            raise UserError(
                f"{process.name} died {len(deaths)} times within {_DEATH_WINDOW:.0f} s and is not"
                f" restarted: {process.how_it_ended()}"
            )
        delay = float(min(_FIRST_DELAY * 2 ** (len(deaths) - 1), _LONGEST_DELAY))
        self._console.print(
            f"{process.name} died ({process.ending}; log: {process.log_path}); restarting it in"
            f" {delay:.1f} s."
        )
        return delay


def _serves(process: Process) -> bool:
    try:
        return process.probe()
    except OSError:
        return False


# --- one at a time ---------------------------------------------------------------------------


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Holds the lock that means "running". A lock, unlike a pid file, cannot be stale."""
    LOCAL.mkdir(exist_ok=True)
    with _LOCK.open("a+") as lock:
        if not _try_lock(lock):
            raise UserError(
                f"Frontrow is running already (process {_pid_in(lock)}): stop it with make stop."
            )
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_pid() -> int | None:
    """The process id of the supervisor that runs from this tree, or None."""
    try:
        with _LOCK.open("r") as lock:
            return None if _try_lock(lock) else _pid_in(lock)
    except FileNotFoundError:
        return None


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(lock: IO[str]) -> int:
    lock.seek(0)
    return int(lock.read() or 0)


def stop_running() -> int:
    """`make stop`: requests the stop of the running supervisor, and waits for its end."""
    pid = running_pid()
    if not pid:
        print("Frontrow is not running.")
        return 0
    print(f"Stopping Frontrow (process {pid}).")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while running_pid() == pid:
        if time.monotonic() > deadline:
            # Its children die with it.
            os.kill(pid, signal.SIGKILL)
            print(f"It did not stop within {_STOP_TIMEOUT:.0f} s and was killed.")
            return 0
        stopping.wait(0.1)
    print("Stopped; nothing is left running.")
    return 0


def clean() -> int:
    """`make clean`: deletes data, logs and secrets of `make run`; keeps Kafka's jars."""
    with _only_one():
        for name in ("data", "log"):
            shutil.rmtree(LOCAL / name, ignore_errors=True)
        (LOCAL / "secrets.json").unlink(missing_ok=True)
    print(f"Deleted the data, logs and secrets below {LOCAL}.")
    return 0
