"""Redis, MariaDB and Kafka as processes: own ports, own data, 127.0.0.1 only."""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
from pymysql.cursors import Cursor
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.ports import HOST, Ports
from harness.local.process import Process, run_to_end
from harness.secrets import Secrets

KAFKA_JARS = REPOSITORY / ".local" / "lib" / "kafka" / "libs"
KAFKA_CONFIG = REPOSITORY / "deploy" / "config" / "kafka"
_JAVA = (
    "java",
    # Enough for tests and for `make run`.
    "-Xmx512m",
    # Cheapest to start and to run at this heap size.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # Nobody reads the counters that it would update 20 times per second.
    "-XX:-UsePerfData",
    f"-Dlog4j2.configurationFile={KAFKA_CONFIG / 'log4j2.properties'}",
    "-cp",
    f"{KAFKA_JARS}/*",
)


def _operating_system_user() -> str:
    """The user that MariaDB sees at the other end of its socket; $LOGNAME may differ."""
    return pwd.getpwuid(os.geteuid()).pw_name


def mysql_url(schema: str, ports: Ports, secrets: Secrets) -> str:
    """`mysql://user:password@host:port/schema`."""
    return f"mysql://{schema}:{secrets.mysql[schema]}@{ports.address('mariadb')}/{schema}"


def redis_url(ports: Ports) -> str:
    return f"redis://{ports.address('redis')}/0"


def redis(root: Path, ports: Ports, stopping: threading.Event) -> Process:
    """A Redis with its data in `root`/data/redis and its log in `root`/log."""
    data = root / "data" / "redis"
    options = {
        "bind": HOST,
        "port": str(ports["redis"]),
        "dir": str(data),
        "daemonize": "no",
        # A restart loses at most the last second of the waiting room, which repairs itself.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Half of the default: it also decides how late a blocking command may end.
        "hz": "5",
        # A full Redis must refuse new places, not evict old ones.
        "maxmemory-policy": "noeviction",
    }

    def probe() -> bool:
        with Redis(
            host=HOST, port=ports["redis"], socket_timeout=1, retry=Retry(NoBackoff(), 0)
        ) as client:
            try:
                return bool(client.ping())
            except RedisError:  # not listening yet, or loading its data
                return False

    return Process(
        "redis",
        ["redis-server", *(part for key, value in options.items() for part in (f"--{key}", value))],
        prepare=lambda: data.mkdir(parents=True, exist_ok=True),
        probe=probe,
        log_path=root / "log" / "redis.log",
        address=ports.address("redis"),
        stopping=stopping,
        stop_timeout=10.0,
    )


