"""One child process: started, watched, signalled and stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import IO

from harness import stopping as stop_request
from harness.errors import UserError
from harness.files import REPOSITORY

# The kernel kills our children when the *thread* that started them ends (see spawn), so this one
# thread, which lives as long as the process, starts all of them.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

# The content of a log longer than this many bytes moves to a second file, which it replaces.
_LOG_LIMIT = 20_000_000


def search_path() -> str:
    """PATH, and where servers are that an ordinary user may not have on it; see bootstrap.sh."""
    usual = os.environ.get("PATH", os.defpath)
    return f"{usual}:{REPOSITORY}/.local/bin:/usr/local/sbin:/usr/sbin:/sbin"


def find_binary(name: str) -> str:
    """The path of an installed program. Raises UserError if there is none."""
    path = shutil.which(name, path=search_path())
    if path is None:
        raise UserError(f"{name} is not installed: run harness/bootstrap.sh run first.")
    return path


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    output: IO[bytes] | None,
) -> subprocess.Popen[bytes]:
    """Starts a command that dies when this process dies, even by `kill -9`.

    setpriv (util-linux, on every Debian) requests that from the kernel and then becomes the
    command, with the same pid. A preexec_fn would fork a process that has threads, which gRPC and
    newer Pythons do not support. The command gets its own session, so that Ctrl-C in the terminal
    reaches only the supervisor, which then stops the children in order.

    `env` None: our own environment. `output` None: our own standard output. Raises UserError if
    the command is not installed.
    """
    program, *arguments = command
    argv = [find_binary("setpriv"), "--pdeathsig", "KILL", "--", find_binary(program), *arguments]
    return _spawner.submit(
        lambda: subprocess.Popen(
            argv,
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
        )
    ).result()


def kill_session(child: subprocess.Popen[bytes]) -> None:
    """Kills the command and everything it has started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_to_end(
    command: Sequence[str],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    log_path: Path | None,
    stopping: threading.Event,
    timeout: float,
) -> None:
    """Runs one command (`what`, as in "migrating concert_service") to its end.

    `log_path` None: its output goes to ours. Raises UserError if it fails, takes longer than
    `timeout` seconds, or the stack stops meanwhile.
    """
    with open_log(log_path) if log_path else contextlib.nullcontext() as output:
        start = output.tell() if output else 0
        child = spawn(command, env=env, output=output)
        try:
            deadline = time.monotonic() + timeout
            while child.poll() is None and not stopping.is_set() and time.monotonic() < deadline:
                stop_request.wait(0.02)
            code = child.poll()
        finally:
            kill_session(child)
    if code == 0:
        return
    if stopping.is_set():
        raise UserError(f"Stopped while {what}.")
    reason = f"took longer than {timeout:.0f} s" if code is None else f"failed (exit code {code})"
    where = f"; {tail_of(log_path, start)}" if log_path else "; see above."
    raise UserError(f"{what[0].upper()}{what[1:]} {reason}{where}")


