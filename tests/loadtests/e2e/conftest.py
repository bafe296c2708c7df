"""Runs of `make loadtest` in a process of their own."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from harness.local.ports import free_ports, setting_of
from harness.local.supervisor import LOCAL

UNSET = ("PROFILE", "SCRIPT", "SEED", "STAGES", "BASE_URL", "GATEWAY_LISTEN")


@pytest.fixture
def results(repository: Path) -> Iterator[Path]:
    """Where results go; those of the test are deleted."""
    folder = repository / "results" / "loadtest"
    before = set(folder.glob("*"))
    yield folder
    for made in set(folder.glob("*-smoke")) - before:
        shutil.rmtree(made)


class Started:
    """A run in a process of its own. It and all that it starts carry a mark."""

    def __init__(self, log: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        self.mark = str(log)
        ours = {k: v for k, v in os.environ.items() if k not in UNSET}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loadtests.cli", "loadtest"],
                env={**ours, **environ, "MARK": self.mark},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def programs(self) -> list[str]:
        """The names of those that run. Redis deletes its environment and so its mark."""
        return [
            each.info["name"]
            for each in psutil.process_iter(["name", "environ", "cwd"])
            if (each.info["environ"] or {}).get("MARK") == self.mark
            or (each.info["cwd"] or "").startswith(f"{LOCAL}/loadtest-")
        ]

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self, seconds: float = 90) -> int:
        """Waits for its end, after which nothing that it has started may run. Returns its exit
        status."""
        self.until(lambda: self.process.poll() is not None, seconds)
        assert self.programs() == []
        return self.process.returncode


Start = Callable[[Mapping[str, str]], Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a run with the given environment; kills it if the test fails."""
    with contextlib.ExitStack() as at_end:

        def start(environ: Mapping[str, str]) -> Started:
            started = Started(tmp_path / "output", environ)
            at_end.callback(started.process.kill)
            return started

        yield start


@pytest.fixture
def unattached() -> Iterator[dict[str, str]]:
    """The environment of a run that starts a stack of its own, of which nothing may be left."""
    before = set(LOCAL.glob("loadtest-*"))
    yield {
        "PROFILE": "smoke",
        "SCRIPT": "concerts",
        # Where no gateway answers, so that a system that runs here is left alone.
        setting_of("gateway"): str(free_ports(1)[0]),
        "GATEWAY_DRAIN_ANNOUNCE_SECONDS": "0.2",
    }
    assert set(LOCAL.glob("loadtest-*")) <= before
