"""Which system is put under load: the one that answers, otherwise a stack that is started for it.

A running system is found in the containers of `make up` or by settings, and refused unless its
gateway, queue_service and Redis certainly belong together.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import psutil
import redis

from harness import stopping
from harness.client import Client, TokenClaims, connect
from harness.containers.engine import Container
from harness.errors import UserError
from harness.local import Ports, Stack
from harness.local.servers import mysql_url, redis_url
from harness.local.stack import SeedSize
from harness.local.supervisor import LOCAL
from harness.secrets import Secrets
from harness.topology import BY_MODULE, SCHEMAS
from loadtests import containers, room
from loadtests.target import Target, ready
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from servicekit.client import DIRECT

#: Settings that say where the parts of a running system are.
_SETTINGS = (
    *(f"{name.upper()}_MYSQL_URL" for name in SCHEMAS),
    "QUEUE_REDIS_URL",
    "QUEUE_KAFKA_BOOTSTRAP",
    "QUEUE_LISTEN",
)
_SECONDS = 10.0
#: In the folder of a stack of our own; locked while the stack is in use.
_LOCK = "in-use"


# The script `order` polls every second and measures the call behind the gateway.
_PROGRAM_ENV = {"gateway": {"GATEWAY_ENFORCE_PACE": "false"}}


@contextlib.contextmanager
def opened(environ: Mapping[str, str], seed: SeedSize) -> Iterator[Target]:
    """Attaches to the gateway at BASE_URL, or at the usual port, if one answers; otherwise starts a
    stack with `seed` for sale and stops it afterwards. Raises UserError."""
    ports = Ports.from_environ(environ)
    asked_for = environ.get("BASE_URL", "").rstrip("/")
    base_url = asked_for or f"http://{ports.address('gateway')}"
    status = ready(base_url)
    if status == 200:
        print(f"The gateway at {base_url} answers: testing that.", flush=True)
        target = attached(base_url, environ, ports)
        stopping.run_async(_require_same(target))
        yield target
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
        stack = Stack(
            folder,
            Ports.free(),
            buffer_pool="1G",
            inherit_settings=True,
            program_env=_PROGRAM_ENV,
        )
        with stack:
            stack.start(seed=seed, show=True)
            yield target_of(stack)
            print("Stopping the stack.", flush=True)


def target_of(stack: Stack) -> Target:
    """The parts of a stack that this process started."""
    return Target(
        base_url=stack.gateway_url,
        mysql_urls={name: stack.mysql_url(name) for name in SCHEMAS},
        redis_url=stack.redis_url,
        kafka_bootstrap=stack.kafka_bootstrap,
        queue_addr=stack.address("queue_service"),
        # An operator may have set another one for all stacks.
        admin_token=stack.environment("queue_service")["QUEUE_ADMIN_TOKEN"],
        ports=stack.ports,
        own=True,
    )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for a stack, on the disk that `make run` uses: the folder for temporary files may be
    in memory, where a commit costs nothing. Deletes the folders of runs that were killed."""
    LOCAL.mkdir(exist_ok=True)
    for left in LOCAL.glob("loadtest-*"):
        # A folder without this file is just being made.
        with contextlib.suppress(OSError), (left / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix="loadtest-", dir=LOCAL) as name,
        (Path(name) / _LOCK).open("w") as lock,
    ):
        # The kernel releases the lock however this process ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def attached(base_url: str, environ: Mapping[str, str], ports: Ports) -> Target:
    """The parts behind a gateway that runs. Defaults are those of `make up` or `make run`, and hold
    only for a gateway on this machine. Raises UserError."""
    found: Sequence[Container] = ()
    if _is_here(base_url):
        found = containers.find(urlsplit(base_url).port or 80)
    elif missing := [name for name in _SETTINGS if not environ.get(name)]:
        raise UserError(
            f"The gateway at {base_url} is on another machine: set {', '.join(missing)} to what is"
            " behind it."
        )
    settings = _in_containers(found) if found else _around(base_url, environ, ports)
    return Target(
        base_url=base_url,
        mysql_urls={name: settings[f"{name.upper()}_MYSQL_URL"] for name in SCHEMAS},
        redis_url=settings["QUEUE_REDIS_URL"],
        kafka_bootstrap=settings["QUEUE_KAFKA_BOOTSTRAP"],
        queue_addr=settings["QUEUE_LISTEN"],
        admin_token=environ.get("QUEUE_ADMIN_TOKEN") or settings.get("QUEUE_ADMIN_TOKEN", ""),
        ports=ports,
        containers=found,
    )


