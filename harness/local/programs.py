"""The five programs of Frontrow as processes."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import topology
from harness.files import REPOSITORY
from harness.local.ports import HOST, Ports
from harness.local.process import Process
from harness.secrets import Secrets

PYTHON = REPOSITORY / ".venv" / "bin" / "python"


def mysql_url(schema: str, ports: Ports, secrets: Secrets) -> str:
    """`mysql://user:password@host:port/schema`."""
    return f"mysql://{schema}:{secrets.mysql[schema]}@{ports.address('mariadb')}/{schema}"


def redis_url(ports: Ports) -> str:
    return f"redis://{ports.address('redis')}/0"


def settings(program: topology.Program, ports: Ports, secrets: Secrets) -> dict[str, str]:
    """The settings of a program as part of the stack with these ports and secrets."""
    return topology.settings(
        program,
        topology.Surroundings(
            listen=ports.address,
            target=ports.address,
            mysql_url=lambda schema: mysql_url(schema, ports, secrets),
            redis_url=redis_url(ports),
            kafka_bootstrap=ports.address("kafka"),
            token_keys=json.dumps(secrets.token_keys),
            token_signing_key_id=secrets.token_signing_key_id,
        ),
    )


def environment(
    program: topology.Program,
    defaults: Mapping[str, str],
    overrides: Mapping[str, str],
    *,
    inherit_settings: bool,
) -> dict[str, str]:
    """The whole environment of a program.

    `inherit_settings`: our own variables with its prefix win over the defaults (`make run`).
    Otherwise they are left out (tests, which must not depend on the caller's shell).
    `overrides` win over everything.
    """
    prefixes = tuple(each.prefix for each in topology.PROGRAMS)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if inherit_settings or not name.startswith(prefixes)
    }
    own = {name: value for name, value in inherited.items() if name.startswith(program.prefix)}
    # Unbuffered: the log must have what a program printed before it was killed.
    return {**inherited, **defaults, **own, "PYTHONUNBUFFERED": "1", **overrides}


class ProgramProcess(Process):
    """`python -m <module>`, started in the top folder of the repository."""

    # A program drains for 10 s by default.
    stop_timeout = 20.0

    def __init__(
        self,
        program: topology.Program,
        *,
        name: str,
        env: Mapping[str, str],
        log_path: Path,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name, log_path=log_path, stopping=stopping)
        self.program = program
        self._env = env

    @property
    def address(self) -> str:
        """host:port where it serves (gRPC; HTTP for the gateway), as seen from this machine."""
        return self._address("LISTEN")

    def command(self, module: str | None) -> Sequence[str]:
        return [str(PYTHON), "-m", module or self.program.module]

    def environment(self) -> Mapping[str, str]:
        return self._env

    def probe(self) -> bool:
        port, path = self.program.health_check
        variable = "LISTEN" if port == self.program.port else "METRICS_LISTEN"
        return _http_status(self._address(variable), path) == 200

    def _address(self, variable: str) -> str:
        host, _, port = self._env[self.program.prefix + variable].rpartition(":")
        return f"{HOST if host in ('', '0.0.0.0', '[::]') else host}:{port}"


def _http_status(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException:
        return 0
    finally:
        connection.close()
