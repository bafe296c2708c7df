"""Which system is put under load: the one that answers, else a stack of our own."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.errors import UserError
from harness.local import Ports, Stack
from harness.local.stack import SeedSize
from harness.local.supervisor import LOCAL
from harness.topology import SCHEMAS
from loadtests import gateway
from loadtests.attaching import attached
from loadtests.target import Target

#: In the folder of a stack of our own, held while it is in use.
_LOCK = "in-use"


@contextlib.contextmanager
def opened(environ: Mapping[str, str], seed: SeedSize) -> Iterator[Target]:
    """The gateway at BASE_URL or at the usual port if one answers; otherwise a stack of our own,
    with `seed` for sale, which is stopped afterwards. Raises UserError or UserError."""
    ports = Ports.from_environ(environ)
    asked_for = environ.get("BASE_URL", "").rstrip("/")
    base_url = asked_for or f"http://{ports.address('gateway')}"
    status = gateway.ready(base_url)
    if status == 200:
        print(f"The gateway at {base_url} answers: testing that.", flush=True)
        yield attached(base_url, environ, ports)
        return
    if status:
        raise UserError(
            f"The gateway at {base_url} answers, but is not ready ({status}): see"
            f" {base_url}/health/ready."
        )
    if asked_for:
        raise UserError(f"No gateway answers at {base_url}: is BASE_URL right, is it started?")
    print(f"No gateway at {base_url}: starting a stack for this test ({seed} data).", flush=True)
    with _scratch() as folder:
        stack = Stack(folder, Ports.free(), buffer_pool="1G", inherit_settings=True)
        with stack:
            stack.start_servers(migrate=True)
            stack.seed(seed, show=True)
            stack.start_services()
            yield target_of(stack)
            print("Stopping the stack.", flush=True)


def target_of(stack: Stack) -> Target:
    """Where everything is of a stack of our own."""
    return Target(
        base_url=stack.gateway_url,
        mysql_urls={name: stack.mysql_url(name) for name in SCHEMAS},
        redis_url=stack.redis_url,
        kafka_bootstrap=stack.kafka_bootstrap,
        queue_addr=stack.address("queue_service"),
        ports=stack.ports,
        own=True,
    )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for a stack of our own, on the disk that `make run` uses: where the temporary files
    are may be memory, on which a commit costs nothing. Deletes those of runs that were killed."""
    LOCAL.mkdir(exist_ok=True)
    for left in LOCAL.glob("loadtest-*"):
        # One without a lock is being made just now.
        with contextlib.suppress(OSError), (left / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix="loadtest-", dir=LOCAL) as name,
        (Path(name) / _LOCK).open("w") as lock,
    ):
        # The kernel gives the lock back whichever way we end.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)
