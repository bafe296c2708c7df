"""What is told of containers, by an engine that is not there."""

import platform
import subprocess
import sys

import pytest

from harness.containers.engine import Container
from loadtests import containers, machine


def test_versions_are_those_in_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    def docker(*arguments: str) -> str:
        """An engine whose containers run what this machine runs."""
        action, _, *command = arguments
        assert action == "exec"
        if command[0] == "python":
            command[0] = sys.executable
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return f"{command[0]}  Ver 7.4.2 for Linux"

    monkeypatch.setattr(containers, "_docker", docker)
    found = [
        Container(f"{number}", service, service)
        for number, service in enumerate(("gateway", "mariadb", "redis"))
    ]
    rows = containers.versions(found)
    assert rows.keys() == {"python", *machine.PACKAGES, "redis-server", "mariadbd"}
    assert rows["python"] == platform.python_version()
    assert rows["redis-server"] == "7.4.2"
    monkeypatch.setattr(containers, "_docker", lambda *arguments: "")
    assert containers.versions(found)["python"] == "unknown"
