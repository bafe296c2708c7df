"""Redis, MariaDB and Kafka as processes of our own: own ports, own data, 127.0.0.1 only."""

from __future__ import annotations

import asyncio
import base64
import os
import pwd
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pymysql
import redis
from pymysql.cursors import Cursor
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness import stopping as stop_request
from harness.errors import UserError
from harness.local.ports import HOST, Ports
from harness.local.process import Process, find_binary, run_to_end
from protos import topics

REPOSITORY = Path(__file__).resolve().parents[2]
KAFKA_JARS = REPOSITORY / ".local" / "lib" / "kafka" / "libs"
KAFKA_FILES = REPOSITORY / "deploy" / "config" / "kafka"


def _operating_system_user() -> str:
    """Whom MariaDB sees at the other end of its socket: the effective user, whatever $LOGNAME."""
    return pwd.getpwuid(os.geteuid()).pw_name


class Redis(Process):
    stop_timeout = 10.0

    def __init__(self, *, data: Path, port: int, log_path: Path, stopping: threading.Event) -> None:
        super().__init__("redis", log_path=log_path, cwd=REPOSITORY, stopping=stopping)
        self._data = data
        self.port = port
        self.url = f"redis://{HOST}:{port}/0"

    def prepare(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)

    def command(self, module: str | None) -> Sequence[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self._data),
            "daemonize": "no",
            # The waiting room survives a restart but for its last second, which it heals itself.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # A full Redis must refuse new places rather than drop old ones.
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [find_binary("redis-server"), *arguments]

    def probe(self) -> bool:
        client = redis.Redis(
            host=HOST, port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:  # not listening yet, or still loading its data
            return False
        finally:
            client.close()


class MariaDb(Process):
    # A restart after kill -9 replays the redo log first.
    start_timeout = 120.0
    stop_timeout = 30.0

    def __init__(
        self, *, data: Path, port: int, buffer_pool: str, log_path: Path, stopping: threading.Event
    ) -> None:
        super().__init__("mariadb", log_path=log_path, cwd=REPOSITORY, stopping=stopping)
        self._data = data
        # Of its own: a MariaDB that starts deletes the temporary tables in its folder for them,
        # in /tmp also those of another one that is being installed.
        self._temporary = data.with_name(data.name + ".tmp")
        self._buffer_pool = buffer_pool
        self.port = port

    def prepare(self) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True)
        if self._data.exists():
            return
        # Under another name until it is complete, so that an interrupted installation is not
        # taken for a database.
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
                # The administrator is whoever runs this, through the socket and nothing else.
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={_operating_system_user()}",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            what="preparing MariaDB's data directory",
            env=os.environ,
            cwd=self._cwd,
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
            # Relative to the data directory: a Unix socket's path ends at 107 bytes.
            "--socket=mariadb.sock",
            "--pid-file=mariadb.pid",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--max-connections=400",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_unicode_ci",
            "--default-time-zone=+00:00",
            "--transaction-isolation=READ-COMMITTED",
            f"--innodb-buffer-pool-size={self._buffer_pool}",
            # A reply of success means durable: sync at every commit.
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
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            # By way of an open descriptor, because of the 107 bytes again.
            directory = os.open(self._data, os.O_RDONLY | os.O_DIRECTORY)
            try:
                link.connect(f"/proc/self/fd/{directory}/mariadb.sock")
            finally:
                os.close(directory)
            connection = pymysql.connect(
                user=_operating_system_user(),
                database=database,
                charset="utf8mb4",
                autocommit=True,
                # pymysql does not close a socket whose connect() failed; we do.
                defer_connect=True,
            )
            connection.connect(link)
            try:
                with connection.cursor() as cursor:
                    yield cursor
            finally:
                connection.close()

    def create_database(self, name: str, password: str) -> None:
        """Makes a schema and its user of the same name, who can touch nothing else."""
        with self.administrator() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")
            # 127.0.0.1 and not localhost: with skip-name-resolve that is what TCP clients are.
            cursor.execute(f"CREATE USER IF NOT EXISTS '{name}'@'{HOST}'")
            cursor.execute(f"ALTER USER '{name}'@'{HOST}' IDENTIFIED BY %s", (password,))
            cursor.execute(f"GRANT ALL PRIVILEGES ON `{name}`.* TO '{name}'@'{HOST}'")


class Kafka(Process):
    stop_timeout = 20.0

    def __init__(
        self, *, data: Path, ports: Ports, heap: str, log_path: Path, stopping: threading.Event
    ) -> None:
        super().__init__("kafka", log_path=log_path, cwd=REPOSITORY, stopping=stopping)
        self._data = data
        self._ports = ports
        self._heap = heap
        self.bootstrap = f"{HOST}:{ports.kafka}"

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
        settings = "".join(f"{key}={value}\n" for key, value in self._settings().items())
        self._config.write_text(settings)
        if (self._data / "logs" / "meta.properties").exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        run_to_end(
            # With "=", because one id in 64 begins with "-" and would be taken for an option.
            self._java(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",
                f"--config={self._config}",
            ),
            what="formatting Kafka's storage",
            env=os.environ,
            cwd=self._cwd,
            log_path=self.log_path,
            stopping=self._stopping,
            timeout=120,
        )

    def _settings(self) -> dict[str, object]:
        broker, controller = self.bootstrap, f"{HOST}:{self._ports.kafka_controller}"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self._data / "logs",
            # A topic misspelt should be an error, not a new topic.
            "auto.create.topics.enable": "false",
            # One node: nothing can be replicated, and 50 partitions for offsets (the default)
            # only cost time at start.
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # The first consumer of a group need not wait 3 s for others to come.
            "group.initial.rebalance.delay.ms": 0,
            # A broker that was killed cannot come back before its old session has timed out:
            # 9 s by default, far too long for a single node that nobody else can replace.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            # The fewest threads that serve: the machine is shared with everything else.
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 2,
            "background.threads": 2,
        }

    def _java(self, main_class: str, *arguments: object) -> list[str]:
        return [
            find_binary("java"),
            f"-Xmx{self._heap}",
            # Cheapest to start and to run at this size.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={KAFKA_FILES / 'log4j2.properties'}",
            "-cp",
            f"{KAFKA_JARS}/*",
            main_class,
            *map(str, arguments),
        ]

    def command(self, module: str | None) -> Sequence[str]:
        return self._java("kafka.Kafka", self._config)

    def probe(self) -> bool:
        # The broker opens its port last, when all else is ready.
        with socket.create_connection((HOST, self._ports.kafka), timeout=1):
            return True

    def create_topics(self, timeout: float = 30.0) -> None:
        """Makes the topics that are missing. Raises UserError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                # In a thread, because the caller's thread may have an event loop of its own.
                with ThreadPoolExecutor(max_workers=1) as pool:
                    pool.submit(asyncio.run, topics.create(self.bootstrap)).result()
                return
            except Exception as error:
                if time.monotonic() > deadline or self._stopping.is_set() or not self.running:
                    raise UserError(
                        f"Kafka does not accept topics ({error!r}); its log is {self.log_path}."
                    ) from error
                stop_request.wait(0.2)
