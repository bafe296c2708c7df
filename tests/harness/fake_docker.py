"""Docker and docker-compose 1.29 in memory, as far as harness.containers uses them.

Containers are created, healthy or not, and removed; each build makes an image; MariaDB holds one
dump.
"""

from __future__ import annotations

import dataclasses
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

    @property
    def name(self) -> str:
        return f"{self.service}_{self.number}"

    def stop(self) -> None:
        self.running, self.port = False, None


class FakeDocker:
    """One engine; commands come and go."""

    def __init__(self) -> None:
        self.containers: list[Fake] = []
        self.image = 0
        #: (service, image) → the attributes of its containers, which never become healthy.
        self.unhealthy: dict[tuple[str, int], Mapping[str, Any]] = {}
        #: The beginning of an entry of the log, which fails instead.
        self.failing: str | None = None
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
        self._ids = itertools.count(1)

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
        self.fewest = {name: len(self.containers) for name in PROGRAMS}
        self.observe()

    def observe(self) -> None:
        """Each command calls this before it changes anything."""
        for name, fewest in self.fewest.items():
            serving = [each for each in self.of(name) if each.running and each.health == "healthy"]
            self.fewest[name] = min(fewest, len(serving))

    def change(self, what: str) -> None:
        """Records a change, or refuses it."""
        if self.failing and what.startswith(self.failing):
            raise _Refused("as the test wants")
        self.log.append(what)
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                self.patience = None
                os.kill(os.getpid(), signal.SIGINT)

    def create(self, service: str, variables: Mapping[str, str], *, one_off: bool = False) -> None:
        made = Fake(
            id=f"{next(self._ids):064x}",
            service=service,
            number=max((each.number for each in self.of(service)), default=0) + 1,
            image=self.image,
            variables=dict(variables),
            one_off=one_off,
        )
        if service in ONE_SHOTS:
            made.running, made.health = False, ""
        for name, value in self.unhealthy.get((service, self.image), {}).items():
            setattr(made, name, value)
        if service == "gateway" and not one_off:
            first, _, last = variables["FRONTROW_PORTS"].partition("-")
            taken = {each.port for each in self.containers}
            free = {str(port) for port in range(int(first), int(last) + 1)} - taken
            made.port = min(free, default=None)
            made.running = made.port is not None
        self.containers.append(made)

    def up(self, service: str, count: int, environ: Mapping[str, str], *, recreate: bool) -> None:
        """Makes `count` containers of a service run, with the latest image and these variables."""
        for position, each in enumerate(self.of(service)):
            outdated = (each.image, each.variables) != (self.image, environ)
            if position >= count or (recreate and outdated):
                self.containers.remove(each)
            elif service not in ONE_SHOTS:
                each.running = True
        while len(self.of(service)) < count:
            self.create(service, environ)


