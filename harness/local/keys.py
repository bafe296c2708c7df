"""The command for API keys, on the database of `make run`."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from harness.errors import UserError
from harness.local.ports import Ports
from harness.local.stack import PYTHON, Stack
from harness.local.supervisor import LOCAL


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs concert_service.keys with these arguments; returns its exit status."""
    return subprocess.run(
        [PYTHON, "-m", "concert_service.keys", *arguments], check=False, env=_settings(environ)
    ).returncode


@contextlib.contextmanager
def temporary(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Lends a key with the role operator, which is revoked afterwards. Raises UserError."""
    created = _call(environ, "create", "--name", name, "--role", "operator")
    id = re.match(r"Key (\d+) ", created.stderr)
    assert id is not None, created.stderr
    try:
        yield created.stdout.strip()
    finally:
        _call(environ, "revoke", id[1])


def _call(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PYTHON, "-m", "concert_service.keys", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=_settings(environ),
    )
    if done.returncode:
        raise UserError(f"No API key: {done.stderr.strip()}")
    return done


def _settings(environ: Mapping[str, str]) -> Mapping[str, str]:
    stack = Stack(LOCAL, Ports.from_environ(environ), inherit_settings=True)
    return stack.environment("concert_service")
