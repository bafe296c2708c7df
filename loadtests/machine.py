"""The machine that the numbers were measured on, and the versions of what ran there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
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
    """The machine and the versions on it: name → value."""
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
    """The versions of Python, of our main packages and of the servers."""
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
        # wrk prints its version and then fails, because it was given no URL.
        output = subprocess.run(
            command, capture_output=True, text=True, env={"PATH": path}, check=False
        )
    except FileNotFoundError:
        return "unknown"
    return version_in(output.stdout + output.stderr)


def version_in(output: str) -> str:
    """The first part of the text that looks like a version."""
    match = re.search(r"\d+\.\d+[\w.]*", output)
    return match[0] if match else "unknown"
