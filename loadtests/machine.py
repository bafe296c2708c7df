"""What the numbers were measured on, who used the processor, and how much of it others stole."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

PACKAGES = (
    "uvicorn",
    "fastapi",
    "starlette",
    "uvloop",
    "httptools",
    "grpcio",
    "redis",
    "aiomysql",
)
_PROGRAMS = {
    "redis-server": ["redis-server", "--version"],
    "mariadbd": ["mariadbd", "--version"],
    "wrk": ["wrk", "-v"],
}


def describe() -> dict[str, str]:
    """The machine and the versions on it, as rows for people."""
    return hardware() | versions()


def hardware() -> dict[str, str]:
    """The machine alone."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of what we run here."""
    rows = {"python": platform.python_version()}
    rows |= {name: importlib.metadata.version(name) for name in PACKAGES}
    return rows | {name: _version_of(command) for name, command in _PROGRAMS.items()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(command: list[str]) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        # wrk says its version and then fails, since it was given no URL.
        told = subprocess.run(
            command, capture_output=True, text=True, env={"PATH": path}, check=False
        )
    except FileNotFoundError:
        return "unknown"
    return version_in(told.stdout + told.stderr)


def version_in(told: str) -> str:
    """The first that looks like one."""
    match = re.search(r"\d+\.\d+[\w.]*", told)
    return match[0] if match else "unknown"


class Meter:
    """Processor time of some processes, and what the hypervisor gave to other machines."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._at_start = self._seconds()
        self._machine_at_start = psutil.cpu_times()

    def _seconds(self) -> dict[str, float]:
        return {name: sum(p.cpu_times()[:2]) for name, p in self._processes.items()}

    def used(self) -> dict[str, float]:
        """Seconds of processor time since the meter was made, by process, each over its threads."""
        return {name: now - self._at_start[name] for name, now in self._seconds().items()}

    def stolen(self) -> float:
        """The share of the machine's time since then that other machines got, 0 to 1."""
        now, before = psutil.cpu_times(), self._machine_at_start
        total = sum(now) - sum(before)
        return float((now.steal - before.steal) / total) if total else 0.0


def resident_megabytes(pid: int) -> float:
    """Memory that the process occupies, in MB."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)
