"""Frontrow in containers, as a compose project of the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import pymysql
from pymysql.cursors import Cursor

from harness import topology
from harness.containers.settings import Settings
from harness.files import REPOSITORY
from harness.local.ports import HOST, free_ports
from harness.local.stack import Stack
from loadtests import containers
from loadtests.containers import Container
from tests.e2e.shop import Shop

# The system's Python, as on a host that has no virtual environment.
PYTHON = "python3"
PROGRAMS = tuple(program.name for program in topology.PROGRAMS)
SERVERS = tuple(server.name for server in topology.SERVERS)

# For statements of the tests that no service may execute.
_ADMINISTRATOR = "tests"
_PASSWORD = "only in a database of the tests"


def why_not() -> str | None:
    """The reason why containers cannot run here; None if they can."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if _run(["docker", "info"], check=False).returncode:
        return "no Docker engine responds (docker info fails)"
    if (
        not shutil.which("docker-compose")
        and _run(["docker", "compose", "version"], False).returncode
    ):
        return "neither docker-compose nor Docker's compose plugin is installed"
    return None


class Containers:
    """One project, started and stopped like `make up` and `make down`. The methods block."""

    def __init__(self, project: str, **settings: str) -> None:
        self.project = project
        self.scale = int(settings.get("SCALE", "1"))
        # Replicas of the gateway take the ports after the first.
        self.port = free_ports(1)[0]
        #: The settings of `up`, and of `restore` after everything was deleted.
        self.settings = {"PORT": str(self.port), "SEED": "small", **settings}
        known = {field.name for field in dataclasses.fields(Settings)}
        self._environ = {name: value for name, value in os.environ.items() if name not in known}
        self._environ["PROJECT"] = project

    def run(self, *arguments: str, timeout: float = 600, **settings: str) -> str:
        """Runs python3 -m harness.containers and returns its output; fails the test if it fails.

        Only `up` gets the settings: later commands must use the stored ones.
        """
        given = {**(self.settings if arguments == ("up",) else {}), **settings}
        command = [PYTHON, "-m", "harness.containers", *arguments]
        ran = _run(command, False, timeout, {**self._environ, **given})
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def all(self) -> list[Container]:
        """The running containers."""
        return containers.of_project(self.project)

    def of(self, service: str) -> list[Container]:
        """The running containers of a service."""
        return [each for each in self.all() if each.service == service]

    def one(self, service: str) -> Container:
        (found,) = self.of(service)
        return found

    def kill(self, name: str) -> None:
        docker("kill", name)

    def start(self, name: str, *, within: float = 180.0) -> None:
        """Starts a container that was killed, and waits until it is healthy."""
        docker("start", name)
        self.wait_until_healthy(name, within=within)

    def wait_until_healthy(self, name: str, *, within: float = 180.0) -> None:
        deadline = time.monotonic() + within
        while (
            state := docker("inspect", "--format", "{{.State.Health.Status}}", name)
        ) != "healthy":
            assert time.monotonic() < deadline, f"{name} is {state}: {docker('logs', name)[-2000:]}"
            time.sleep(0.5)

    # The part of a Stack that Shop uses: gateways, databases with all rights, Kafka.

    def address(self, gateway: str = "gateway") -> str:
        """`gateway`, or `gateway_2` for the second."""
        number = int(gateway.partition("_")[2] or 1)
        return f"{HOST}:{self.port + number - 1}"

    @property
    def kafka_bootstrap(self) -> str:
        return f"{self.one('kafka').addresses['kafka']}:9094"

    @property
    def redis_url(self) -> str:
        url = self.of("queue")[0].env["QUEUE_REDIS_URL"]
        return url.replace("@redis:", f"@{self.one('redis').addresses['redis']}:")

    @property
    def mariadb(self) -> Containers:
        return self

    @contextlib.contextmanager
    def administrator(self, database: str | None = None) -> Iterator[Cursor]:
        connection = pymysql.connect(
            host=self.one("mariadb").addresses["mariadb"],
            user=_ADMINISTRATOR,
            password=_PASSWORD,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
        )
        with connection, connection.cursor() as cursor:
            yield cursor

    def create_administrator(self) -> None:
        self.sql(
            f"CREATE OR REPLACE USER '{_ADMINISTRATOR}'@'%' IDENTIFIED BY '{_PASSWORD}';"
            f" GRANT ALL PRIVILEGES ON *.* TO '{_ADMINISTRATOR}'@'%'"
        )

    def sql(self, statement: str) -> str:
        """Executes a statement as MariaDB's administrator, who exists only inside its container."""
        socket = "--socket=/tmp/mariadb.sock"
        return self.execute("mariadb", "mariadb", socket, "--skip-column-names", "-e", statement)

    def execute(self, service: str, *command: str) -> str:
        """Runs a command in the first container of a service, and returns its output."""
        return docker("exec", self.of(service)[0].name, *command)

    def shop(self) -> Shop:
        return Shop(cast(Stack, self))


def docker(*arguments: str, check: bool = True) -> str:
    """The output of docker without the last line break. Fails the test if docker fails."""
    ran = _run(["docker", *arguments], False)
    assert not check or ran.returncode == 0, f"docker {arguments}: {ran.stdout}{ran.stderr}"
    return (ran.stdout + ran.stderr).strip() if arguments[0] == "logs" else ran.stdout.strip()


def _run(
    command: Sequence[str],
    check: bool = True,
    timeout: float = 120,
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=check,
        timeout=timeout,
        env=environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