def _is_here(base_url: str) -> bool:
    """Whether the URL's host is this machine."""
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    try:
        found = socket.getaddrinfo(urlsplit(base_url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(each[4][0]) for each in found}
    return all(each in own or ipaddress.ip_address(each).is_loopback for each in addresses)


def _in_containers(found: Sequence[Container]) -> dict[str, str]:
    """The settings with the containers' own addresses, which only their host can reach."""
    first = {each.service: each for each in reversed(found)}
    missing = sorted({"mariadb", "redis", "kafka", "queue", *SCHEMAS} - first.keys())
    if missing:
        raise UserError(f"No container runs of {', '.join(missing)}: see docker ps, and make up.")
    settings = {
        name: first[name.partition("_")[0].lower()].env[name]
        for name in _SETTINGS
        if name.endswith("_URL")
    }
    for service in ("mariadb", "redis"):
        address = first[service].addresses[service]
        for name, url in settings.items():
            settings[name] = url.replace(f"@{service}:", f"@{address}:")
    kafka, queue = first["kafka"].addresses["kafka"], first["queue"].addresses["services"]
    port = BY_MODULE["queue_service"].port
    # The port for clients in other networks than Kafka's own.
    return settings | {
        "QUEUE_KAFKA_BOOTSTRAP": f"{kafka}:9094",
        "QUEUE_LISTEN": f"{queue}:{port}",
        "QUEUE_ADMIN_TOKEN": first["queue"].env.get("QUEUE_ADMIN_TOKEN", ""),
    }


def _around(base_url: str, environ: Mapping[str, str], ports: Ports) -> dict[str, str]:
    """The settings of the environment; for those that are not set, the parts that `make run`
    started. Raises UserError if it started nothing."""
    settings = {name: environ[name] for name in _SETTINGS if environ.get(name)}
    file = LOCAL / "secrets.json"
    urls = [name for name in SCHEMAS if f"{name.upper()}_MYSQL_URL" not in settings]
    if urls and not file.exists():
        raise UserError(
            f"The gateway at {base_url} was not started by make run here: set"
            f" {', '.join(_SETTINGS)} to what is behind it."
        )
    if file.exists():
        settings["QUEUE_ADMIN_TOKEN"] = Secrets.load_or_create(file).admin_token
    for name in urls:
        url = mysql_url(name, ports, Secrets.load_or_create(file))
        settings[f"{name.upper()}_MYSQL_URL"] = url
    return {
        "QUEUE_REDIS_URL": redis_url(ports),
        "QUEUE_KAFKA_BOOTSTRAP": ports.address("kafka"),
        "QUEUE_LISTEN": ports.address("queue"),
        **settings,
    }


async def _require_same(target: Target) -> None:
    """Raises UserError unless the gateway, queue_service and Redis belong to one system: a user who
    enters through the gateway must be in Redis, and after leaving through queue_service must not
    be."""
    async with connect(target.base_url) as http:
        client = Client(http, random.randint(1_000_000_000, 90_000_000_000))
        try:
            entered = await client.enter()
            reason = "" if entered.status_code == 201 else entered.summary
        except httpx.TransportError:
            reason = "no answer"
        if reason:
            raise UserError(
                f"Nobody can enter through {target.base_url} ({reason}): is the queue full or"
                " paused?"
            )
        try:
            _require_leaves(target, client)
        finally:
            with contextlib.suppress(httpx.TransportError):
                await client.leave()


def _require_leaves(target: Target, client: Client) -> None:
    """Lets the user who entered leave; see `_require_same`. Raises UserError."""
    try:
        claims = TokenClaims.of(client.token)
    except ValueError as error:
        raise UserError("The gateway gives tokens of another kind than this version.") from error
    user, users = str(client.user_id), f"{{queue:{room.ROOM}}}:users"
    place = queue_pb2.Place(
        room=room.ROOM, number=claims.place, user_id=client.user_id, epoch=claims.epoch
    )
    try:
        with (
            redis.Redis.from_url(target.redis_url, socket_timeout=_SECONDS) as connection,
            grpc.insecure_channel(target.queue_addr, options=DIRECT) as channel,
            room.one_sentence(target.queue_addr),
        ):
            if connection.hget(users, user) != str(claims.place).encode():
                raise UserError(
                    f"A user who enters through {target.base_url} is not in this Redis: set"
                    " QUEUE_REDIS_URL to the one behind that gateway."
                )
            queue_pb2_grpc.QueueServiceStub(channel).LeaveQueue(
                queue_pb2.LeaveQueueRequest(place=place), timeout=_SECONDS
            )
            if connection.hexists(users, user):
                raise UserError(
                    f"A user who enters through {target.base_url} cannot leave through"
                    f" {target.queue_addr}: set QUEUE_LISTEN to the queue_service behind that"
                    " gateway."
                )
    except (redis.RedisError, ValueError) as error:
        raise UserError(
            "The waiting room's Redis does not answer: set QUEUE_REDIS_URL to where it is."
        ) from error
