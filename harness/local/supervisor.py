"""`make run`: the stack in the foreground, watched until a stop is requested."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NoReturn
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from rich.console import Console

from harness import stopping
from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.ports import Ports
from harness.local.process import Process
from harness.local.stack import SeedSize, Stack
from servicekit.settings import is_loopback

LOCAL = REPOSITORY / ".local"
_LOCK = "supervisor.lock"

# Bytes that must be free for a first start with each seed: twice what one writes (measured: 127,
# 127 and 308 MB, of which MariaDB's redo log takes 100). With less, the servers fail with errors
# that are hard to read.
_DISK_NEEDED: Mapping[SeedSize, int] = {
    "none": 260_000_000,
    "small": 260_000_000,
    "full": 620_000_000,
}

# A process that dies more often than this within the window is not restarted.
_MAX_DEATHS = 5
_DEATH_WINDOW = 120.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 15.0

# Longer than all the bounded waits of Stack.stop() together.
_STOP_TIMEOUT = 90.0


# Ids are taken from the answers, so that it can be pasted as often as one likes.
_JOURNEY = r"""
Buy a ticket in bash (make demo does the same and explains it):

  export no_proxy="$no_proxy,{host}"
  URL={url}; USER_ID=$RANDOM$RANDOM; JSON='Content-Type: application/json'
  first_available() { tr '{' '\n' | grep '"AVAILABLE"' | grep -oE '"id": ?[0-9]+' | grep -oE '[0-9]+' | head -n 1; }
  ENTERED=$(curl -si "$URL/queues/enqueue" -H "$JSON" -d "{\"userId\": $USER_ID}"); echo "$ENTERED" | tail -n 1
  TOKEN=$(echo "$ENTERED" | sed -n 's/^x-access-token: *//Ip' | tr -d '\r')
  curl -s "$URL/queues/order" -H "X-Access-Token: $TOKEN"; echo
  curl -s "$URL/concerts?pageSize=3" -H "X-Access-Token: $TOKEN"; echo
  SCHEDULE=$(curl -s "$URL/concerts/1/schedules" -H "X-Access-Token: $TOKEN" | first_available)
  SEAT=$(curl -s "$URL/concerts/schedules/$SCHEDULE/seats" -H "X-Access-Token: $TOKEN" | first_available)
  HELD=$(curl -s "$URL/concerts/reservation" -H "X-Access-Token: $TOKEN" -H "$JSON" -d "{\"userId\": $USER_ID, \"concertSeatId\": $SEAT}"); echo "$HELD"
  RESERVATION=$(echo "$HELD" | grep -oE '"reservationId": ?[0-9]+' | grep -oE '[0-9]+')
  curl -s "$URL/concerts/reservations/$RESERVATION/pay" -H "X-Access-Token: $TOKEN" -H "$JSON" -d "{\"userId\": $USER_ID}"; echo
