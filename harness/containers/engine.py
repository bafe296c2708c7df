"""Docker and Docker Compose, for the containers of one project. Every call has a deadline."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UserError

# To look at something, or to remove what has stopped.
_ASK_SECONDS = 60.0
# Compose waits in there until one is healthy before it starts the next; the first start of all with
# a tenth of a core each takes minutes.
_COMPOSE_SECONDS = 1200.0
# A dump of all databases, out or in.
_COPY_SECONDS = 4 * 3600.0
# Above every stop_grace_period: it drains, and ends by itself.
_GRACE_SECONDS = 60
# From started to healthy, for the slowest.
_HEALTHY_SECONDS = 600.0
# Started again so often, it will not come up.
_DEATHS = 3
_POLL_SECONDS = 1.0

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_ONE_OFF = "com.docker.compose.oneoff"


@dataclasses.dataclass(frozen=True)
class Container:
    """As it was when somebody looked."""

    id: str
    name: str
    #: The service of compose.yml.
    service: str
    running: bool
    #: healthy, starting or unhealthy; empty if nobody checks.
    health: str
    #: How often it died and was started again.
    deaths: int
    #: address:port of this machine, each that it is reached at.
    published: tuple[str, ...]

    @property
    def ports(self) -> set[int]:
        return {int(address.rpartition(":")[2]) for address in self.published}


class Engine:
    """Raises UserError if a call fails or takes too long."""

    def __init__(self, project: str, environ: Mapping[str, str]) -> None:
        """Raises UserError if there is no Docker, or no Compose. `environ` is what both see."""
        self.project = project
        self._environ = dict(environ)
        instead = "or use `make run`, which needs none."
        if self._fails("docker", "--version"):
            raise UserError(f"Docker is needed: install it, {instead}")
        if self._fails("docker", "info"):
            raise UserError(f"no Docker engine answers: start it, {instead}")
        if not self._fails("docker", "compose", "version"):
            self._compose = ["docker", "compose"]
        elif not self._fails("docker-compose", "version"):
            self._compose = ["docker-compose"]
        else:
            raise UserError(
                "Docker Compose is needed: install docker-compose, or Docker's compose plugin."
            )
        file = Path(__file__).parents[2] / "deploy" / "compose.yml"
        self._compose += ["--project-name", project, "--file", str(file)]

    def use(self, variables: Mapping[str, str]) -> None:
        """What compose.yml is filled in with from now on."""
        self._environ.update(variables)

    def docker(self, *arguments: str, seconds: float = _ASK_SECONDS) -> str:
        """What docker prints."""
        ran = self._run(["docker", *arguments], seconds, capture_output=True, text=True)
        if ran.returncode:
            said = (ran.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise UserError(f"docker {arguments[0]} failed: {said}")
        return str(ran.stdout)

    def compose(self, *arguments: str, otherwise: str) -> None:
        """Shows what Docker Compose prints; `otherwise` is what to say if it fails."""
        if self._run([*self._compose, *arguments], _COMPOSE_SECONDS).returncode:
            raise UserError(otherwise)

    def run_once(self, service: str, *command: str, otherwise: str) -> None:
        """A container of that service for one command, which callers do not find."""
        once = ("run", "--rm", "--no-deps", "-T", service, *command)
        self.compose(*once, otherwise=otherwise)

    def build(self, tag: str, dockerfile: Path, context: Path) -> None:
        arguments = ["--tag", tag, "--build-arg", "PIP_INDEX_URL", "--file", str(dockerfile)]
        ran = self._run(
            # Of a step that fails, the classic builder would keep the container.
            ["docker", "build", "--quiet", "--force-rm", *arguments, str(context)],
            _COMPOSE_SECONDS,
            stdout=subprocess.DEVNULL,
        )
        if ran.returncode:
            raise UserError(
                f"the image {tag} could not be built, as is told above. If no package index was"
                " reached, begin with deploy/airgap/build.sh wheels. To see more: docker build -f"
                f" {dockerfile} {context}."
            )

    def containers(self, *services: str, one_off: bool = False) -> list[Container]:
        """Those of these services (none named: of all) that there are, running or not."""
        ids = self.docker(
            *("ps", "--all", "--quiet", "--no-trunc"),
            *("--filter", f"label={_PROJECT}={self.project}"),
            *("--filter", f"label={_ONE_OFF}={one_off}"),
        ).split()
        if not ids:
            return []
        # It fails if one of them has gone meanwhile, and still describes the others.
        ran = self._run(["docker", "inspect", *ids], _ASK_SECONDS, capture_output=True, text=True)
        found = [_container(each) for each in json.loads(ran.stdout or "[]")]
        chosen = [each for each in found if not services or each.service in services]
        return sorted(chosen, key=lambda each: (each.service, each.name))

    def networks(self) -> list[str]:
        return self._of_project("network", "ls")

    def volumes(self) -> list[str]:
        return self._of_project("volume", "ls")

    def one_running(self, service: str) -> Container:
        """One that serves, if there is one."""
        running = [each for each in self.containers(service) if each.running]
        if not running:
            raise UserError(f"no container of {service} runs: start it with make up.")
        return min(running, key=lambda each: each.health != "healthy")

    def wait_until_healthy(self, *services: str) -> None:
        """All of these services (none named: of all)."""
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while ill := [
            each.name for each in self.containers(*services) if each.health not in ("", "healthy")
        ]:
            if time.monotonic() > deadline:
                raise UserError(
                    f"not healthy after {_HEALTHY_SECONDS:.0f} s: {', '.join(ill)};"
                    f" docker logs {ill[0]} may say why."
                )
            time.sleep(_POLL_SECONDS)

    def wait_for_new(self, new: Iterable[Container]) -> None:
        """Until these have become healthy. Gives up on the first that turns out to be sick."""
        waiting = {each.id for each in new}
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while waiting:
            known = {each.id: each for each in [*self.containers(), *self.containers(one_off=True)]}
            for id_ in sorted(waiting):
                each = known.get(id_)
                if each is None:
                    raise UserError("somebody removed a new container before it was healthy.")
                if each.running and each.health == "healthy":
                    waiting.discard(id_)
                elif (
                    each.health != "starting"
                    or each.deaths >= _DEATHS
                    or time.monotonic() > deadline
                ):
                    last = self._last_words(each)
                    raise UserError(f"the new {each.service} does not become healthy{last}")
            if waiting:
                time.sleep(_POLL_SECONDS)

    def retire(self, each: Container) -> None:
        """It drains first. No error if it has gone already."""
        if each.running:
            seconds = str(_GRACE_SECONDS)
            self._gone_or("stop", "--time", seconds, each.id, seconds=_GRACE_SECONDS + _ASK_SECONDS)
        self._gone_or("rm", "--force", each.id)

    def become(self, *command: str) -> NoReturn:
        """A command of docker instead of this program, with its terminal and exit status."""
        os.execvpe("docker", ["docker", *command], self._environ)

    def become_compose(self, *command: str) -> NoReturn:
        os.execvpe(self._compose[0], [*self._compose, *command], self._environ)

    @contextlib.contextmanager
    def piped(
        self, *arguments: str, stdin: int | None = None, stdout: int | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command of docker whose input or output the caller copies. It is killed at the end, or
        when its time is over."""
        process = subprocess.Popen(
            ["docker", *arguments], env=self._environ, stdin=stdin, stdout=stdout
        )
        over = threading.Timer(_COPY_SECONDS, process.kill)
        over.start()
        try:
            yield process
        finally:
            over.cancel()
            process.kill()
            process.communicate()

    def _of_project(self, *listing: str) -> list[str]:
        mine = f"label={_PROJECT}={self.project}"
        return self.docker(*listing, "--quiet", "--filter", mine).split()

    def _gone_or(self, *arguments: str, seconds: float = _ASK_SECONDS) -> None:
        try:
            self.docker(*arguments, seconds=seconds)
        except UserError as error:
            if "No such container" not in str(error):
                raise

    def _last_words(self, each: Container) -> str:
        ran = self._run(
            ["docker", "logs", "--tail", "20", each.id],
            _ASK_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = [line.strip() for line in ran.stdout.splitlines() if line.strip()]
        return f", whose last words are {lines[-1][:300]!r}" if lines else ", whose log is empty"

    def _fails(self, *command: str) -> bool:
        try:
            ran = self._run(command, _ASK_SECONDS, capture_output=True)
        except FileNotFoundError:
            return True
        return ran.returncode != 0

    def _run(
        self, command: Iterable[str], seconds: float, **how: Any
    ) -> subprocess.CompletedProcess[Any]:
        command = list(command)
        try:
            return subprocess.run(command, env=self._environ, timeout=seconds, check=False, **how)
        except subprocess.TimeoutExpired as error:
            words = " ".join(word for word in command if not word.startswith("/"))[:80]
            raise UserError(f"`{words}` took longer than {seconds:.0f} s") from error


def _container(described: Mapping[str, Any]) -> Container:
    state = described["State"]
    labels = described["Config"]["Labels"]
    published = [
        f"{each['HostIp']}:{each['HostPort']}"
        for each_port in (described["NetworkSettings"].get("Ports") or {}).values()
        for each in each_port or []
    ]
    return Container(
        id=described["Id"],
        name=described["Name"].lstrip("/"),
        service=labels[_SERVICE],
        running=state["Running"],
        health=(state.get("Health") or {}).get("Status", ""),
        deaths=described["RestartCount"],
        published=tuple(published),
    )
