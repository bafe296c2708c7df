"""The one table of programs, servers, ports, schemas, topics and their dependencies.

The local stack, `make up`'s commands, the tests and the documentation follow it; deploy/compose.yml
and README.md repeat it and are tested against it.

Standard library only, and Python 3.9: `harness.containers` uses it too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from protos.topics import PAYMENT_EVENTS, RESERVATION_EVENTS


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that is not ours. It has the same name in compose.yml and in the local stack."""

    name: str
    #: Under `make run`.
    port: int
    #: In its container, on the network that has its name.
    container_port: int


@dataclasses.dataclass(frozen=True)
class Program:
    """One of our five programs."""

    #: Python module; `python -m` starts it.
    module: str
    #: Its name in compose.yml, in the names of ports, and in capitals the prefix of its settings.
    name: str
    #: gRPC; HTTP for the gateway.
    port: int
    metrics_port: int
    #: HTTP for operators.
    admin_port: int | None = None
    #: The MariaDB schema and user that it owns.
    schema: str | None = None
    uses_redis: bool = False
    publishes: str | None = None
    consumes: str | None = None
    #: The programs that it calls, by name.
    calls: tuple[str, ...] = ()
    #: Containers that must be healthy, or jobs that must have ended, before its container starts.
    starts_after: tuple[str, ...] = ("migrate",)
    #: Its networks in compose.yml beside `services` and those of its servers.
    networks: tuple[str, ...] = ()
    verifies_tokens: bool = False
    signs_tokens: bool = False
    has_admin_rpcs: bool = False

    @property
    def prefix(self) -> str:
        """The prefix of its settings, with the underscore."""
        return f"{self.name.upper()}_"

    @property
    def health_check(self) -> tuple[int, str]:
        """The port and path whose answer is 200 while it serves."""
        if self.name == "gateway":
            return self.port, "/health/ready"
        return self.metrics_port, "/health"

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that it connects to."""
        needs = {
            "mariadb": self.schema is not None,
            "redis": self.uses_redis,
            "kafka": self.publishes is not None or self.consumes is not None,
        }
        return tuple(name for name, needed in needs.items() if needed)


@dataclasses.dataclass(frozen=True)
class Job:
    """A container that runs to its end at each start."""

    name: str
    servers: tuple[str, ...]
    starts_after: tuple[str, ...]


SERVERS = (
    Server("mariadb", port=13306, container_port=3306),
    Server("redis", port=16379, container_port=6379),
    Server("kafka", port=19092, container_port=9092),
)

JOBS = (
    Job("migrate", servers=("mariadb", "kafka"), starts_after=("mariadb", "kafka")),
    Job("seed", servers=("mariadb",), starts_after=("migrate",)),
)

#: No program needs a later one to start; `make roll` replaces them in this order.
PROGRAMS = (
    Program("concert_service", "concert", 9102, 9202, schema="concert"),
    Program(
        "reservation_service",
        "reservation",
        9103,
        9203,
        schema="reservation",
        uses_redis=True,
        publishes=RESERVATION_EVENTS,
        consumes=PAYMENT_EVENTS,
        calls=("concert",),
        starts_after=("migrate", "redis"),
    ),
    Program(
        "payment_service",
        "payment",
        9104,
        9204,
        schema="payment",
        publishes=PAYMENT_EVENTS,
        consumes=RESERVATION_EVENTS,
        calls=("reservation",),
        # The only way out: a payment provider is outside.
        networks=("provider",),
    ),
    Program(
        "queue_service",
        "queue",
        9101,
        9201,
        uses_redis=True,
        consumes=PAYMENT_EVENTS,
        calls=("concert",),
        starts_after=("migrate", "redis"),
        verifies_tokens=True,
        signs_tokens=True,
        has_admin_rpcs=True,
    ),
    Program(
        "gateway",
        "gateway",
        8080,
        9200,
        admin_port=8081,
        calls=("queue", "concert", "reservation", "payment"),
        starts_after=("queue", "concert", "reservation", "payment", "seed"),
        networks=("outside",),
        verifies_tokens=True,
    ),
)

BY_MODULE: Mapping[str, Program] = {program.module: program for program in PROGRAMS}

#: MariaDB schemas. Each belongs to the program of the same name.
SCHEMAS = tuple(program.schema for program in PROGRAMS if program.schema)

#: Listener → port under `make run`.
PORTS: Mapping[str, int] = {
    **{program.name: program.port for program in PROGRAMS},
    **{f"{program.name}_metrics": program.metrics_port for program in PROGRAMS},
    **{f"{program.name}_admin": program.admin_port for program in PROGRAMS if program.admin_port},
    **{server.name: server.port for server in SERVERS},
    "kafka_controller": 19093,
}


def settings(
    program: Program,
    *,
    listen: Callable[[str], str],
    target: Callable[[str], str],
    mysql_url: Callable[[str], str],
    redis_url: str,
    kafka_bootstrap: str,
    token_keys: str,
    token_signing_key_id: str,
    admin_token: str,
) -> dict[str, str]:
    """The settings without which a program cannot be part of a system, as environment variables.

    `listen`: listener (a key of PORTS) → host:port to listen on. `target`: name of a program → the
    address at which others call it. `mysql_url`: schema → URL.
    """
    found = {
        "LISTEN": listen(program.name),
        "METRICS_LISTEN": listen(f"{program.name}_metrics"),
    }
    if program.admin_port:
        found["ADMIN_LISTEN"] = listen(f"{program.name}_admin")
        # Asks queue_service as an operator does.
        found["QUEUE_ADMIN_TOKEN"] = admin_token
    if program.schema:
        found["MYSQL_URL"] = mysql_url(program.schema)
    if "redis" in program.servers:
        found["REDIS_URL"] = redis_url
    if "kafka" in program.servers:
        found["KAFKA_BOOTSTRAP"] = kafka_bootstrap
    for name in program.calls:
        found[f"{name.upper()}_ADDR"] = target(name)
    if program.verifies_tokens:
        found["TOKEN_KEYS"] = token_keys
    if program.signs_tokens:
        found["TOKEN_SIGNING_KEY_ID"] = token_signing_key_id
    if program.has_admin_rpcs:
        found["ADMIN_TOKEN"] = admin_token
    return {program.prefix + name: value for name, value in found.items()}
