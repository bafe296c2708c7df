"""Frontrow in containers, as a compose project of the tests."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from contextlib import AbstractContextManager
from typing import cast

from pymysql.cursors import Cursor

from harness import topology
from harness.containers.engine import Container, Engine
from harness.containers.settings import Settings
from harness.files import REPOSITORY
from harness.local.ports import HOST, Ports, free_ports
from harness.local.stack import Stack
from loadtests.opening import attached
from loadtests.target import Target
from tests.e2e.shop import Shop

# The system's Python, as on a host that has no virtual environment.
PYTHON = "python3"
PROGRAMS = tuple(program.name for program in topology.PROGRAMS)
SERVERS = tuple(server.name for server in topology.SERVERS)


class Containers:
    """One project, started and stopped like `make up` and `make down`. The methods block."""

    def __init__(self, project: str, **settings: str) -> None:
        self.project = project
        # Replicas of the gateway take the ports after the first.
        self.port, self.admin_port = free_ports(2)
        #: The settings of `up`, and of `restore` after everything was deleted.
        self.settings = {
            "PORT": str(self.port),
            "ADMIN_PORT": str(self.admin_port),
            "SEED": "small",
            **settings,
        }
        known = {field.name for field in dataclasses.fields(Settings)}
        self._environ = {name: value for name, value in os.environ.items() if name not in known}
        self._environ["PROJECT"] = project
        self._engine = Engine(project, os.environ)

    def run(self, *arguments: str, **settings: str) -> str:
        """Runs python3 -m harness.containers and returns its output; fails the test if it fails.

        Only `up` gets the settings: later commands must use the stored ones.
        """
        given = {**(self.settings if arguments == ("up",) else {}), **settings}
        ran = subprocess.run(
            [PYTHON, "-m", "harness.containers", *arguments],
            check=False,
            timeout=600,
            env={**self._environ, **given},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def all(self) -> list[Container]:
        """The running containers."""
        return [each for each in self._engine.containers() if each.running]

    def of(self, service: str) -> list[Container]:
        """The running containers of a service."""
        return [each for each in self.all() if each.service == service]

    def one(self, service: str) -> Container:
        (found,) = self.of(service)
        return found

    def kill(self, name: str) -> None:
        docker("kill", name)

    def start(self, name: str) -> None:
        """Starts a container that was killed, and waits until all are healthy."""
        docker("start", name)
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        self._engine.wait_until_healthy()

    # The part of a Stack that Shop uses: gateways, databases, Kafka, Redis.

    def address(self, gateway: str = "gateway") -> str:
        """`gateway`, or `gateway_2` for the second."""
        number = int(gateway.partition("_")[2] or 1)
        return f"{HOST}:{self.port + number - 1}"

    @property
    def _target(self) -> Target:
        return attached(f"http://{self.address()}", {}, Ports())

    @property
    def kafka_bootstrap(self) -> str:
        return self._target.kafka_bootstrap

    @property
    def redis_url(self) -> str:
        return self._target.redis_url

    @property
    def mariadb(self) -> Containers:
        return self

    def administrator(self, database: str) -> AbstractContextManager[Cursor]:
        """A cursor of the service that owns the schema, and may do anything in it."""
        return self._target.database(database)

    def execute(self, service: str, *command: str) -> str:
        """Runs a command in the first container of a service, and returns its output."""
        return docker("exec", self.of(service)[0].name, *command)

    def shop(self) -> Shop:
        return Shop(cast(Stack, self))


def docker(*arguments: str, check: bool = True) -> str:
    """The output of docker without the last line break. Fails the test if docker fails."""
    ran = subprocess.run(
        ["docker", *arguments], check=False, timeout=120, capture_output=True, text=True
    )
    assert not check or ran.returncode == 0, f"docker {arguments}: {ran.stdout}{ran.stderr}"
    return ran.stdout.strip()
