"""What is put under load: a gateway that runs, or a stack of our own, and what is behind it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import http.client
import ipaddress
import json
import random
import shutil
import socket
import tempfile
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import grpc
import psutil
import pymysql
import redis

from deploy.local import Ports, Stack
from deploy.local.credentials import DATABASES, Credentials
from deploy.local.ports import HOST
from deploy.local.programs import mysql_url
from deploy.local.stack import SeedSize
from deploy.local.supervisor import LOCAL
from loadtests import containers, machine
from loadtests.containers import Cgroup, Container
from loadtests.errors import CannotTest
from protos.queue.v1 import queue_pb2, queue_pb2_grpc

ROOM = "main"
_TOKEN = "X-Access-Token"
#: Where the parts of a system are that was not started here.
_SETTINGS = (
    *(f"{name.upper()}_MYSQL_URL" for name in DATABASES),
    "QUEUE_REDIS_URL",
    "QUEUE_KAFKA_BOOTSTRAP",
    "QUEUE_LISTEN",
)
#: In the folder of a stack of our own, held while it is in use.
_LOCK = "in-use"
_SECONDS = 10.0
_EVERYBODY = 10_000_000

#: Field of Ports → how the report calls the process that listens there.
_LISTENERS = {
    "gateway": "gateway",
    "queue": "queue_service",
    "concert": "concert_service",
    "reservation": "reservation_service",
    "payment": "payment_service",
    "redis": "redis",
    "mariadb": "mariadb",
    "kafka": "kafka",
}


#: Service of deploy/compose.yml → how the report calls it.
_SERVICES = {
    "queue": "queue_service",
    "concert": "concert_service",
    "reservation": "reservation_service",
    "payment": "payment_service",
}

#: What uses processor and memory under one name: a process and its children, or containers.
Source = int | Sequence[Cgroup]


@dataclasses.dataclass(frozen=True)
class Volume:
    """What is for sale."""

    concerts: int
    schedules: int
    seats: int


@dataclasses.dataclass(frozen=True)
class Target:
    """Where everything is that a load test needs."""

    base_url: str
    mysql_urls: Mapping[str, str]
    redis_url: str
    kafka_bootstrap: str
    queue_addr: str
    ports: Ports
    #: Whether it was started for this test, with data of its own.
    own: bool
    #: Those that it runs in, if it was started by `make up` here.
    containers: Sequence[Container] = ()

    @contextlib.contextmanager
    def database(self, schema: str) -> Iterator[pymysql.cursors.Cursor]:
        """A cursor in concert, reservation or payment. Raises CannotTest."""
        parts = urlsplit(self.mysql_urls[schema])
        try:
            connection = pymysql.connect(
                host=parts.hostname or HOST,
                port=parts.port or 3306,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=parts.path.lstrip("/"),
                connect_timeout=5,
                autocommit=True,
            )
        except (pymysql.MySQLError, ValueError, OSError) as error:
            raise CannotTest(
                f"The database {schema} at {parts.hostname}:{parts.port or 3306} cannot be read"
                f" ({_number_of(error)}): set {schema.upper()}_MYSQL_URL to where it is."
            ) from error
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except pymysql.MySQLError as error:
            raise CannotTest(
                f"The database {schema} at {parts.hostname}:{parts.port or 3306} does not answer as"
                f" it should ({_number_of(error)}): is it migrated, and does it still run?"
            ) from error

    def volume(self) -> Volume:
        """Counts what is for sale. Raises CannotTest if that is nothing."""
        counts = []
        with self.database("concert") as cursor:
            for table in ("concert", "schedule", "seat"):
                try:
                    cursor.execute(f"SELECT COUNT(*) FROM {table}")
                except pymysql.ProgrammingError:
                    break
                row = cursor.fetchone()
                counts.append(int(row[0]) if row else 0)
        if len(counts) < 3 or 0 in counts:
            raise CannotTest(
                "The database is not seeded: run python -m concert_service.seed, or start the"
                " system with make run, which does it."
            )
        return Volume(*counts)

    def sold(self) -> int:
        """The number of the newest reservation; grows with each seat that is held."""
        with self.database("reservation") as cursor:
            cursor.execute("SELECT COALESCE(MAX(id), 0) FROM reservation")
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def require_sold(self, before: int, seats: int) -> None:
        """Raises CannotTest if the database does not know of so many seats that were held since
        `sold` gave `before`: then it is not that of the gateway that held them."""
        if (known := self.sold() - before) < seats:
            raise CannotTest(
                f"The database shows {known:,} reservations since the start and the gateway gave"
                f" {seats:,}: RESERVATION_MYSQL_URL is not the database behind {self.base_url}."
            )

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Until the gateway says that it can serve: it may have been overloaded. Raises
        CannotTest."""
        deadline = time.monotonic() + seconds
        while (status := _ready(self.base_url)) != 200:
            if time.monotonic() > deadline:
                raise CannotTest(
                    f"The gateway at {self.base_url} is not ready any more after {seconds:.0f} s"
                    f" ({f'status {status}' if status else 'no answer'})."
                )
            time.sleep(0.5)

    def schedule_without_reservations(self) -> int:
        """One date by chance that nobody ever took a seat of. Raises CannotTest."""
        with self.database("reservation") as cursor:
            cursor.execute("SELECT DISTINCT schedule_id FROM reservation")
            taken = {row[0] for row in cursor.fetchall()}
        with self.database("concert") as cursor:
            cursor.execute("SELECT id FROM schedule")
            free = [row[0] for row in cursor.fetchall() if row[0] not in taken]
        if not free:
            raise CannotTest("There is no date left of which no seat was ever taken.")
        return int(random.choice(free))

    def sources(self) -> dict[str, Source]:
        """What is behind each name, as far as this user may see it."""
        if not self.containers:
            return {**self.pids()}
        groups: dict[str, list[Cgroup]] = {}
        for each in self.containers:
            groups.setdefault(_SERVICES.get(each.service, each.service), []).append(each.cgroup)
        return {**groups}

    def caps(self) -> dict[str, dict[str, float]]:
        """What the containers of each name may use together: cores and MiB, and how many they
        are."""
        found: dict[str, dict[str, float]] = {}
        for name, groups in self.sources().items():
            if not isinstance(groups, int):
                found[name] = {
                    "cores": round(sum(group.cores() or 0 for group in groups), 3),
                    "mib": round(sum(group.memory_limit() or 0 for group in groups) / 2**20),
                    "containers": len(groups),
                }
        return found

    def versions(self) -> tuple[str, dict[str, str]]:
        """Where the versions were looked up ("containers", "machine" or, if it runs elsewhere,
        ""), and the versions."""
        if self.containers:
            return "containers", containers.versions(self.containers)
        if set(_LISTENERS.values()) <= self.pids().keys():
            rows = machine.versions()
            return "machine", {name: rows[name] for name in rows if name != "wrk"}
        return "", {}

    def pids(self) -> dict[str, int]:
        """The process that listens at each port of `make run`, or of a stack of our own."""
        names = {getattr(self.ports, field): name for field, name in _LISTENERS.items()}
        found: dict[str, int] = {}
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid:
                name = names.get(connection.laddr.port)
                if name:
                    # Workers of one program listen at the same port; the first is their parent.
                    found[name] = min(connection.pid, found.get(name, connection.pid))
        return found


