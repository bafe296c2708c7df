"""An operator of containers, on a Docker of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.containers import __main__ as program
from harness.containers import engine, settings
from harness.local.ports import free_ports
from tests.harness.fake_docker import Fake, FakeDocker


class Operator:
    """Types commands, each in a shell of its own: what is set for one is not set for the next."""

    def __init__(self, docker: FakeDocker, capsys: pytest.CaptureFixture[str], state: Path) -> None:
        self.docker = docker
        self.state = state
        self._capsys = capsys
        #: As good as any; two are free.
        self.port = str(free_ports(1)[0])

    def run(self, *arguments: str, **environ: str) -> str:
        """What it prints; it must succeed."""
        status, out, complaint = self._run(arguments, environ)
        assert (status, complaint) == (0, ""), complaint
        return out

    def refused(self, *arguments: str, **environ: str) -> str:
        """The one sentence that it ends with."""
        status, _, complaint = self._run(arguments, environ)
        assert status == 2, complaint
        assert complaint.startswith("frontrow: ")
        assert complaint.endswith(".\n")
        assert complaint.count("\n") == 1, complaint
        return complaint

    def interrupted(self, *arguments: str, **environ: str) -> None:
        status, _, complaint = self._run(arguments, environ)
        assert status == 130, complaint

    def one(self, service: str) -> Fake:
        (found,) = self.docker.of(service)
        return found

    def _run(self, arguments: tuple[str, ...], environ: dict[str, str]) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = program.main(arguments, environ)
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Operator:
    docker = FakeDocker()
    state = tmp_path / "state"
    monkeypatch.setattr(program, "Engine", docker.engine)
    monkeypatch.setattr(settings, "STATE", state)
    monkeypatch.setattr(engine, "_HEALTHY_SECONDS", 0.0)
    return Operator(docker, capsys, state)
