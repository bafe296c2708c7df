"""One run of wrk: 50 connections, each with one request in flight at any time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness import stopping

CONNECTIONS = 50
# Above the gateway's longest budget (paying, 8 s): a slower reply is a failure.
TIMEOUT_SECONDS = 10
_SCRIPT = Path(__file__).with_name("cycle.lua")


class RunError(Exception):
    """Why a measurement is invalid, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One HTTP request; `token` and `body` may be empty."""

    method: str
    path: str
    token: str = ""
    body: str = ""

    def line(self) -> str:
        return f"{self.method}\t{self.path}\t{self.token}\t{self.body}\n"


@dataclasses.dataclass(frozen=True)
class Run:
    """What wrk measured. Every reply was a success."""

    requests: int
    #: Requests that wrk started; above the number of given requests, it repeated some.
    issued: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(url: str, requests: Sequence[Request], *, seconds: int, work: Path, what: str) -> Run:
    """Sends `requests` in a cycle for `seconds`. `work` is a folder for a temporary file.

    Raises RunError if a reply was no success.
    """
    file = work / "requests.tsv"
    file.write_text("".join(request.line() for request in requests))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", "-s", str(_SCRIPT), url]
    try:
        ran = stopping.run(
            [*command, "--", str(file)],
            timeout=seconds + 30,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise RunError("wrk is not installed: run harness/bootstrap.sh bench.") from None
    if ran.returncode:
        raise RunError(f"wrk failed on {what}: {ran.stderr.strip()}")
    return parse(ran.stdout, what)


def parse(output: str, what: str) -> Run:
    """Reads the output of cycle.lua. Raises RunError if a reply was no success."""
    numbers = json.loads(output.strip().splitlines()[-1])
    bad = {
        "replies that were no success": numbers["not_2xx"],
        "connection errors": numbers["socket_errors"],
        f"replies that took over {TIMEOUT_SECONDS} s": numbers["timeouts"],
    }
    if failures := ", ".join(f"{count} {name}" for name, count in bad.items() if count):
        raise RunError(f"{what}: {failures} among {numbers['requests']} requests.")
    if not numbers["requests"]:
        raise RunError(f"{what}: no reply at all.")
    return Run(
        requests=numbers["requests"],
        issued=numbers["issued"],
        seconds=numbers["microseconds"] / 1e6,
        p50_ms=numbers["p50_us"] / 1000,
        p99_ms=numbers["p99_us"] / 1000,
        max_ms=numbers["max_us"] / 1000,
    )