class FakeEngine(Engine):
    """Its commands are executed by the fake."""

    def __init__(self, fake: FakeDocker, project: str, environ: Mapping[str, str]) -> None:
        self._fake = fake
        super().__init__(project, environ)

    def _run(
        self, command: Sequence[str], seconds: float, **streams: Any
    ) -> subprocess.CompletedProcess[Any]:
        stopping.raise_if_requested()
        self._fake.observe()
        program, *words = command
        out = ""
        try:
            if program == "docker":
                out = self._on_docker(*words, **streams)
            elif words != ["version"]:
                assert words[:2] == ["--project-name", self.project]
                self._on_compose(*words[4:])
        except _Refused as refused:
            return subprocess.CompletedProcess([], 1, "", str(refused))
        return subprocess.CompletedProcess([], 0, out, "")

    def become(self, *command: str) -> Any:
        program, *words = command
        if program == "docker":
            self._fake.change(f"exec {self._one(words[2]).name} {' '.join(words[3:])}")
        else:
            self._fake.change(f"compose {' '.join(words[4:])} {self._environ['FRONTROW_PORTS']}")

    def _one(self, id_: str) -> Fake:
        for each in self._fake.containers:
            if each.id == id_:
                return each
        raise _Refused(f"Error: No such container: {id_}")

    def _on_docker(self, verb: str, *words: str, **streams: Any) -> str:
        fake = self._fake
        if verb == "compose":
            raise _Refused("docker: 'compose' is not a docker command.")
        if verb == "build":
            assert "--force-rm" in words, "the container of a step that fails would stay"
            fake.change("build")
            fake.image += 1
        elif words and words[0] == "ls":
            ids = {"network": fake.networks, "volume": fake.volumes}
            return "\n".join(ids.get(verb) or [each.id for each in fake.containers])
        elif verb == "inspect":
            return json.dumps([self._described(self._one(id_)) for id_ in words])
        elif verb in ("stop", "rm"):
            each = self._one(words[-1])
            fake.change(f"{verb} {each.name}")
            each.stop()
            if verb == "rm":
                fake.containers.remove(each)
        elif verb == "logs":
            return "Traceback (most recent call last):\nImportError: no module named new\n"
        elif verb == "exec":
            return self._on_mariadb(*words, **streams)
        elif verb == "volume":
            assert words[0] == "rm"
            assert not fake.containers
            fake.change("volume rm")
            fake.volumes -= set(words[1:])
        else:
            assert verb in ("--version", "info"), verb
        return ""

    def _on_mariadb(self, *words: str, **streams: Any) -> str:
        if "stdin" in streams:
            self._fake.change("import")
            self._fake.data = streams["stdin"].read()
        elif streams["stdout"] != subprocess.PIPE:
            streams["stdout"].write(self._fake.dump)
        elif words[-1].startswith("ALTER"):
            self._fake.change(words[-1])
        return "7\n"

    def _on_compose(self, verb: str, *words: str) -> None:
        fake = self._fake
        scales = dict(
            after.split("=") for before, after in itertools.pairwise(words) if before == "--scale"
        )
        first = next((n for n, word in enumerate(words) if word in _SERVICES), len(words))
        names = words[first:]
        fake.change(" ".join([verb, *names]))
        if verb == "up":
            fake.networks, fake.volumes = {"outside"}, {"mariadb"}
            for service in names or _SERVICES:
                count = int(scales.get(service, "1"))
                fake.up(service, count, self._environ, recreate="--no-recreate" not in words)
            gateways = fake.of("gateway") if "gateway" in (names or PROGRAMS) else []
            if not all(each.running for each in gateways):
                raise _Refused("port is already allocated")
        elif verb == "run" and "--detach" in words:
            fake.create(names[0], self._environ, one_off=True)
        elif verb == "stop":
            for each in fake.containers:
                if each.service in names:
                    each.stop()
        elif verb == "down":
            fake.containers.clear()
            fake.networks.clear()
            if "--volumes" in words:
                fake.volumes.clear()

    def _described(self, each: Fake) -> dict[str, Any]:
        address = each.variables.get("FRONTROW_BIND", "")
        ports = {"8080/tcp": [{"HostIp": address, "HostPort": each.port}]} if each.port else {}
        labels = {"service": each.service, "oneoff": str(each.one_off), "project": self.project}
        return {
            "Id": each.id,
            "Name": f"/{self.project}_{each.name}",
            "RestartCount": each.deaths,
            "State": {
                "Running": each.running,
                "Pid": 1,
                **({"Health": {"Status": each.health}} if each.health else {}),
            },
            "Config": {
                "Labels": {f"com.docker.compose.{key}": labels[key] for key in labels},
                "Env": ["LANG=C.UTF-8"],
            },
            "NetworkSettings": {
                "Ports": ports,
                "Networks": {f"{self.project}_outside": {"IPAddress": "172.18.0.2"}},
            },
        }


class _Refused(Exception):
    pass
