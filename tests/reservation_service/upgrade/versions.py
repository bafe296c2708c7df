"""Programs of two versions, with tables, topics and locks of their own."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pymysql.cursors import Cursor

from harness.files import REPOSITORY
from harness.local.ports import HOST, free_ports
from harness.local.process import Process, in_parallel, run_to_end, wait_until_ready
from harness.local.stack import PYTHON, Stack, http_status
from tests.reservation_service.upgrade.tables import Tables

#: The last commit that knows neither seats of the house nor closed schedules.
BEFORE = "85a728cb3e8ac9155026959d97ca66ececc90672"
HOLD_SECONDS = 0.6
LEASE_SECONDS = 0.9
#: Seats of concert_service with SEED=small: 2 concerts with 3 schedules of 150 seats.
SCHEDULES = (1, 2, 3, 101, 102, 103)
_ALL = [(schedule - 1) * 150 + n for schedule in SCHEDULES for n in range(1, 151)]
#: What fans want, and seats of one date that none of them wants.
SEATS, FREE_SEATS = _ALL[:-4], _ALL[-4:]
_SETTINGS = {
    "HOLD_SECONDS": str(HOLD_SECONDS),
    "COOL_DOWN_SECONDS": "0",
    "PAYMENT_LEASE_SECONDS": str(LEASE_SECONDS),
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "KAFKA_SESSION_SECONDS": "1",
}
# The topics of other tests have payments that these programs do not know.
_RUN = (
    "import runpy, protos.topics as t; t.PAYMENT_EVENTS, t.RESERVATION_EVENTS = {payments!r},"
    " {reservations!r}; t.RESERVATION_GROUP = {payments!r};"
    " runpy.run_module('reservation_service', run_name='__main__')"
)


def unpack_version_before(folder: Path) -> bool:
    """Unpacks the version before into `folder`. Returns False if the repository lacks it, as a
    shallow clone and an unpacked archive do."""
    git = ["git", "-C", str(REPOSITORY)]
    known = subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True)
    if known.returncode:
        return False
    archive = subprocess.run([*git, "archive", BEFORE], capture_output=True, check=True)
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True)
    return True


class Versions:
    """Programs of both versions on the servers of a stack, whose schemas stay as they are."""

    def __init__(self, servers: Stack, before: Path, logs: Path) -> None:
        self._servers, self._before, self._logs = servers, before, logs
        self._stopping = threading.Event()
        self.tables = tables = Tables(servers)
        concerts = f"{tables.schema}_concert"
        servers.mariadb.create_database(concerts, concerts)
        self._concerts = f"mysql://{concerts}:{concerts}@{servers.mariadb.address}/{concerts}"
        self.payments = f"{tables.schema}-payments"
        self.reservations = f"{tables.schema}-reservations"
        self.concert = self._program("concert_service", "concert", {}, REPOSITORY)
        settings = {
            "MYSQL_URL": tables.url,
            "REDIS_URL": f"redis://{servers.redis.address}/{tables.number}",
            "KAFKA_BOOTSTRAP": servers.kafka_bootstrap,
            "CONCERT_ADDR": self.concert.address,
            **_SETTINGS,
        }
        self.old = self._program("reservation_service", "old", settings, before)
        self.new = self._program("reservation_service", "new", settings, REPOSITORY)

    def _program(self, module: str, name: str, settings: dict[str, str], folder: Path) -> Process:
        listen, metrics = (f"{HOST}:{port}" for port in free_ports(2))
        prefix = module.removesuffix("_service").upper()
        settings = {"LISTEN": listen, "METRICS_LISTEN": metrics, **settings}
        if module == "concert_service":
            settings["MYSQL_URL"] = self._concerts
        command = [PYTHON, "-m", module]
        if module == "reservation_service":
            run = _RUN.format(payments=self.payments, reservations=self.reservations)
            command = [PYTHON, "-c", run]
        return Process(
            name,
            command,
            probe=lambda: http_status(metrics, "/health") == 200,
            log_path=self._logs / f"{name}.log",
            stopping=self._stopping,
            environment={
                **self._servers.environment(module),
                **{f"{prefix}_{key}": value for key, value in settings.items()},
            },
            address=listen,
            cwd=folder,
            stop_timeout=20.0,
        )

    async def create_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers.kafka_bootstrap)
        await admin.start()
        names = (self.payments, f"{self.payments}.dlq", self.reservations)
        await admin.create_topics([NewTopic(name, 2, 1) for name in names])
        await admin.close()

    def start_version_before(self, fill: Callable[[Cursor], None] | None = None) -> None:
        """Makes the tables of the version before, fills them, makes seats for sale, and starts that
        version."""

        def concerts() -> None:
            self._run("servicekit.migrate", "concert_service")
            self._run("concert_service.seed", SEED="small")

        def reservations() -> None:
            self.migrate_as_version_before()
            if fill is not None:
                with self.tables.cursor() as cursor:
                    fill(cursor)

        in_parallel([reservations, concerts], self._stopping)
        for program in (self.concert, self.old):
            program.start(wait=False)
        wait_until_ready([self.concert, self.old])

    def migrate_as_version_before(self) -> None:
        self._run("servicekit.migrate", "reservation_service", folder=self._before)

    def expand(self) -> None:
        self._run("servicekit.migrate", "reservation_service", "--expand")

    def _run(self, command: str, *words: str, folder: Path = REPOSITORY, **environ: str) -> None:
        run_to_end(
            ["env", "-C", str(folder), PYTHON, "-m", command, *words],
            what=f"running {command}",
            env={
                **self._servers.environment("reservation_service"),
                "CONCERT_MYSQL_URL": self._concerts,
                "RESERVATION_MYSQL_URL": self.tables.url,
                **environ,
            },
            log_path=self._logs / f"{'-'.join([command, *words])}.log",
            stopping=self._stopping,
            timeout=300,
        )

    def stop(self) -> list[str]:
        """Stops all programs. Returns those that had to be killed."""
        running = [each for each in (self.old, self.new, self.concert) if each.running]
        return [each.name for each in running if not each.stop()]
