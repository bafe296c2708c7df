"""Docker and Docker Compose, for the containers of one project. Every call has a deadline."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, NoReturn

from harness import stopping
from harness.errors import UserError
from harness.files import REPOSITORY

# To inspect something, or to remove what has stopped.
_CALL_SECONDS = 60.0
# Compose starts a container only after its dependencies are healthy; the very first start, with a
# tenth of a core each, takes minutes.
_COMPOSE_SECONDS = 1200.0
# To dump or import all databases.
_STREAM_SECONDS = 4 * 3600.0
# Above every stop_grace_period, so that a program drains and ends by itself.
_GRACE_SECONDS = 60
# From started to healthy, for the slowest.
_HEALTHY_SECONDS = 600.0
# Variables that the build gets from the environment: where packages come from, and through which
# proxy. Docker knows the proxy's without a declaration in the Dockerfile, and no container of the
# image has them.
_BUILD_VARIABLES = (
    "PIP_INDEX_URL",
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
# A container that died this often does not become healthy.
_DEATHS = 3
_POLL_SECONDS = 1.0

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_ONE_OFF = "com.docker.compose.oneoff"


@dataclasses.dataclass(frozen=True)
class Container:
    """The state of a container when it was inspected."""

    id: str
    name: str
    #: The service of compose.yml.
    service: str
    #: Started by `docker-compose run`: callers do not find it.
    one_off: bool = False
    running: bool = True
    #: Of its first process; 0 unless it runs.
    pid: int = 0
    #: healthy, starting or unhealthy; empty without a health check.
    health: str = ""
    #: How often it died and was restarted.
    deaths: int = 0
    #: Port of the container → address:port of this machine.
    published: Mapping[int, str] = dataclasses.field(default_factory=dict)
    #: Network, without the project's name → address.
    addresses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def serves(self) -> bool:
        return self.running and self.health == "healthy"

    @property
    def ports(self) -> set[int]:
        """Of this machine."""
        return {int(address.rpartition(":")[2]) for address in self.published.values()}


class Engine:
    """Raises UserError if a call fails or takes too long, and Stopped once a stop is requested."""

    def __init__(self, project: str, environ: Mapping[str, str]) -> None:
        """`environ` is the environment of docker and Compose.

        Raises UserError if there is no Docker, or no Compose.
        """
        self.project = project
        self._environ = dict(environ)
        alternative = "or use `make run`, which needs none."
        if self._fails("docker", "--version"):
            raise UserError(f"Docker is needed: install it, {alternative}")
        if self._fails("docker", "info"):
            raise UserError(f"no Docker engine responds: start it, {alternative}")
        if not self._fails("docker", "compose", "version"):
            self.compose_command = ["docker", "compose"]
        elif not self._fails("docker-compose", "version"):
            self.compose_command = ["docker-compose"]
        else:
            raise UserError(
                "Docker Compose is needed: install docker-compose, or Docker's compose plugin."
            )
        file = REPOSITORY / "deploy" / "compose.yml"
        self.compose_command += ["--project-name", project, "--file", str(file)]

    def use(self, variables: Mapping[str, str]) -> None:
        """Sets the variables of compose.yml from now on."""
        self._environ.update(variables)

    def docker(
        self, *arguments: str, seconds: float = _CALL_SECONDS, may_be_removed: bool = False
    ) -> str:
        """Runs docker and returns its output.

        With `may_be_removed` it is a no-op for a container that does not exist.
        """
        ran = self._run(["docker", *arguments], seconds, **_CAPTURED)
        if ran.returncode and not (may_be_removed and "No such container" in ran.stderr):
            reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"docker {arguments[0]} failed: {reason}")
        return str(ran.stdout)

    def compose(self, *arguments: str, failure: str) -> None:
        """Runs Docker Compose and shows its output; `failure` is the error if it fails."""
        if self._run([*self.compose_command, *arguments], _COMPOSE_SECONDS).returncode:
            raise UserError(failure)

    def run_once(self, service: str, *command: str, failure: str) -> None:
        """Runs one command in a container of that service that callers do not find."""
        once = ("run", "--rm", "--no-deps", "-T", service, *command)
        self.compose(*once, failure=failure)

    def build(self, tag: str) -> None:
        """Builds the image of the programs from this checkout."""
        print(f"Building the image {tag}", flush=True)
        dockerfile = REPOSITORY / "deploy" / "Dockerfile"
        # One that is not set is left out.
        variables = [part for name in _BUILD_VARIABLES for part in ("--build-arg", name)]
        arguments = ["--tag", tag, *variables, "--file", str(dockerfile)]
        ran = self._run(
            # --force-rm: the classic builder would keep the container of a step that fails.
            ["docker", "build", "--quiet", "--force-rm", *arguments, str(REPOSITORY)],
            _COMPOSE_SECONDS,
            stdout=subprocess.DEVNULL,
        )
        if ran.returncode:
            raise UserError(
                f"the image {tag} could not be built: see the error above. If no package index was"
                " reached, begin with deploy/airgap/build.sh wheels. To see more: docker build -f"
                f" {dockerfile} {REPOSITORY}."
            )

    def listed(self, kind: str) -> list[str]:
        """The ids of all that the project has of a kind: container, network or volume."""
        ours = f"label={_PROJECT}={self.project}"
        options = ("--all", "--no-trunc") if kind == "container" else ()
        return self.docker(kind, "ls", "--quiet", *options, "--filter", ours).split()

    def containers(self, *services: str, one_off: bool = False) -> list[Container]:
        """The containers of these services (default: of all), running or not."""
        return [
            each
            for each in self._inspect(self.listed("container"))
            if each.one_off == one_off and (not services or each.service in services)
        ]

    def one_running(self, service: str) -> Container:
        """A running container of the service, healthy if there is one."""
        running = [each for each in self.containers(service) if each.running]
        if not running:
            raise UserError(f"no container of {service} runs: start it with make up.")
        return min(running, key=lambda each: each.health != "healthy")

    def wait_until_healthy(self, *services: str) -> None:
        """Waits for all containers of these services (default: of all)."""
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while waiting := [
            each.name for each in self.containers(*services) if each.health not in ("", "healthy")
        ]:
            if time.monotonic() > deadline:
                raise UserError(
                    f"not healthy after {_HEALTHY_SECONDS:.0f} s: {', '.join(waiting)};"
                    f" docker logs {waiting[0]} may say why."
                )
            stopping.wait(_POLL_SECONDS)

    def wait_for_new(self, new: Iterable[Container]) -> None:
        """Waits until these are healthy. Raises UserError for the first that fails."""
        ids = [each.id for each in new]
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while True:
            found = self._inspect(ids)
            if len(found) < len(ids):
                raise UserError("somebody removed a new container before it was healthy.")
            waiting = [each for each in found if not each.serves]
            if not waiting:
                return
            late = time.monotonic() > deadline
            for each in waiting:
                if each.health != "starting" or each.deaths >= _DEATHS or late:
                    raise UserError(
                        f"the new {each.service} does not become healthy{self._last_line(each)}"
                    )
            stopping.wait(_POLL_SECONDS)

    def retire(self, each: Container) -> None:
        """Stops a container, which drains first, and removes it. No-op if it does not exist."""
        if each.running:
            stop = ("stop", "--time", str(_GRACE_SECONDS), each.id)
            self.docker(*stop, seconds=_GRACE_SECONDS + _CALL_SECONDS, may_be_removed=True)
        self.docker("rm", "--force", each.id, may_be_removed=True)

    def stream(self, *arguments: str, **streams: IO[bytes] | None) -> bool:
        """Runs docker with `stdin` or `stdout`, and returns whether it succeeded."""
        return self._run(["docker", *arguments], _STREAM_SECONDS, **streams).returncode == 0

    def become(self, *command: str) -> NoReturn:
        """Replaces this program by docker or Compose, with its terminal and exit status."""
        os.execvpe(command[0], command, self._environ)

    def _inspect(self, ids: Sequence[str]) -> list[Container]:
        """Those of the containers that still exist, by service and name."""
        if not ids:
            return []
        # Fails if one of them was removed meanwhile, and still describes the others.
        ran = self._run(["docker", "inspect", *ids], _CALL_SECONDS, **_CAPTURED)
        found = [_container(each) for each in json.loads(ran.stdout or "[]")]
        return sorted(found, key=lambda each: (each.service, each.name))

    def _last_line(self, each: Container) -> str:
        command = ["docker", "logs", "--tail", "20", each.id]
        ran = self._run(command, _CALL_SECONDS, **{**_CAPTURED, "stderr": subprocess.STDOUT})
        lines = [line.strip() for line in ran.stdout.splitlines() if line.strip()]
        return f"; its log ends with {lines[-1][:300]!r}" if lines else "; its log is empty"

    def _fails(self, *command: str) -> bool:
        try:
            ran = self._run(command, _CALL_SECONDS, **_CAPTURED)
        except FileNotFoundError:
            return True
        return ran.returncode != 0

    def _run(
        self, command: Sequence[str], seconds: float, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        try:
            return stopping.run(command, timeout=seconds, env=self._environ, **options)
        except subprocess.TimeoutExpired as error:
            words = " ".join(word for word in command if not word.startswith("/"))[:80]
            raise UserError(f"`{words}` took longer than {seconds:.0f} s") from error


_CAPTURED: Mapping[str, Any] = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


def _container(described: Mapping[str, Any]) -> Container:
    state, config, network = (described[key] for key in ("State", "Config", "NetworkSettings"))
    labels = config["Labels"]
    published = {
        int(port.partition("/")[0]): f"{each['HostIp']}:{each['HostPort']}"
        for port, bindings in (network["Ports"] or {}).items()
        for each in bindings or []
    }
    return Container(
        id=described["Id"],
        name=described["Name"].lstrip("/"),
        service=labels[_SERVICE],
        one_off=labels.get(_ONE_OFF) == "True",
        running=state["Running"],
        pid=state["Pid"],
        health=(state.get("Health") or {}).get("Status", ""),
        deaths=described["RestartCount"],
        published=published,
        addresses={
            name[len(labels[_PROJECT]) + 1 :]: each["IPAddress"]
            for name, each in network["Networks"].items()
        },
        env={name: value for name, _, value in (each.partition("=") for each in config["Env"])},
    )
