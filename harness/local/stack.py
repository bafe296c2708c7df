"""The whole stack: three servers, five programs, their data and their secrets."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

from harness.local import programs
from harness.local.credentials import DATABASES, Credentials
from harness.local.ports import HOST, Ports, free_ports
from harness.local.process import Process, in_parallel, run_to_end, wait_until_ready
from harness.local.programs import MIGRATED, PREFIXES, PYTHON, Program
from harness.local.servers import REPOSITORY, Kafka, MariaDb, Redis

SeedSize = Literal["full", "small", "none"]


class Stack:
    """Everything Frontrow needs, as child processes of this one.

    They die with this process, however it ends. A stack is started once and stopped once; to
    start again with the same data, make another Stack with the same `root`.

    The methods block (seconds): from a coroutine, call them through asyncio.to_thread.

    root            data, logs and secrets go below it; kept at stop()
    ports           Ports.free() in tests
    credentials     default: those of `root`/secrets.json, made if there is none
    buffer_pool     of MariaDB, in its notation
    kafka_heap      in Java's notation
    program_env     program → settings that differ from the usual ones, for the stack's life
    inherit_settings  let this process's own QUEUE_…, CONCERT_… etc. variables win (`make run`)
    """

    def __init__(
        self,
        root: Path,
        ports: Ports,
        *,
        credentials: Credentials | None = None,
        buffer_pool: str = "256M",
        kafka_heap: str = "512m",
        program_env: Mapping[str, Mapping[str, str]] | None = None,
        inherit_settings: bool = False,
    ) -> None:
        self.root = root.resolve()
        self.ports = ports
        self.credentials = credentials or Credentials.load(self.root / "secrets.json")
        self.log_dir = self.root / "log"
        self._program_env = program_env or {}
        self._inherit_settings = inherit_settings
        self._stopping = threading.Event()
        data = self.root / "data"
        self.redis = Redis(
            data=data / "redis",
            port=ports.redis,
            log_path=self._log("redis"),
            stopping=self._stopping,
        )
        self.mariadb = MariaDb(
            data=data / "mariadb",
            port=ports.mariadb,
            buffer_pool=buffer_pool,
            log_path=self._log("mariadb"),
            stopping=self._stopping,
        )
        self.kafka = Kafka(
            data=data / "kafka",
            ports=ports,
            heap=kafka_heap,
            log_path=self._log("kafka"),
            stopping=self._stopping,
        )
        self.servers: list[Process] = [self.redis, self.mariadb, self.kafka]
        self.programs: list[Program] = [self._program(name, name, {}) for name in PREFIXES]

    # --- what is where -------------------------------------------------------------------

    @property
    def gateway_url(self) -> str:
        return f"http://{self.address('gateway')}"

    @property
    def redis_url(self) -> str:
        return self.redis.url

    @property
    def kafka_bootstrap(self) -> str:
        return self.kafka.bootstrap

    def mysql_url(self, schema: str) -> str:
        """`mysql://user:password@host:port/schema` of concert, reservation or payment."""
        return programs.mysql_url(schema, self.ports, self.credentials)

    def address(self, program: str) -> str:
        """host:port of a program or a replica."""
        process = self.process(program)
        if not isinstance(process, Program):
            raise ValueError(f"{program} is a server: ask the stack for its URL")
        return process.address

    def environment(self, program: str) -> Mapping[str, str]:
        """The whole environment a program (or a replica) is started with."""
        return self.process(program).environment()

    def process(self, name: str) -> Process:
        """`redis`, `mariadb`, `kafka`, a program by its module name, or a replica by its name."""
        for process in [*self.servers, *self.programs]:
            if process.name == name:
                return process
        raise KeyError(f"no such process: {name}")

    def processes(self) -> list[Process]:
        return [*self.servers, *self.programs]

    # --- starting ------------------------------------------------------------------------

    def start(self, *, seed: SeedSize = "small", only: Iterable[str] | None = None) -> Stack:
        """Everything in one: servers, databases, topics, migrations, seats, programs.

        `only`: start these programs alone. On any error everything is stopped again.
        """
        try:
            self.start_servers(migrate=True)
            self.seed(seed)
            self.start_services(only)
        except BaseException:
            self.stop()
            raise
        return self

    def start_servers(self, *, migrate: bool = False) -> None:
        """Redis, MariaDB with its schemas and users, and Kafka with its topics, all at once.

        `migrate`: the migrations too, as soon as MariaDB serves; Kafka takes longer to start.
        """

        def mariadb() -> None:
            self.mariadb.start()
            self.create_databases()
            if migrate:
                self.migrate()

        def kafka() -> None:
            self.kafka.start()
            self.create_topics()

        in_parallel([self.redis.start, mariadb, kafka], self._stopping)

    def create_databases(self) -> None:
        """A schema and a user for each of concert, reservation and payment. Idempotent."""
        for name in DATABASES:
            self.mariadb.create_database(name, self.credentials.mysql[name])

    def create_topics(self) -> None:
        """The Kafka topics that are missing."""
        self.kafka.create_topics()

    def migrate(self, only: Iterable[str] | None = None) -> None:
        """Brings the schemas to the newest version. Logs: migrate-<name>.log."""
        names = list(MIGRATED) if only is None else list(only)

        def migrate_one(name: str) -> None:
            run_to_end(
                [str(PYTHON), "-m", "servicekit.migrate", name],
                what=f"migrating {name}",
                env=self.environment(name),
                cwd=REPOSITORY,
                log_path=self._log(f"migrate-{name}"),
                stopping=self._stopping,
                timeout=300,
            )

        in_parallel([partial(migrate_one, name) for name in names], self._stopping)

    def seed(self, size: SeedSize, *, show: bool = False) -> None:
        """Concerts, schedules and seats, unless they are there. Log: seed.log.

        `show`: its progress goes to our output instead.
        """
        if size == "none":
            return
        run_to_end(
            [str(PYTHON), "-m", "concert_service.seed"],
            what="seeding concerts",
            env={**self.environment("concert_service"), "SEED": size},
            cwd=REPOSITORY,
            log_path=None if show else self._log("seed"),
            stopping=self._stopping,
            timeout=1800,
        )

    def start_services(self, only: Iterable[str] | None = None) -> None:
        """Starts programs or replicas (by name; default the five) at once and waits for all."""
        names = list(PREFIXES) if only is None else list(only)
        chosen = [self.process(name) for name in names]
        for process in chosen:
            process.start(wait=False)
        # The gateway is ready when the services are: last, so that one that fails is named, and
        # not the gateway that waits for it.
        wait_until_ready(chosen)

    def add_replica(self, program: str, extra_env: Mapping[str, str] | None = None) -> Program:
        """One more of a program beside the first, on free ports; not started yet.

        Its name is <program>_2, _3, …; find it again with process(name).
        """
        number = 1 + sum(1 for other in self.programs if other.program == program)
        prefix = PREFIXES[program]
        listen, metrics = free_ports(2)
        env = {
            f"{prefix}_LISTEN": f"{HOST}:{listen}",
            f"{prefix}_METRICS_LISTEN": f"{HOST}:{metrics}",
        }
        replica = self._program(program, f"{program}_{number}", {**env, **(extra_env or {})})
        self.programs.append(replica)
        return replica

    # --- stopping ------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """Stops everything that runs: gateways, then services, then servers.

        Each gets SIGTERM, a bounded time, then SIGKILL. Returns the names of those that had to
        be killed. May be called twice, and while another thread is still starting.
        """
        self._stopping.set()
        killed: list[str] = []

        def stop_one(process: Process) -> None:
            if not process.stop():
                killed.append(process.name)

        # In this order, so that requests under way find what they need to end well. The servers
        # know nothing of each other and stop together.
        gateways = [process for process in self.programs if process.program == "gateway"]
        services = [process for process in self.programs if process.program != "gateway"]
        for group in (gateways, services, self.servers):
            in_parallel([partial(stop_one, process) for process in group], self._stopping)
        return killed

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -------------------------------------------------------------------------------------

    def _log(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def _program(self, program: str, name: str, extra_env: Mapping[str, str]) -> Program:
        env = programs.environment(
            program,
            programs.settings(program, self.ports, self.credentials),
            {**self._program_env.get(program, {}), **extra_env},
            self._inherit_settings,
        )
        return Program(
            program, name=name, env=env, log_path=self._log(name), stopping=self._stopping
        )