class Room:
    """The waiting room, as an operator sees it."""

    def __init__(self, target: Target) -> None:
        self._address = target.queue_addr
        self._channel = grpc.insecure_channel(self._address)
        self._admin = queue_pb2_grpc.QueueAdminServiceStub(self._channel)
        self._queue = queue_pb2_grpc.QueueServiceStub(self._channel)
        self._capacity = self._get().capacity

    def close(self) -> None:
        """As it was before. What does not answer any more needs no capacity either."""
        with contextlib.suppress(CannotTest):
            self._set(self._capacity)
        self._channel.close()

    def empty_line(self, seconds: float = 60.0) -> None:
        """Lets everybody in who still waits, from an earlier test. Raises CannotTest."""
        deadline = time.monotonic() + seconds
        room = self._get()
        while room.waiting:
            if time.monotonic() > deadline:
                raise CannotTest(
                    f"{room.waiting} people still wait in line after {seconds:.0f} s of letting"
                    " everybody in: is the waiting room paused?"
                )
            self._set(_EVERYBODY)
            self._be_heard()
            time.sleep(0.2)
            room = self._get()

    def _be_heard(self) -> None:
        """A room that hears nobody thinks itself cut off and lets nobody in: enters, and leaves."""
        user = random.randint(1_000_000_000, 90_000_000_000)
        request = queue_pb2.EnterQueueRequest(room=ROOM, user_ids=[user])
        try:
            for result in self._queue.EnterQueue(request, timeout=_SECONDS).results:
                leaving = queue_pb2.LeaveQueueRequest(place=result.place)
                if not result.error_code:
                    self._queue.LeaveQueue(leaving, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise self._away() from error

    def admitted(self) -> int:
        """How many are let in now."""
        return int(self._get().admitted)

    def make_room_for(self, count: int | None) -> int:
        """Sets the capacity so that `count` more (None: as many as configured) can be let in;
        returns it."""
        capacity = self._get().admitted + (self._capacity if count is None else count)
        self._set(capacity)
        return capacity

    def _get(self) -> queue_pb2.Room:
        return self._ask(queue_pb2.GetRoomRequest(room=ROOM))

    def _set(self, capacity: int) -> None:
        self._ask(queue_pb2.UpdateRoomRequest(room=ROOM, capacity=capacity))

    def _ask(
        self, request: queue_pb2.GetRoomRequest | queue_pb2.UpdateRoomRequest
    ) -> queue_pb2.Room:
        try:
            if isinstance(request, queue_pb2.GetRoomRequest):
                return self._admin.GetRoom(request, timeout=_SECONDS)
            return self._admin.UpdateRoom(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise self._away() from error

    def _away(self) -> CannotTest:
        return CannotTest(
            f"The waiting room does not answer at {self._address}: set QUEUE_LISTEN to where"
            " queue_service is."
        )


@contextlib.contextmanager
def opened(environ: Mapping[str, str], seed: SeedSize) -> Iterator[Target]:
    """The gateway at BASE_URL or at the usual port if one answers; otherwise a stack of our own,
    with `seed` for sale, which is stopped afterwards. Raises CannotTest or StackError."""
    ports = Ports.from_environ(environ)
    asked_for = environ.get("BASE_URL", "").rstrip("/")
    base_url = asked_for or f"http://{HOST}:{ports.gateway}"
    status = _ready(base_url)
    if status == 200:
        print(f"The gateway at {base_url} answers: testing that.", flush=True)
        yield _attached(base_url, environ, ports)
        return
    if status:
        raise CannotTest(
            f"The gateway at {base_url} answers, but is not ready ({status}): see"
            f" {base_url}/health/ready."
        )
    if asked_for:
        raise CannotTest(f"No gateway answers at {base_url}: is BASE_URL right, is it started?")
    print(f"No gateway at {base_url}: starting a stack for this test ({seed} data).", flush=True)
    with _scratch() as folder:
        stack = Stack(folder, Ports.free(), buffer_pool="1G", inherit_settings=True)
        with stack:
            stack.start_servers(migrate=True)
            stack.seed(seed, show=True)
            stack.start_services()
            yield Target(
                base_url=stack.gateway_url,
                mysql_urls={name: stack.mysql_url(name) for name in DATABASES},
                redis_url=stack.redis_url,
                kafka_bootstrap=stack.kafka_bootstrap,
                queue_addr=stack.address("queue_service"),
                ports=stack.ports,
                own=True,
            )
            print("Stopping the stack.", flush=True)


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


def _attached(base_url: str, environ: Mapping[str, str], ports: Ports) -> Target:
    """What is told nowhere is taken to be as `make up` or `make run` has it, but only if the
    gateway is on this machine."""
    found: Sequence[Container] = ()
    if _is_here(base_url):
        found = containers.find(urlsplit(base_url).port or 80)
    elif missing := [name for name in _SETTINGS if not environ.get(name)]:
        raise CannotTest(
            f"The gateway at {base_url} is on another machine: set {', '.join(missing)} to what is"
            " behind it."
        )
    target = (
        _attached_to_containers(base_url, ports, found)
        if found
        else _attached_to_settings(base_url, environ, ports)
    )
    _require_same(target)
    return target


def _is_here(base_url: str) -> bool:
    """Whether the URL's host is this machine."""
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    try:
        found = socket.getaddrinfo(urlsplit(base_url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(each[4][0]) for each in found}
    return all(each in own or ipaddress.ip_address(each).is_loopback for each in addresses)


def _attached_to_settings(base_url: str, environ: Mapping[str, str], ports: Ports) -> Target:
    secrets = LOCAL / "secrets.json"
    urls = {}
    for name in DATABASES:
        url = environ.get(f"{name.upper()}_MYSQL_URL")
        if not url and not secrets.exists():
            raise CannotTest(
                f"The gateway at {base_url} was not started by make run here: set"
                f" {', '.join(_SETTINGS)} to what is behind it."
            )
        urls[name] = url or mysql_url(name, ports, Credentials.load(secrets))
    return Target(
        base_url=base_url,
        mysql_urls=urls,
        redis_url=environ.get("QUEUE_REDIS_URL") or f"redis://{HOST}:{ports.redis}/0",
        kafka_bootstrap=environ.get("QUEUE_KAFKA_BOOTSTRAP") or f"{HOST}:{ports.kafka}",
        queue_addr=environ.get("QUEUE_LISTEN") or f"{HOST}:{ports.queue}",
        ports=ports,
        own=False,
    )


def _require_same(target: Target) -> None:
    """Raises CannotTest unless the gateway, queue_service and Redis are of one system: somebody
    enters through the gateway, is found in Redis, and is gone from it after leaving through
    queue_service."""
    user = random.randint(1_000_000_000, 90_000_000_000)
    token = _enter(target.base_url, user)
    try:
        claims = _claims(token)
        place = queue_pb2.Place(
            room=ROOM, number=claims["place"], user_id=user, epoch=claims["epoch"]
        )
        with (
            redis.Redis.from_url(target.redis_url, socket_timeout=_SECONDS) as connection,
            grpc.insecure_channel(target.queue_addr) as channel,
        ):
            users = f"{{queue:{ROOM}}}:users"
            if connection.hget(users, str(user)) != str(claims["place"]).encode():
                raise CannotTest(
                    f"Whoever enters through {target.base_url} is not in the Redis that would be"
                    " watched: set QUEUE_REDIS_URL to the one behind that gateway."
                )
            queue_pb2_grpc.QueueServiceStub(channel).LeaveQueue(
                queue_pb2.LeaveQueueRequest(place=place), timeout=_SECONDS
            )
            if connection.hexists(users, str(user)):
                raise CannotTest(
                    f"Whoever enters through {target.base_url} cannot leave at"
                    f" {target.queue_addr}: set QUEUE_LISTEN to the queue_service behind that"
                    " gateway."
                )
    except (redis.RedisError, ValueError) as error:
        raise CannotTest(
            "The waiting room's Redis does not answer: set QUEUE_REDIS_URL to where it is."
        ) from error
    except grpc.RpcError as error:
        raise CannotTest(
            f"The waiting room does not answer at {target.queue_addr}: set QUEUE_LISTEN to where"
            " queue_service is."
        ) from error
    finally:
        _ask(target.base_url, "DELETE", "/queues/order", {_TOKEN: token})


def _enter(base_url: str, user: int) -> str:
    """The token of a new place. Raises CannotTest."""
    headers = {"Content-Type": "application/json"}
    status, answer = _ask(
        base_url, "POST", "/queues/enqueue", headers, json.dumps({"userId": user})
    )
    token = answer.get(_TOKEN) if answer else None
    if status != 201 or not token:
        raise CannotTest(
            f"Nobody can enter through {base_url} ({f'status {status}' if status else 'no answer'})"
            ": is the queue full or paused?"
        )
    return token


def _claims(token: str) -> dict[str, Any]:
    """What the token states; the gateway has just signed it."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return {"place": int(claims["place"]), "epoch": int(claims["epoch"])}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CannotTest("The gateway gives tokens of another kind than this version.") from error


def _attached_to_containers(base_url: str, ports: Ports, found: Sequence[Container]) -> Target:
    """From this machine the containers can be reached by their addresses, as nobody else can."""
    first = {each.service: each for each in reversed(found)}
    missing = sorted({"mariadb", "redis", "kafka", "queue", *DATABASES} - first.keys())
    if missing:
        raise CannotTest(f"No container runs of {', '.join(missing)}: see docker ps, and make up.")

    def at(service: str, port: int) -> str:
        network = "services" if service == "queue" else service
        return f"{first[service].addresses[network]}:{port}"

    def here(url: str, service: str, port: int) -> str:
        """The URL that a program was told, with an address in place of the service's name."""
        return url.replace(f"@{service}:{port}", f"@{at(service, port)}")

    return Target(
        base_url=base_url,
        mysql_urls={
            name: here(first[name].env[f"{name.upper()}_MYSQL_URL"], "mariadb", 3306)
            for name in DATABASES
        },
        redis_url=here(first["queue"].env["QUEUE_REDIS_URL"], "redis", 6379),
        kafka_bootstrap=at("kafka", 9094),
        queue_addr=at("queue", 9101),
        ports=ports,
        own=False,
        containers=found,
    )


def _ready(base_url: str) -> int:
    """The status of /health/ready; 0 if nobody answers. Raises CannotTest for what is no URL."""
    parts = urlsplit(base_url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise CannotTest(f"BASE_URL must look like http://127.0.0.1:8080, not {base_url!r}.")
    return _ask(base_url, "GET", "/health/ready")[0]


def _ask(
    base_url: str,
    method: str,
    path: str,
    headers: Mapping[str, str] = types.MappingProxyType({}),
    body: str | None = None,
) -> tuple[int, http.client.HTTPMessage | None]:
    """Status and headers of the answer; 0 and None if there is none."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(
        parts.hostname or HOST, parts.port or 80, timeout=_SECONDS / 2
    )
    try:
        connection.request(method, parts.path + path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def _number_of(error: Exception) -> str:
    """Of an error of the database; its text may tell secrets."""
    return f"error {error.args[0] if error.args else type(error).__name__}"
