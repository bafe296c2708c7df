"""`make run` from the first start to the last process, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from harness import topology
from harness.local.ports import Ports, setting_of

# `python -m harness.cli`, with another folder for the data.
PROGRAM = """
    import sys
    from pathlib import Path
    from harness import cli
    from harness.local import supervisor
    supervisor.LOCAL = Path(sys.argv.pop(1))
    sys.exit(cli.run_app(cli.app))
"""

# What gRPC, httpx and curl read.
PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class Tree:
    """A checkout for `make run`. Its processes inherit a variable; Redis, which writes its title
    over its environment, works in its folder."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.ports = Ports.free()
        self._root = root
        self._repository = repository
        ours = ("FRONTROW_", *(program.prefix for program in topology.PROGRAMS))
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            **{setting_of(name): str(port) for name, port in self.ports.numbers.items()},
            "SEED": "small",
            # As on a machine whose package managers need a proxy. Here nobody listens.
            **dict.fromkeys(PROXIES, "http://127.0.0.1:1"),
            "no_proxy": "",
            "NO_PROXY": "",
            "FRONTROW_TEST": str(root),
        }

    @contextlib.contextmanager
    def started(self, action: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a command, and kills it if it still runs at the end."""
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), self._root, action],
                env=self._env,
                cwd=self._repository,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All that live."""
        return [
            each
            for each in psutil.process_iter(["environ", "cwd"])
            if (each.info["environ"] or {}).get("FRONTROW_TEST") == str(self._root)
            or (each.info["cwd"] or "").startswith(f"{self._root}/")
        ]


@pytest.fixture
def tree(tmp_path: Path, repository: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path, repository)
    yield tree
    assert tree.processes() == []


def wait_for(text: str, output: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while text not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


def assert_stopped(tree: Tree, output: Path) -> None:
    assert output.read_text().endswith("Stopped; nothing is left running.\n")
    assert "was killed" not in output.read_text()
    assert tree.processes() == []


# The fixture starts nothing here; it orders this test after those that need no server.
@pytest.mark.usefixtures("servers")
def test_it_starts_serves_and_leaves_nothing_behind(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "output"

    # A first start that `make stop`, which sends SIGTERM, interrupts when the servers run.
    with tree.started("run", output) as first:
        wait_for("… Concerts", output, first)
        assert len(tree.processes()) > len(topology.SERVERS)
        with tree.started("stop", tmp_path / "stop") as stop:
            assert stop.wait(60) == 0
        assert first.wait(10) == 0, output.read_text()
    assert (tmp_path / "stop").read_text().endswith("Stopped; nothing is left running.\n")
    assert_stopped(tree, output)

    # The second, with the data of the first, ended by Ctrl-C.
    with tree.started("run", output) as second:
        wait_for("Buy a ticket", output, second)
        url = f"http://{tree.ports.address('gateway')}"
        assert f"Frontrow serves on {url}" in output.read_text()
        assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
        assert len(tree.processes()) > len(topology.SERVERS) + len(topology.PROGRAMS)
        second.send_signal(signal.SIGINT)
        assert second.wait(60) == 0, output.read_text()
    assert_stopped(tree, output)


@pytest.mark.usefixtures("servers")
def test_it_can_be_stopped_while_it_starts(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with tree.started("run", output) as process:
        wait_for("… Redis", output, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, output.read_text()
    assert "Serving after" not in output.read_text()
    assert_stopped(tree, output)
