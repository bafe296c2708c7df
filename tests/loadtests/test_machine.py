"""The versions of what runs in the system under load."""

import platform
from collections.abc import Sequence

from loadtests import machine


def test_versions_are_those_where_the_services_run() -> None:
    def execute(service: str, command: Sequence[str]) -> str:
        """Runs Python here, and another Redis and MariaDB."""
        if service == "gateway":
            return machine.here(service, command)
        return f"{command[0]}  Ver 7.4.2 for Linux"

    rows = machine.versions(execute)
    assert rows.keys() == {"python", *machine.PACKAGES, "redis-server", "mariadbd"}
    assert rows["python"] == platform.python_version()
    assert rows["redis-server"] == "7.4.2"
    assert machine.versions(lambda service, command: "")["python"] == "unknown"
