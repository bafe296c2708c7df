"""An operator of containers, with an in-memory Docker."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from harness.containers import __main__ as program
from harness.containers import engine, settings
from harness.local.ports import free_ports, is_free
from harness.topology import PROGRAMS
from tests.harness.fake_docker import Fake, FakeDocker, FakeEngine

#: What the in-memory Docker logs when the tables are contracted.
CONTRACT = "run migrate sh -ec " + "\n".join(
    f"python -m servicekit.migrate {each.module}" for each in PROGRAMS if each.schema
)


class Operator:
    """Runs commands, each with an environment of its own."""

    def __init__(self, docker: FakeDocker, capsys: pytest.CaptureFixture[str], state: Path) -> None:
        self.docker = docker
        self.state = state
        self._capsys = capsys
        # With two gateways, the next port must be free as well.
        self.port, self.admin_port = (str(port) for port in _pairs(2))

    def run(self, *arguments: str, **environ: str) -> str:
        """Runs a command that must succeed, and returns its output."""
        status, out, error = self._run(arguments, environ)
        assert (status, error) == (0, ""), error
        return out

    def refused(self, *arguments: str, **environ: str) -> str:
        """Runs a command that must fail, and returns its one sentence."""
        status, _, error = self._run(arguments, environ)
        assert status == 2, error
        assert error.startswith("frontrow: ")
        assert error.endswith(".\n")
        assert error.count("\n") == 1, error
        return error

    def interrupted(self, *arguments: str, **environ: str) -> None:
        status, _, error = self._run(arguments, environ)
        assert status == 130, error

    def one(self, service: str) -> Fake:
        (found,) = self.docker.of(service)
        return found

    def _run(self, arguments: tuple[str, ...], environ: dict[str, str]) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = program.main(arguments, {"ADMIN_PORT": self.admin_port, **environ})
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err


def _pairs(count: int) -> list[int]:
    """Ports after which the next one is free, too."""
    found: list[int] = []
    for port in free_ports(40):
        if is_free(port + 1) and port + 1 not in found and port - 1 not in found:
            found.append(port)
    return found[:count]


@pytest.fixture
def operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Operator:
    docker = FakeDocker()
    state = tmp_path / "state"
    monkeypatch.setattr(program, "Engine", partial(FakeEngine, docker))
    monkeypatch.setattr(settings, "STATE", state)
    monkeypatch.setattr(engine, "_HEALTHY_SECONDS", 0.0)
    return Operator(docker, capsys, state)
