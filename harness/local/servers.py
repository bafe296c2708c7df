"""Redis, MariaDB and Kafka as processes: own ports, own data, 127.0.0.1 only."""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pymysql
import redis
from pymysql.cursors import Cursor
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.errors import UserError
from harness.files import REPOSITORY
from harness.local.ports import HOST, Ports
from harness.local.process import Process, find_binary, run_to_end

KAFKA_JARS = REPOSITORY / ".local" / "lib" / "kafka" / "libs"
KAFKA_CONFIG = REPOSITORY / "deploy" / "config" / "kafka"
# Enough for tests and for `make run`; in Java's notation.
_KAFKA_HEAP = "512m"


def _operating_system_user() -> str:
    """The user that MariaDB sees at the other end of its socket; $LOGNAME may differ."""
    return pwd.getpwuid(os.geteuid()).pw_name


class _Server(Process):
    """Its data is in `root`/data/<name>, its log in `root`/log/<name>.log."""

    def __init__(self, name: str, root: Path, ports: Ports, stopping: threading.Event) -> None:
        super().__init__(name, log_path=root / "log" / f"{name}.log", stopping=stopping)
        self._data = root / "data" / name
        self._ports = ports


class Redis(_Server):
    stop_timeout = 10.0

    def __init__(self, root: Path, ports: Ports, stopping: threading.Event) -> None:
        super().__init__("redis", root, ports, stopping)

    def prepare(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)

    def command(self, module: str | None) -> Sequence[str]:
        options = {
            "bind": HOST,
            "port": str(self._ports["redis"]),
            "dir": str(self._data),
            "daemonize": "no",
            # A restart loses at most the last second of the waiting room, which repairs itself.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # A full Redis must refuse new places, not evict old ones.
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [find_binary("redis-server"), *arguments]

    def probe(self) -> bool:
        client = redis.Redis(
            host=HOST, port=self._ports["redis"], socket_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:  # not listening yet, or loading its data
            return False
        finally:
            client.close()


class MariaDb(_Server):
    # A restart after kill -9 replays the redo log first.
    start_timeout = 120.0
    stop_timeout = 30.0

    def __init__(
        self, root: Path, ports: Ports, stopping: threading.Event, buffer_pool: str
    ) -> None:
        super().__init__("mariadb", root, ports, stopping)
        # Not /tmp: a MariaDB that starts deletes the temporary tables there, including those of
        # another one that is being installed.
        self._temporary = self._data.with_name("mariadb.tmp")
        self._buffer_pool = buffer_pool

    def prepare(self) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True)
        if self._data.exists():
            return
        # Renamed once it is complete, so that an interrupted installation is not used.
        unfinished = self._data.with_name(self._data.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        run_to_end(
            [
                find_binary("mariadb-install-db"),
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
            stopping=self._stopping,
            timeout=120,
        )
        unfinished.rename(self._data)

    def command(self, module: str | None) -> Sequence[str]:
        return [
            find_binary("mariadbd"),
            "--no-defaults",
            f"--user={_operating_system_user()}",
            f"--datadir={self._data}",
            f"--tmpdir={self._temporary}",
            # Relative to the data directory: a Unix socket's path has at most 107 bytes.
            "--socket=mariadb.sock",
            "--pid-file=mariadb.pid",
            f"--bind-address={HOST}",
            f"--port={self._ports['mariadb']}",
            "--skip-name-resolve",
            "--max-connections=400",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_unicode_ci",
            "--default-time-zone=+00:00",
            "--transaction-isolation=READ-COMMITTED",
            f"--innodb-buffer-pool-size={self._buffer_pool}",
            # A successful response means durable: sync at every commit.
            "--innodb-flush-log-at-trx-commit=1",
            "--skip-log-bin",
        ]

    def probe(self) -> bool:
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


class Kafka(_Server):
    stop_timeout = 20.0

    def __init__(self, root: Path, ports: Ports, stopping: threading.Event) -> None:
        super().__init__("kafka", root, ports, stopping)

    @property
    def _config(self) -> Path:
        return self._data / "server.properties"

    def prepare(self) -> None:
        if not KAFKA_JARS.is_dir():
            raise UserError(
                f"Kafka's jars are not in {KAFKA_JARS}: run harness/bootstrap.sh run first."
            )
        self._data.mkdir(parents=True, exist_ok=True)
        # Written at each start, because the ports may have changed.
        self._config.write_text(self._settings())
        if (self._data / "logs" / "meta.properties").exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        run_to_end(
            # With "=", because one id in 64 begins with "-", as options do.
            self._java(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",
                f"--config={self._config}",
            ),
            what="formatting Kafka's storage",
            log_path=self.log_path,
            stopping=self._stopping,
            timeout=120,
        )

    def _settings(self) -> str:
        """Those of the container, with our own ports and folder: the last line of a key counts."""
        broker, controller = self._ports.address("kafka"), self._ports.address("kafka_controller")
        return (
            (KAFKA_CONFIG / "server.properties").read_text()
            + f"controller.quorum.voters=1@{controller}\n"
            + f"listeners=CONTAINERS://{broker},CONTROLLER://{controller}\n"
            + f"advertised.listeners=CONTAINERS://{broker}\n"
            + f"log.dirs={self._data / 'logs'}\n"
            # Tests shorten the sessions of their consumers below Kafka's minimum of 6 s.
            + "group.min.session.timeout.ms=500\n"
        )

    def _java(self, main_class: str, *arguments: object) -> list[str]:
        return [
            find_binary("java"),
            f"-Xmx{_KAFKA_HEAP}",
            # Cheapest to start and to run at this heap size.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={KAFKA_CONFIG / 'log4j2.properties'}",
            "-cp",
            f"{KAFKA_JARS}/*",
            main_class,
            *map(str, arguments),
        ]

    def command(self, module: str | None) -> Sequence[str]:
        return self._java("kafka.Kafka", self._config)

    def probe(self) -> bool:
        # The broker opens its port last.
        with socket.create_connection((HOST, self._ports["kafka"]), timeout=1):
            return True
