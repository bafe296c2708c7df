"""One run of wrk: 50 connections, each with one request in flight at any time."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from harness import stopping
from harness.errors import UserError

CONNECTIONS = 50
# Above the gateway's longest budget (paying, 8 s): a slower response is a failure.
TIMEOUT_SECONDS = 10
_SCRIPT = Path(__file__).with_name("cycle.lua")


class Request(NamedTuple):
    """One HTTP request in the order of cycle.lua; `token` and `body` may be empty."""

    method: str
    path: str
    token: str = ""
    body: str = ""


class Run(BaseModel):
    """What cycle.lua prints at the end of a run."""

    requests: int
    #: Requests that wrk started; above the number of given requests, it repeated some.
    issued: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    not_2xx: int
    socket_errors: int
    timeouts: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(url: str, requests: Sequence[Request], *, seconds: int, work: Path, what: str) -> Run:
    """Sends `requests` in a cycle for `seconds`. `work` is a folder for a temporary file.

    Raises UserError if wrk fails or a response was no success.
    """
    file = work / "requests.tsv"
    file.write_text("".join("\t".join(request) + "\n" for request in requests))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", "-s", str(_SCRIPT), url, "--", str(file)]
    try:
        ended = stopping.run(
            command,
            timeout=seconds + 30,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise UserError("wrk is not installed: run harness/bootstrap.sh bench.") from None
    if ended.returncode:
        raise UserError(f"wrk failed on {what}: {ended.stderr.strip()}")
    found = Run.model_validate_json(ended.stdout.splitlines()[-1])
    bad = {
        "responses that were no success": found.not_2xx,
        "connection errors": found.socket_errors,
        f"responses that took over {TIMEOUT_SECONDS} s": found.timeouts,
    }
    if failures := ", ".join(f"{count} {name}" for name, count in bad.items() if count):
        raise UserError(f"{what}: {failures} among {found.requests} requests.")
    if not found.requests:
        raise UserError(f"{what}: no response at all.")
    return found
