"""The system under load: its gateway, databases, processes and containers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import pymysql

from harness import stopping, topology
from harness.containers.engine import Container
from harness.errors import UserError
from harness.local import Ports
from harness.local.ports import HOST
from loadtests import containers, machine
from loadtests.containers import Cgroup
from loadtests.model import Cap, Volume

#: A port of topology.PORTS, or a service of deploy/compose.yml → its name in the report.
_NAMES = {program.name: program.module for program in topology.PROGRAMS} | {
    server.name: server.name for server in topology.SERVERS
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a load test finds the parts of the system."""

    base_url: str
    mysql_urls: Mapping[str, str]
    redis_url: str
    kafka_bootstrap: str
    queue_addr: str
    ports: Ports
    #: The credential of operators; empty if queue_service wants none.
    admin_token: str = ""
    #: Whether it was started for this test, with data of its own.
    own: bool = False
    #: Its containers, if `make up` started it on this machine.
    containers: Sequence[Container] = ()

    @contextlib.contextmanager
    def database(self, schema: str) -> Iterator[pymysql.cursors.Cursor]:
        """Opens a cursor in a schema. Raises UserError if the database does not answer."""
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
                # As the programs connect.
                ssl_disabled=True,
            )
        except (pymysql.MySQLError, ValueError, OSError) as error:
            raise UserError(
                f"The database {schema} at {parts.hostname}:{parts.port or 3306} cannot be read"
                f" ({_number_of(error)}): set {schema.upper()}_MYSQL_URL to where it is."
            ) from error
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except pymysql.MySQLError as error:
            raise UserError(
                f"The database {schema} at {parts.hostname}:{parts.port or 3306} does not answer as"
                f" it should ({_number_of(error)}): is it migrated, and does it still run?"
            ) from error

    def rows(self, schema: str, sql: str) -> Sequence[tuple[Any, ...]]:
        """Reads all rows of a query. Raises UserError as `database` does."""
        with self.database(schema) as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def volume(self) -> Volume:
        """Counts what is for sale. Raises UserError if the database is not seeded."""
        tables = ("concert", "schedule", "seat")
        counts = ", ".join(f"(SELECT COUNT(*) FROM {table})" for table in tables)
        with self.database("concert") as cursor:
            try:
                cursor.execute(f"SELECT {counts}")
                found = cursor.fetchone() or (0, 0, 0)
            except pymysql.ProgrammingError:
                found = (0, 0, 0)
        if 0 in found:
            raise UserError(
                "The database is not seeded: if make run started the system, make stop and then"
                " make run (or SEED=small make run) fill it; if make up did, make up SEED=full."
            )
        return Volume(concerts=found[0], schedules=found[1], seats=found[2])

    def sold(self) -> int:
        """The id of the newest reservation, which grows with each hold."""
        ((newest,),) = self.rows("reservation", "SELECT COALESCE(MAX(id), 0) FROM reservation")
        return int(newest)

    def require_sold(self, before: int, seats: int) -> None:
        """Raises UserError if the database has fewer than `seats` new reservations since `sold`
        returned `before`: then it is not the database behind this gateway."""
        if (known := self.sold() - before) < seats:
            raise UserError(
                f"The database shows {known:,} reservations since the start and the gateway gave"
                f" {seats:,}: RESERVATION_MYSQL_URL is not the database behind {self.base_url}."
            )

    def schedule_without_reservations(self) -> int:
        """A random schedule without any reservation. Raises UserError if there is none."""
        taken = self.rows("reservation", "SELECT DISTINCT schedule_id FROM reservation")
        free = set(self.rows("concert", "SELECT id FROM schedule")).difference(taken)
        if not free:
            raise UserError("Every date already has reservations: seed the database again.")
        return int(random.choice(sorted(free))[0])

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Waits until the gateway, which may have been overloaded, is ready. Raises UserError."""
        deadline = time.monotonic() + seconds
        while (status := ready(self.base_url)) != 200:
            if time.monotonic() > deadline:
                raise UserError(
                    f"The gateway at {self.base_url} is still not ready after {seconds:.0f} s"
                    f" ({f'status {status}' if status else 'no answer'})."
                )
            stopping.wait(0.5)

    def cgroups(self) -> dict[str, list[Cgroup]]:
        """The containers by the name that the report uses; empty without containers."""
        found: dict[str, list[Cgroup]] = {}
        for each in self.containers:
            found.setdefault(_NAMES.get(each.service, each.service), []).append(Cgroup(each.pid))
        return found

    def caps(self) -> dict[str, Cap]:
        """What the containers of each name may use together; empty without containers."""
        return {
            name: Cap(
                cores=round(sum(group.cores() or 0 for group in groups), 3),
                mib=round(sum(group.memory_limit() or 0 for group in groups) / 2**20),
                containers=len(groups),
            )
            for name, groups in self.cgroups().items()
        }

    def versions(self) -> tuple[str, dict[str, str]]:
        """Where the versions were found ("containers", "machine", or "" for a system that runs
        elsewhere), and the versions."""
        if self.containers:
            execute = functools.partial(containers.execute, self.containers)
            return "containers", machine.versions(execute)
        if set(_NAMES.values()) <= self.pids().keys():
            return "machine", machine.versions()
        return "", {}

    def pids(self) -> dict[str, int]:
        """The process that listens on each of `ports`, by the name that the report uses."""
        names = {self.ports[port]: name for port, name in _NAMES.items()}
        found: dict[str, int] = {}
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid:
                name = names.get(connection.laddr.port)
                if name:
                    # Workers of one program share its port; the lowest pid is their parent.
                    found[name] = min(connection.pid, found.get(name, connection.pid))
        return found


def ready(base_url: str) -> int:
    """The status of the gateway's /health/ready; 0 if it does not respond within 5 s. Raises
    UserError for a URL that is not http."""
    try:
        url = httpx.URL(f"{base_url}/health/ready")
        if url.scheme == "http" and url.host:
            return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return 0
    except httpx.InvalidURL:
        pass
    raise UserError(f"BASE_URL must look like http://127.0.0.1:8080, not {base_url!r}.")


def _number_of(error: Exception) -> str:
    """The number of a database error, because its text may contain secrets."""
    return f"error {error.args[0] if error.args else type(error).__name__}"