def open_log(path: Path) -> IO[bytes]:
    """Opens a log to append to, for its owner only, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate_log(path)
    return open(path, "ab", opener=_open_private)


def rotate_log(path: Path) -> bool:
    """Moves the content of a log that is too long to <name>.1. Returns whether it did.

    Copies and truncates: the process that writes keeps the file open, appends to it, and knows no
    signal to open it again. What it writes between the end of the copy and the truncation, some
    microseconds, is lost.
    """
    if not path.exists() or path.stat().st_size <= _LOG_LIMIT:
        return False
    older = path.with_name(f"{path.name}.1")
    with path.open("r+b") as log:
        try:
            with open(older, "wb", opener=_open_private) as copy:
                shutil.copyfileobj(log, copy)
        except OSError:
            # Probably the disk is full. An incomplete copy is not worth its space.
            older.unlink(missing_ok=True)
        log.truncate(0)
    return True


def _open_private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # it may exist with another mode
    return descriptor


def tail_of(path: Path, start: int) -> str:
    """The path of a log and its last lines since byte `start`, as the end of an error message."""
    lines: list[str] = []
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(max(start, log.seek(0, os.SEEK_END) - 20_000))
        lines = log.read().decode(errors="replace").strip().splitlines()[-12:]
    ending = ", which ends with:\n    " + "\n    ".join(lines) if lines else " (empty)."
    return f"its log is {path}{ending}"


@dataclass(eq=False)
class Process:
    """A server or program of the stack. All methods may be called from any thread."""

    name: str
    #: Its first word is looked up on the path when the process starts.
    command: Sequence[str]
    _: KW_ONLY
    #: Whether it serves now. May raise OSError for no.
    probe: Callable[[], bool]
    log_path: Path
    #: Set once the stack stops: nothing starts after that.
    stopping: threading.Event
    #: Creates what must exist before it starts. Idempotent.
    prepare: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    #: host:port where it serves, as seen from this machine.
    address: str = ""
    cwd: Path = REPOSITORY
    #: Seconds it may take from start to serving.
    start_timeout: float = 60.0
    #: Seconds it may take from SIGTERM to its end, before SIGKILL.
    stop_timeout: float = 15.0
    #: True between start() and our next kill() or stop(). If it is true and `running`
    #: is false, the process died unexpectedly.
    wanted: bool = field(init=False, default=False)
    _child: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _unswept: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _log_start: int = field(init=False, default=0)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running process. Raises UserError if it does not run."""
        child = self._child
        if child is None or child.poll() is not None:
            raise UserError(f"{self.name} is not running.")
        return child.pid

    @property
    def exit_code(self) -> int | None:
        """Of the last run: None while it runs, negative for the signal that killed it."""
        return self._child.poll() if self._child is not None else None

    def start(
        self,
        *,
        extra_env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        wait: bool = True,
    ) -> None:
        """Starts the process and, unless `wait` is false, waits until it serves.

        `extra_env` and `command` apply to this start only. Raises UserError if it runs already,
        dies while starting or does not serve in time.
        """
        with self._lock:
            if self.running:
                raise UserError(f"{self.name} is running already.")
            self._sweep()
            self.prepare()
            if self.stopping.is_set():
                raise UserError(f"{self.name} was not started: the stack is stopping.")
            env = {**self.environment, **(extra_env or {})}
            with open_log(self.log_path) as log:
                self._log_start = log.tell()
                self._child = spawn(command or self.command, env=env, cwd=self.cwd, output=log)
                self._unswept = self._child
            self.wanted = True
        if wait:
            wait_until_ready([self])

    @property
    def ending(self) -> str:
        """How the last run ended: "exit code 1", "killed by SIGKILL"."""
        code = self.exit_code or 0
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def rotate_log(self) -> None:
        """Keeps the log within its limit while the process runs."""
        if rotate_log(self.log_path):
            self._log_start = 0

    def log_tail(self) -> str:
        """The path of the log and the last lines of this run, as the end of a sentence."""
        return tail_of(self.log_path, self._log_start)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal (SIGSTOP and SIGCONT to make it hang). No-op if it does not run."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Sends SIGKILL to the process and its children, and waits for its end."""
        self.wanted = False
        self._sweep()

    def wait(self, timeout: float) -> int:
        """Waits at most `timeout` seconds for the started process to end by itself.

        Returns its exit code (negative: the signal). Raises subprocess.TimeoutExpired.
        """
        assert self._child is not None
        return self._child.wait(timeout)

    def stop(self) -> bool:
        """Sends SIGTERM, waits at most `stop_timeout` seconds, then sends SIGKILL.

        Returns false if it had to be killed.
        """
        with self._lock:
            self.wanted = False
            self.signal(signal.SIGTERM)
            # A process that hangs in SIGSTOP receives SIGTERM only after SIGCONT.
            self.signal(signal.SIGCONT)
            try:
                if self._child is not None:
                    self._child.wait(self.stop_timeout)
                return True
            except subprocess.TimeoutExpired:
                return False
            finally:
                self._sweep()

    def _sweep(self) -> None:
        """Kills what is left of the last run, including what it started itself (workers).

        Once for each run: another process may get the pid later.
        """
        child, self._unswept = self._unswept, None
        if child is not None:
            kill_session(child)

    def restart(self, *, extra_env: Mapping[str, str] | None = None) -> None:
        """stop(), then start()."""
        self.stop()
        self.start(extra_env=extra_env)


def wait_until_ready(processes: Sequence[Process]) -> None:
    """Waits until all of them serve, at most the start_timeout of each.

    Raises UserError as soon as one of them dies, even if the others need more time.
    """
    began = time.monotonic()
    waiting = list(processes)
    while True:
        for process in list(waiting):
            if process.stopping.is_set():
                raise UserError(f"{process.name} was stopped while it started.")
            if not process.running:
                raise UserError(
                    f"{process.name} died while starting: {process.ending}; {process.log_tail()}"
                )
            with contextlib.suppress(OSError):
                if process.probe():
                    waiting.remove(process)
                    continue
            if time.monotonic() - began > process.start_timeout:
                raise UserError(
                    f"{process.name} does not serve after {process.start_timeout:.0f} s;"
                    f" {process.log_tail()}"
                )
        if not waiting:
            return
        stop_request.wait(0.05)


def in_parallel(tasks: Sequence[Callable[[], object]], stopping: threading.Event) -> None:
    """Runs each task in a thread of its own, and waits for all of them.

    Raises the first error in the order of the tasks. If the wait itself is interrupted (Ctrl-C in
    a test run), sets `stopping`, so that the tasks end soon.
    """
    with ThreadPoolExecutor(max_workers=max(len(tasks), 1)) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.exception()
        except BaseException:
            stopping.set()
            raise
    for future in futures:
        future.result()
