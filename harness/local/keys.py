"""The command for API keys, on the database of `make run`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from harness.local.ports import Ports
from harness.local.stack import PYTHON, Stack
from harness.local.supervisor import LOCAL


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs concert_service.keys with these arguments; returns its exit status."""
    stack = Stack(LOCAL, Ports.from_environ(environ), inherit_settings=True)
    return subprocess.run(
        [PYTHON, "-m", "concert_service.keys", *arguments],
        check=False,
        env=stack.environment("concert_service"),
    ).returncode
