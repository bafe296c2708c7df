"""The whole stack: three servers, five programs, their data and their secrets."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from harness import topology
from harness.files import REPOSITORY
from harness.local.ports import HOST, Ports, free_ports
from harness.local.process import Process, in_parallel, run_to_end, wait_until_ready
from harness.local.servers import MariaDb, kafka, mysql_url, redis, redis_url
from harness.secrets import Secrets

SeedSize = Literal["full", "small", "none"]
PYTHON = str(REPOSITORY / ".venv" / "bin" / "python")


class Stack:
    """Everything Frontrow needs, as child processes of this one.

    They die with this process, however it ends. A stack is started once and stopped once; to start
    again with the same data, make another Stack with the same `root`.

    The methods block: from a coroutine, call them through asyncio.to_thread.

    root            data, logs and secrets are below it, and stay after stop()
    ports           Ports.free() in tests
    buffer_pool     of MariaDB, in its notation
    program_env     module → settings that differ from the usual ones
    inherit_settings  our own QUEUE_…, CONCERT_… etc. variables win over the defaults (`make run`)
    """

    def __init__(
        self,
        root: Path,
        ports: Ports,
        *,
        buffer_pool: str = "256M",
        program_env: Mapping[str, Mapping[str, str]] | None = None,
        inherit_settings: bool = False,
    ) -> None:
        self.root = root.resolve()
        self.ports = ports
        self.secrets = Secrets.load_or_create(self.root / "secrets.json")
        self._program_env = program_env or {}
        self._inherit_settings = inherit_settings
        self._stopping = threading.Event()
        self.redis = redis(self.root, ports, self._stopping)
        self.mariadb = MariaDb(self.root, ports, self._stopping, buffer_pool)
        self.kafka = kafka(self.root, ports, self._stopping)
        self.servers: list[Process] = [self.redis, self.mariadb, self.kafka]
        self.programs = [
            self._program(program, program.module, {}) for program in topology.PROGRAMS
        ]

    # --- addresses and processes ---------------------------------------------------------

    @property
    def gateway_url(self) -> str:
        return f"http://{self.address('gateway')}"

    @property
    def redis_url(self) -> str:
        return redis_url(self.ports)

    @property
    def kafka_bootstrap(self) -> str:
        return self.kafka.address

    def mysql_url(self, schema: str) -> str:
        """`mysql://user:password@host:port/schema`."""
        return mysql_url(schema, self.ports, self.secrets)

    def address(self, program: str) -> str:
        """host:port of a process."""
        return self.process(program).address

    def environment(self, program: str) -> Mapping[str, str]:
        """The whole environment a program (or a replica) is started with."""
        return self.process(program).environment

    def process(self, name: str) -> Process:
        """`redis`, `mariadb`, `kafka`, a program by its module name, or a replica by its name."""
        return {process.name: process for process in self.processes()}[name]

    def processes(self) -> list[Process]:
        return [*self.servers, *self.programs]

    # --- starting ------------------------------------------------------------------------

    def start(self, *, seed: SeedSize = "small", show: bool = False) -> None:
        """Starts servers, creates databases, topics and seats, and starts the programs.

        `show`: see `seed`. On any error everything is stopped again.
        """
        try:
            self.start_servers()
            self.seed(seed, show=show)
            self.start_services()
        except BaseException:
            self.stop()
            raise

    def start_servers(self) -> None:
        """Starts Redis, MariaDB with its tables, and Kafka with its topics, in parallel."""

        def mariadb() -> None:
            self.mariadb.start()
            self.create_databases()
            self.migrate()

        def kafka() -> None:
            self.kafka.start()
            self.create_topics()

        in_parallel([self.redis.start, mariadb, kafka], self._stopping)

    def create_databases(self) -> None:
        """Creates each schema and its user. Idempotent."""
        for name in topology.SCHEMAS:
            self.mariadb.create_database(name, self.secrets.mysql[name])

    def create_topics(self) -> None:
        """Creates the missing Kafka topics. Log: topics.log."""
        run_to_end(
            [PYTHON, "-m", "protos.topics"],
            what="creating Kafka's topics",
            env={**os.environ, "KAFKA_BOOTSTRAP": self.kafka_bootstrap},
            log_path=self._log("topics"),
            stopping=self._stopping,
            timeout=60,
        )

    def migrate(self) -> None:
        """Brings the schemas to the newest version. Logs: migrate-<program>.log."""

        def migrate_one(name: str) -> None:
            run_to_end(
                [PYTHON, "-m", "servicekit.migrate", name],
                what=f"migrating {name}",
                env=self.environment(name),
                log_path=self._log(f"migrate-{name}"),
                stopping=self._stopping,
                timeout=300,
            )

        names = [program.module for program in topology.PROGRAMS if program.schema]
        in_parallel([partial(migrate_one, name) for name in names], self._stopping)

    def seed(self, size: SeedSize, *, show: bool = False) -> None:
        """Creates concerts, schedules and seats, unless they exist. Log: seed.log.

        `show`: its progress goes to our output instead.
        """
        if size == "none":
            return
        run_to_end(
            [PYTHON, "-m", "concert_service.seed"],
            what="seeding concerts",
            env={**self.environment("concert_service"), "SEED": size},
            log_path=None if show else self._log("seed"),
            stopping=self._stopping,
            timeout=1800,
        )

    def start_services(self, only: Iterable[str] | None = None) -> None:
        """Starts programs or replicas (by name; default all) at once and waits for all."""
        chosen = [self.process(name) for name in only or topology.BY_MODULE]
        for process in chosen:
            process.start(wait=False)
        # The gateway comes last: it waits for the services, and an error must name the service
        # that failed.
        wait_until_ready(chosen)

    def add_replica(self, module: str, extra_env: Mapping[str, str] | None = None) -> Process:
        """Adds a program beside the first of its kind, on free ports; does not start it.

        Its name is <module>_2, _3, …; find it later with process(name).
        """
        program = topology.BY_MODULE[module]
        number = 1 + sum(other.name.startswith(module) for other in self.programs)
        listen, metrics, admin = free_ports(3)
        env = {
            f"{program.prefix}LISTEN": f"{HOST}:{listen}",
            f"{program.prefix}METRICS_LISTEN": f"{HOST}:{metrics}",
        }
        if program.admin_port:
            env[f"{program.prefix}ADMIN_LISTEN"] = f"{HOST}:{admin}"
        replica = self._program(program, f"{module}_{number}", {**env, **(extra_env or {})})
        self.programs.append(replica)
        return replica

    # --- stopping ------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """Stops everything that runs: gateways, then services, then servers.

        Each gets SIGTERM, a bounded time, then SIGKILL. Returns the names of those that had to be
        killed. May be called twice, and while another thread is still starting.
        """
        self._stopping.set()
        killed: list[str] = []

        def stop_one(process: Process) -> None:
            if not process.stop():
                killed.append(process.name)

        # In this order, so that running requests can still be completed. The servers are
        # independent of each other and stop together.
        gateways = [process for process in self.programs if process.name.startswith("gateway")]
        services = [process for process in self.programs if process not in gateways]
        for group in (gateways, services, self.servers):
            in_parallel([partial(stop_one, process) for process in group], self._stopping)
        return killed

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _log(self, name: str) -> Path:
        return self.root / "log" / f"{name}.log"

    def _program(
        self, program: topology.Program, name: str, extra_env: Mapping[str, str]
    ) -> Process:
        prefixes = tuple(each.prefix for each in topology.PROGRAMS)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if self._inherit_settings or not name.startswith(prefixes)
        }
        env = {
            **inherited,
            **topology.settings(
                program,
                listen=self.ports.address,
                target=self.ports.address,
                mysql_url=self.mysql_url,
                redis_url=self.redis_url,
                kafka_bootstrap=self.kafka_bootstrap,
                token_keys=json.dumps(self.secrets.token_keys),
                token_signing_key_id=self.secrets.token_signing_key_id,
                admin_token=self.secrets.admin_token,
            ),
            **{name: value for name, value in inherited.items() if name.startswith(program.prefix)},
            # The log must have what a program printed before it was killed.
            "PYTHONUNBUFFERED": "1",
            **self._program_env.get(program.module, {}),
            **extra_env,
        }

        def address(variable: str) -> str:
            host, _, port = env[program.prefix + variable].rpartition(":")
            return f"{HOST if host in ('', '0.0.0.0', '[::]') else host}:{port}"

        port, path = program.health_check
        health = address("LISTEN" if port == program.port else "METRICS_LISTEN")
        return Process(
            name,
            [PYTHON, "-m", program.module],
            probe=lambda: http_status(health, path) == 200,
            log_path=self._log(name),
            stopping=self._stopping,
            environment=env,
            address=address("LISTEN"),
            # A program drains for 10 s by default.
            stop_timeout=20.0,
        )


def http_status(address: str, path: str) -> int:
    """The status that GET answers; 0 for another protocol than HTTP. Raises OSError for none."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException:
        return 0
    finally:
        connection.close()
