"""The machine that the numbers were measured on, and the versions of what ran there."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from harness.local.process import search_path

PACKAGES = ["granian", "fastapi", "starlette", "uvloop", "grpcio", "redis", "aiomysql"]
_PYTHON_AND_PACKAGES = f"""
import importlib.metadata, json, platform
rows = {{"python": platform.python_version()}}
print(json.dumps(rows | {{n: importlib.metadata.version(n) for n in {PACKAGES!r}}}))
"""
#: Runs a command where a service of compose.yml runs, and returns its output; empty if it fails.
Execute = Callable[[str, Sequence[str]], str]


def describe() -> dict[str, str]:
    """The machine and the versions on it: name → value."""
    return hardware() | versions() | {"wrk": version_in(here("", ["wrk", "-v"]))}


def hardware() -> dict[str, str]:
    """The machine alone."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1].strip() if found else platform.machine()


def here(service: str, command: Sequence[str]) -> str:
    """Runs a command on this machine, for at most 30 s; empty if that does not suffice or it is not
    installed. wrk prints its version and then fails without a URL."""
    environ = {"PATH": search_path()}
    program = sys.executable if command[0] == "python" else command[0]
    try:
        ran = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            env=environ,
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout + ran.stderr


def versions(execute: Execute = here) -> dict[str, str]:
    """The versions of Python, of our main packages and of the servers."""
    output = execute("gateway", ["python", "-c", _PYTHON_AND_PACKAGES])
    rows: dict[str, str] = json.loads(output) if output else {"python": "unknown"}
    for service, program in (("redis", "redis-server"), ("mariadb", "mariadbd")):
        rows[program] = version_in(execute(service, [program, "--version"]))
    return rows


def version_in(output: str) -> str:
    """The first part of the text that looks like a version."""
    match = re.search(r"\d+\.\d+[\w.]*", output)
    return match[0] if match else "unknown"