class MariaDb(Process):
    """A MariaDB with its data in `root`/data/mariadb and its log in `root`/log."""

    def __init__(
        self, root: Path, ports: Ports, stopping: threading.Event, buffer_pool: str
    ) -> None:
        self._data = root / "data" / "mariadb"
        # Not /tmp: a MariaDB that starts deletes the temporary tables there, including those of
        # another one that is being installed.
        self._temporary = root / "data" / "mariadb.tmp"
        command = [
            "mariadbd",
            "--no-defaults",
            f"--user={_operating_system_user()}",
            f"--datadir={self._data}",
            f"--tmpdir={self._temporary}",
            # Relative to the data directory: a Unix socket's path has at most 107 bytes.
            "--socket=mariadb.sock",
            "--pid-file=mariadb.pid",
            f"--bind-address={HOST}",
            f"--port={ports['mariadb']}",
            "--skip-name-resolve",
            "--max-connections=400",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_unicode_ci",
            "--default-time-zone=+00:00",
            "--transaction-isolation=READ-COMMITTED",
            f"--innodb-buffer-pool-size={buffer_pool}",
            # A successful response means durable: sync at every commit.
            "--innodb-flush-log-at-trx-commit=1",
            "--skip-log-bin",
        ]
        super().__init__(
            "mariadb",
            command,
            prepare=self._install,
            probe=self._answers,
            log_path=root / "log" / "mariadb.log",
            address=ports.address("mariadb"),
            stopping=stopping,
            # A restart after kill -9 replays the redo log first.
            start_timeout=120.0,
            stop_timeout=30.0,
        )

    def _install(self) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True)
        if self._data.exists():
            return
        # Renamed once it is complete, so that an interrupted installation is not used.
        unfinished = self._data.with_name(self._data.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        run_to_end(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={unfinished}",
                f"--tmpdir={self._temporary}",
                f"--user={_operating_system_user()}",
                # The administrator is our own user, through the socket only.
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={_operating_system_user()}",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            what="preparing MariaDB's data directory",
            log_path=self.log_path,
            stopping=self.stopping,
            timeout=120,
        )
        unfinished.rename(self._data)

    def _answers(self) -> bool:
        try:
            with self.administrator() as cursor:
                cursor.execute("SELECT 1")
            return True
        except pymysql.Error:
            return False

    @contextmanager
    def administrator(self, database: str | None = None) -> Iterator[Cursor]:
        """A cursor with all rights, autocommit on, through the server's socket."""
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.settimeout(10)
            # Through an open descriptor, because of the limit of 107 bytes.
            directory = os.open(self._data, os.O_RDONLY | os.O_DIRECTORY)
            try:
                unix_socket.connect(f"/proc/self/fd/{directory}/mariadb.sock")
            finally:
                os.close(directory)
            connection = pymysql.connect(
                user=_operating_system_user(),
                database=database,
                charset="utf8mb4",
                autocommit=True,
                # pymysql otherwise reads all certificates of the system, which takes 0.1 s.
                ssl_disabled=True,
                # pymysql does not close a socket whose connect() failed; the `with` does.
                defer_connect=True,
            )
            connection.connect(unix_socket)
            try:
                with connection.cursor() as cursor:
                    yield cursor
            finally:
                connection.close()

    def create_database(self, name: str, password: str) -> None:
        """Creates a schema and a user of the same name with no other rights. Idempotent."""
        with self.administrator() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")
            # 127.0.0.1 and not localhost: with skip-name-resolve, TCP clients match only that.
            cursor.execute(f"CREATE USER IF NOT EXISTS '{name}'@'{HOST}'")
            cursor.execute(f"ALTER USER '{name}'@'{HOST}' IDENTIFIED BY %s", (password,))
            cursor.execute(f"GRANT ALL PRIVILEGES ON `{name}`.* TO '{name}'@'{HOST}'")


def kafka(root: Path, ports: Ports, stopping: threading.Event) -> Process:
    """A Kafka with its data in `root`/data/kafka and its log in `root`/log."""
    data, log_path = root / "data" / "kafka", root / "log" / "kafka.log"
    config = data / "server.properties"
    broker, controller = ports.address("kafka"), ports.address("kafka_controller")

    def prepare() -> None:
        if not KAFKA_JARS.is_dir():
            raise UserError(
                f"Kafka's jars are not in {KAFKA_JARS}: run harness/bootstrap.sh run first."
            )
        data.mkdir(parents=True, exist_ok=True)
        # Written at each start, because the ports may have changed. Settings of the container, with
        # our own ports and folder: the last line of a key counts.
        config.write_text(
            (KAFKA_CONFIG / "server.properties").read_text()
            + f"controller.quorum.voters=1@{controller}\n"
            + f"listeners=CONTAINERS://{broker},CONTROLLER://{controller}\n"
            + f"advertised.listeners=CONTAINERS://{broker}\n"
            + f"log.dirs={data / 'logs'}\n"
            # Tests shorten the sessions of their consumers below Kafka's minimum of 6 s.
            + "group.min.session.timeout.ms=500\n"
        )
        if (data / "logs" / "meta.properties").exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # With "=", because one id in 64 begins with "-", as options do.
        arguments = ("format", f"--cluster-id={cluster_id}", f"--config={config}")
        run_to_end(
            [*_JAVA, "kafka.tools.StorageTool", *arguments],
            what="formatting Kafka's storage",
            log_path=log_path,
            stopping=stopping,
            timeout=120,
        )

    def probe() -> bool:
        # The broker opens its port last.
        with socket.create_connection((HOST, ports["kafka"]), timeout=1):
            return True

    return Process(
        "kafka",
        [*_JAVA, "kafka.Kafka", str(config)],
        prepare=prepare,
        probe=probe,
        log_path=log_path,
        address=broker,
        stopping=stopping,
        stop_timeout=20.0,
    )
