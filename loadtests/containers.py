"""Frontrow in containers on this machine (`make up`): addresses, and what the kernel counts."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.containers.engine import Container, Engine

_SECONDS = 20.0
_CGROUPS = Path("/sys/fs/cgroup")
_ESTABLISHED = "01"


@dataclasses.dataclass(frozen=True)
class Cgroup:
    """What the kernel counts for one container, and the container's limits.

    All methods raise OSError once the container has ended."""

    pid: int

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        if v2 := self._v2():
            return _table(v2 / "cpu.stat")["usage_usec"] / 1e6
        return _number(self._v1("cpuacct") / "cpuacct.usage") / 1e9

    def cores(self) -> float | None:
        """How many cores it may use; None: all."""
        if v2 := self._v2():
            quota, period = (v2 / "cpu.max").read_text().split()
        else:
            cpu = self._v1("cpu")
            quota = (cpu / "cpu.cfs_quota_us").read_text()
            period = (cpu / "cpu.cfs_period_us").read_text()
        return None if quota.strip() in ("max", "-1") else int(quota) / int(period)

    def throttled(self) -> tuple[int, int]:
        """The periods in which its cap made it wait, and all periods in which it ran."""
        found = _table((self._v2() or self._v1("cpu")) / "cpu.stat")
        return found["nr_throttled"], found["nr_periods"]

    def memory(self) -> int:
        """Bytes in use, without the cached files that could be dropped at once."""
        if v2 := self._v2():
            return _number(v2 / "memory.current") - _table(v2 / "memory.stat")["inactive_file"]
        memory = self._v1("memory")
        idle = _table(memory / "memory.stat")["total_inactive_file"]
        return _number(memory / "memory.usage_in_bytes") - idle

    def memory_limit(self) -> int | None:
        """How many bytes it may use; None: all."""
        if v2 := self._v2():
            output = (v2 / "memory.max").read_text().strip()
            return None if output == "max" else int(output)
        limit = _number(self._v1("memory") / "memory.limit_in_bytes")
        return None if limit > 1 << 60 else limit

    def connections(self) -> int:
        """TCP connections that are open."""
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/{self.pid}/net/{name}").read_text().splitlines()[1:]
        ]
        return sum(fields[3] == _ESTABLISHED for fields in lines)

    def _paths(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        found = [line.split(":", 2) for line in lines]
        return {kind: path.lstrip("/") for _, kinds, path in found for kind in kinds.split(",")}

    def _v2(self) -> Path | None:
        """Its folder in the tree of cgroup version 2, if this machine uses that version."""
        path = _CGROUPS / self._paths().get("", "")
        return path if (path / "cpu.stat").exists() and (path / "memory.current").exists() else None

    def _v1(self, kind: str) -> Path:
        return _CGROUPS / kind / self._paths()[kind]


def find(port: int) -> list[Container]:
    """The containers of the project whose gateway publishes this port; empty without such a project
    or without an engine."""
    project = _docker(
        "ps",
        *("--filter", f"publish={port}", "--filter", "label=com.docker.compose.service=gateway"),
        *("--format", '{{.Label "com.docker.compose.project"}}'),
    ).split()
    found = Engine(project[0], os.environ).containers() if project else []
    return [each for each in found if each.running]


def execute(found: Sequence[Container], service: str, command: Sequence[str]) -> str:
    """Runs a command in a container of the service. Returns its output; empty if it fails."""
    ids = [each.id for each in found if each.service == service]
    return _docker("exec", ids[0], *command)


def _docker(*arguments: str) -> str:
    """The output of docker; empty if docker is not installed or fails."""
    try:
        ran = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout if ran.returncode == 0 else ""


def _number(path: Path) -> int:
    return int(path.read_text())


def _table(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in lines}