"""  # noqa: E501


def banner(url: str, gateway: Mapping[str, str]) -> str:
    """The address, and what works with these settings of the gateway: the documentation, and a
    purchase without a login and a challenge."""
    documented = TypeAdapter(bool).validate_python(gateway.get("GATEWAY_DOCUMENTATION", True))
    documentation = f" (API documentation: {url}/docs)" if documented else ""
    is_open = gateway.get("GATEWAY_IDENTITY", "open") == "open"
    unchallenged = gateway.get("GATEWAY_CHALLENGE", "none") == "none"
    return (
        f"\nFrontrow serves on {url}{documentation}\n"
        + _for_operators(gateway.get("GATEWAY_ADMIN_LISTEN", ""))
        + (journey(url) if is_open and unchallenged else "")
        + "\nStop with Ctrl-C, or with make stop from elsewhere.\n"
    )


def _for_operators(admin_listen: str) -> str:
    if not admin_listen:
        return ""
    return (
        f"Admin API on http://{admin_listen} (documentation: /docs); for a key:\n"
        "  make key NAME=you ROLE=admin\n"
    )


def journey(url: str) -> str:
    """The seven public routes, to be pasted into a shell with curl."""
    host = urlsplit(url).hostname or ""
    return _JOURNEY.replace("{url}", url).replace("{host}", host)


def run(environ: Mapping[str, str]) -> int:
    """Starts everything, prints where it serves, and watches it until a stop is requested.

    Returns the exit status: 2 when something cannot be started or kept running, which is printed
    on standard error. Raises UserError when nothing was started. Leaves no process behind.
    """
    console = Console(highlight=False, soft_wrap=True)
    seed = _seed_size(environ.get("SEED", "full"))
    with _only_one():
        ports = Ports.from_environ(environ)
        _require_provider(environ)
        ports.require_free()
        _require_disk_and_own_data(seed)
        stack = Stack(LOCAL, ports, buffer_pool="1G", inherit_settings=True)
        try:
            _start(stack, seed, console)
            gateway = stack.environment("gateway")
            console.print(banner(stack.gateway_url, gateway), markup=False)
            Watcher(stack.processes(), console).watch()
        except stopping.Stopped:
            return 0
        except UserError as error:
            # Printed before stopping, which takes a moment and would hide it.
            print(f"frontrow: {error}\n{_advice(stack)}", file=sys.stderr, flush=True)
            return 2
        finally:
            _stop(stack, console)


def _advice(stack: Stack) -> str:
    """What to do after a failure. Damaged data never ends a program with status 2: that means
    invalid settings."""
    advice = "Fix that and type make run again."
    if any(program.exit_code == 2 for program in stack.programs):
        return advice
    return (
        f"{advice} If the data is damaged, make clean deletes it, and the next start creates it"
        " again."
    )


def _require_provider(environ: Mapping[str, str]) -> None:
    """Raises UserError if others could buy without paying, and nobody said so."""
    listen = environ.get("GATEWAY_LISTEN")
    if listen and not is_loopback(listen) and not environ.get("PAYMENT_PROVIDER"):
        raise UserError(
            "PAYMENT_PROVIDER must be http, or sandbox, which approves nearly everything and moves"
            f" no money, because GATEWAY_LISTEN={listen} is no loopback address."
        )


def _start(stack: Stack, seed: SeedSize, console: Console) -> None:
    began = time.monotonic()
    ports = stack.ports
    servers = f"Redis ({ports['redis']}), MariaDB ({ports['mariadb']}) and Kafka ({ports['kafka']})"
    with _step(console, f"{servers}, and the migrations"):
        stack.start_servers()
    if seed != "none":
        with _step(console, f"Concerts, schedules and seats (SEED={seed})"):
            stack.seed(seed, show=True)
    with _step(console, "The four services and the gateway"):
        stack.start_services()
    console.print(f"Serving after {time.monotonic() - began:.1f} s. Logs: make logs.")


@contextlib.contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    began = time.monotonic()
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


def _require_disk_and_own_data(seed: SeedSize) -> None:
    data = LOCAL / "data"
    free, needed = shutil.disk_usage(LOCAL).free, _DISK_NEEDED[seed]
    if not (data / "mariadb").exists() and free < needed:
        smaller = (
            f", or start with SEED=small, which needs {_DISK_NEEDED['small'] // 1_000_000} MB"
            if seed == "full"
            else ""
        )
        raise UserError(
            f"Only {free // 1_000_000} MB are free on the disk of {LOCAL}, and a first start with"
            f" SEED={seed} needs {needed // 1_000_000} MB: free some space{smaller}."
        )
    # Another user's files are closed to us, and their MariaDB admits only them.
    for path in data.glob("*"):
        if path.stat().st_uid != os.geteuid():
            raise UserError(
                f"{path} belongs to {path.owner()}, who ran this before: run it as that user, or"
                " delete the data as that user with make clean."
            )


class Watcher:
    """Restarts processes that die, with growing delays, and gives up on one that keeps dying.
    Keeps their logs short."""

    def __init__(self, processes: Sequence[Process], console: Console) -> None:
        self._processes = processes
        self._console = console
        self._deaths: defaultdict[str, list[float]] = defaultdict(list)
        self._restart_at: dict[str, float] = {}
        self._restarted: set[str] = set()

    def watch(self) -> NoReturn:
        """Never returns. Raises UserError when a process died too often."""
        while True:
            for process in self._processes:
                self.check(process)
                process.rotate_log()
            stopping.wait(0.25)

    def check(self, process: Process) -> None:
        """Notes a death, restarts the process when its delay is over, reports when it serves."""
        name, now = process.name, time.monotonic()
        if process.running:
            with contextlib.suppress(OSError):
                if name in self._restarted and process.probe():
                    self._restarted.discard(name)
                    self._console.print(f"{name} serves again.")
        elif process.wanted and name not in self._restart_at:
            self._restart_at[name] = now + self._note_death(process, now)
        elif process.wanted and now >= self._restart_at[name]:
            del self._restart_at[name]
            self._restarted.add(name)
            process.start(wait=False)

    def _note_death(self, process: Process, now: float) -> float:
        """Returns the delay before the restart, in seconds."""
        deaths = self._deaths[process.name]
        deaths[:] = [*(at for at in deaths if now - at < _DEATH_WINDOW), now]
        if len(deaths) > _MAX_DEATHS:
            raise UserError(
                f"{process.name} died {len(deaths)} times within {_DEATH_WINDOW:.0f} s and is not"
                f" restarted: {process.ending}; {process.log_tail()}"
            )
        delay = float(min(_FIRST_DELAY * 2 ** (len(deaths) - 1), _LONGEST_DELAY))
        self._console.print(
            f"{process.name} died ({process.ending}; log: {process.log_path}); restarting it in"
            f" {delay:.1f} s."
        )
        return delay


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Holds the lock that means "running". A lock, unlike a pid file, cannot be stale."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / _LOCK).open("a+") as lock:
        if (pid := _lock_or_pid(lock)) is not None:
            raise UserError(f"Frontrow is running already (process {pid}): stop it with make stop.")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_pid() -> int | None:
    """The process id of the supervisor that runs from this tree, or None."""
    try:
        with (LOCAL / _LOCK).open() as lock:
            return _lock_or_pid(lock)
    except FileNotFoundError:
        return None


def _lock_or_pid(lock: IO[str]) -> int | None:
    """Locks the file; returns the process id in it if another process has locked it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        return int(lock.read() or 0)
    return None


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
