"""Docker and docker-compose 1.29 in memory, as far as harness.containers uses them.

Containers are created, healthy or not, and removed; each build makes an image; MariaDB holds one
dump.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness import stopping, topology
from harness.containers.engine import Engine
from harness.containers.settings import PROGRAMS

SERVERS = tuple(server.name for server in topology.SERVERS)
ONE_SHOTS = tuple(job.name for job in topology.JOBS)
_SERVICES = (*SERVERS, *ONE_SHOTS, *PROGRAMS)
DUMP = (
    b"/*M!999999\\- enable the sandbox mode */ \n"
    b"-- MariaDB dump 10.19-11.8.6-MariaDB, for debian-linux-gnu (x86_64)\n"
    b"-- Current Database: `concert`\n"
    b"-- Current Database: `reservation`\n"
    b"-- Current Database: `payment`\n"
    b"INSERT INTO `payment` VALUES (1),(2);\n"
    b"-- Dump completed on 2026-11-22 20:00:00\n"
)


@dataclasses.dataclass
class Fake:
    id: str
    service: str
    number: int
    #: The number of the build, and compose.yml's variables.
    image: int
    variables: Mapping[str, str]
    one_off: bool = False
    running: bool = True
    health: str = "healthy"
    deaths: int = 0
    port: str | None = None


class FakeDocker:
    """One engine; commands come and go."""

    def __init__(self) -> None:
        self.containers: list[Fake] = []
        self.image = 0
        #: (service, image) whose containers never become healthy.
        self.unhealthy: set[tuple[str, int]] = set()
        #: Words of a command that fails, such as "run migrate" or "build".
        self.failing: str | None = None
        #: Containers of steps of a build that failed.
        self.steps: list[str] = []
        self.data: bytes | None = None
        #: Compose creates both before any container.
        self.networks: set[str] = set()
        self.volumes: set[str] = set()
        self.dump = DUMP
        #: The changes, as "stop queue_1", "up queue", "run payment python -m …".
        self.log: list[str] = []
        #: The number of changes before Ctrl-C is pressed.
        self.patience: int | None = None
        #: The fewest that served at any time since watch().
        self.fewest: dict[str, int] = {}
        self._made = 0

    def engine(self, project: str, environ: Mapping[str, str]) -> Engine:
        return FakeEngine(self, project, environ)

    def of(self, service: str) -> list[Fake]:
        return [each for each in self.containers if each.service == service and not each.one_off]

    def running(self) -> Counter[str]:
        """How many serve, by service; and those for one command."""
        return Counter(
            each.service + (" once" if each.one_off else "")
            for each in self.containers
            if each.running
        )

    def watch(self) -> None:
        self.fewest = {name: len(self._serving(name)) for name in PROGRAMS}

    def changed(self, what: str) -> None:
        self.log.append(what)
        for name, fewest in self.fewest.items():
            self.fewest[name] = min(fewest, len(self._serving(name)))
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                self.patience = None
                os.kill(os.getpid(), signal.SIGINT)

    def _serving(self, service: str) -> list[Fake]:
        return [each for each in self.of(service) if each.running and each.health == "healthy"]

    def create(self, service: str, variables: Mapping[str, str], *, one_off: bool = False) -> Fake:
        self._made += 1
        numbers = [each.number for each in self.of(service)]
        made = Fake(
            id=f"{self._made:064x}",
            service=service,
            number=max(numbers, default=0) + 1,
            image=self.image,
            variables=dict(variables),
            one_off=one_off,
        )
        if service in ONE_SHOTS:
            made.running, made.health = False, ""
        if (service, self.image) in self.unhealthy:
            made.health = "unhealthy"
        if service == "gateway" and not one_off:
            taken = {each.port for each in self.of("gateway") if each.running}
            first, _, last = variables["FRONTROW_PORTS"].partition("-")
            free = [str(n) for n in range(int(first), int(last) + 1) if str(n) not in taken]
            made.running, made.port = bool(free), free[0] if free else None
        self.containers.append(made)
        return made

    def remove(self, each: Fake) -> None:
        self.containers.remove(each)


class FakeEngine(Engine):
    """Commands are executed by the fake."""

    def __init__(self, fake: FakeDocker, project: str, environ: Mapping[str, str]) -> None:
        self._fake = fake
        super().__init__(project, environ)

    def _run(
        self, command: Sequence[str], seconds: float, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        stopping.raise_if_requested()
        program, *words = command
        try:
            if program == "docker-compose":
                assert words[:2] == ["--project-name", self.project] or words == ["version"]
                out = self._on_compose(*words[4:]) if len(words) > 1 else ""
            else:
                out = self._on_docker(*words)
        except _Refused as refused:
            return subprocess.CompletedProcess([], 1, "", str(refused))
        return subprocess.CompletedProcess([], 0, out, "")

    def copy(
        self,
        *arguments: str,
        source: io.BufferedIOBase | None = None,
        target: io.BufferedIOBase | None = None,
    ) -> bool:
        assert self._one(arguments[1 if target else 2]).service == "mariadb"
        if target:
            target.write(self._fake.dump)
        if source:
            self._fake.changed("import")
            self._fake.data = source.read()
        return True

    def become(self, *command: str) -> Any:
        self._fake.changed(f"exec {self._name(command[2])} {' '.join(command[3:])}")

    def become_compose(self, *command: str) -> Any:
        self._fake.changed(f"compose {' '.join(command)} {self._environ['FRONTROW_PORTS']}")

    def _one(self, id_: str) -> Fake:
        for each in self._fake.containers:
            if each.id == id_:
                return each
        raise _Refused(f"Error: No such container: {id_}")

    def _name(self, id_: str) -> str:
        each = self._one(id_)
        return f"{each.service}_{each.number}"

    def _on_docker(self, verb: str, *words: str) -> str:
        fake = self._fake
        if verb == "compose":
            raise _Refused("docker: 'compose' is not a docker command.")
        if verb == "build":
            if fake.failing == "build":
                fake.steps += [] if "--force-rm" in words else ["naughty_greider"]
                raise _Refused("no matching distribution found")
            fake.image += 1
            fake.changed("build")
        elif verb == "ps":
            one_off = f"label=com.docker.compose.oneoff={True}" in words
            return "\n".join(each.id for each in fake.containers if each.one_off == one_off)
        elif verb == "inspect":
            return json.dumps([self._described(self._one(id_)) for id_ in words])
        elif verb == "stop":
            name, stopped = self._name(words[-1]), self._one(words[-1])
            stopped.running, stopped.port = False, None
            fake.changed(f"stop {name}")
        elif verb == "rm":
            name = self._name(words[-1])
            fake.remove(self._one(words[-1]))
            fake.changed(f"rm {name}")
        elif verb == "logs":
            return "Traceback (most recent call last):\nImportError: no module named new\n"
        elif verb == "exec":
            assert self._one(words[0]).service == "mariadb"
            if words[-1].startswith("ALTER"):
                fake.changed(words[-1])
            return "7\n"
        elif verb == "network":
            assert words[0] == "ls"
            return "\n".join(fake.networks)
        elif verb == "volume" and words[0] == "ls":
            return "\n".join(fake.volumes)
        elif verb == "volume":
            assert words[0] == "rm"
            assert not fake.containers
            fake.volumes -= set(words[1:])
            fake.data = None
            fake.changed("volume rm")
        else:
            assert verb in ("--version", "info"), verb
        return ""

    def _on_compose(self, verb: str, *words: str) -> str:
        fake = self._fake
        scales = dict(
            after.split("=") for before, after in itertools.pairwise(words) if before == "--scale"
        )
        flags = {word for word in words if word.startswith("-")}
        first = next((n for n, word in enumerate(words) if word in _SERVICES), len(words))
        names = words[first:]
        command = " ".join([verb, *names])
        if fake.failing and command.startswith(fake.failing):
            fake.changed(f"{command}, which failed")
            raise _Refused("as the test wants")
        if verb == "up":
            fake.networks, fake.volumes = {"outside"}, {"mariadb"}
            for service in names or _SERVICES:
                self._up(service, int(scales.get(service, "1")), "--no-recreate" in flags)
        elif verb == "run":
            if "--detach" in flags:
                fake.create(names[0], self._environ, one_off=True)
        elif verb == "stop":
            for each in fake.containers:
                if each.service in names:
                    each.running, each.port = False, None
        else:
            assert verb == "down", verb
            fake.containers.clear()
            fake.networks.clear()
            if "--volumes" in flags:
                fake.volumes.clear()
                fake.data = None
        fake.changed(command)
        starts_gateways = verb == "up" and "gateway" in (names or PROGRAMS)
        if starts_gateways and not all(each.running for each in fake.of("gateway")):
            raise _Refused("port is already allocated")
        return ""

    def _up(self, service: str, count: int, no_recreate: bool) -> None:
        fake = self._fake
        variables = {
            name: value
            for name, value in self._environ.items()
            if service not in SERVERS or name.startswith(service.upper())
        }
        there = fake.of(service)
        for each in there[count:]:
            fake.remove(each)
        for each in there[:count]:
            image = each.image if service in SERVERS else fake.image
            if not no_recreate and (each.image, each.variables) != (image, variables):
                fake.remove(each)
            elif service not in ONE_SHOTS:
                each.running = True
        while len(fake.of(service)) < count:
            fake.create(service, variables)

    def _described(self, each: Fake) -> dict[str, Any]:
        address = each.variables.get("FRONTROW_BIND", "")
        ports = {"8080/tcp": [{"HostIp": address, "HostPort": each.port}]} if each.port else {}
        return {
            "Id": each.id,
            "Name": f"/{self.project}_{each.service}_{each.number}",
            "RestartCount": each.deaths,
            "State": {
                "Running": each.running,
                **({"Health": {"Status": each.health}} if each.health else {}),
            },
            "Config": {"Labels": {"com.docker.compose.service": each.service}},
            "NetworkSettings": {"Ports": ports},
        }


class _Refused(Exception):
    pass
