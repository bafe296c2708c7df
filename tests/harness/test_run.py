"""`make run` from the first start to the last process, below a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness import topology
from harness.local.ports import Ports, setting_of

# What `python -m harness.cli` does, but for where the data goes.
PROGRAM = """
    import sys
    from pathlib import Path
    from harness import cli
    from harness.local import supervisor
    supervisor.LOCAL = Path(sys.argv.pop(1))
    supervisor._LOCK = supervisor.LOCAL / "supervisor.lock"
    sys.exit(cli.run_app(cli.app))
"""
SERVERS = ["redis", "mariadb", "kafka"]


class Tree:
    """Where `make run` may run. All that it starts is known by a variable it inherits, or by
    its folder: Redis writes its title over its environment."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.ports = Ports.free()
        self._root = root
        self._repository = repository
        self._mark = f"FRONTROW_TEST={root}"
        own = ("FRONTROW_", *(program.prefix for program in topology.PROGRAMS))
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            **{setting_of(name): str(port) for name, port in self.ports.numbers.items()},
            "SEED": "small",
            "FRONTROW_TEST": str(root),
        }

    def start(self, action: str, output: Path) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), self._root, action],
                env=self._env,
                cwd=self._repository,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[str]:
        """The command lines of all that lives."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environ = (path / "environ").read_bytes().split(b"\0")
                if (
                    self._mark.encode() in environ
                    or self._root in (path / "cwd").readlink().parents
                ):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # ended meanwhile, or another user's
                continue
        return found


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


# That fixture starts nothing here; it puts this test behind those that need no server.
@pytest.mark.usefixtures("servers")
def test_it_starts_serves_and_leaves_nothing_behind(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "output"

    # A first start that `make stop`, which sends SIGTERM, interrupts when the servers are there.
    first = tree.start("run", output)
    try:
        wait_for("… Concerts", output, first)
        assert len(tree.processes()) >= 1 + len(SERVERS)
        stop = tree.start("stop", tmp_path / "stop")
        assert stop.wait(60) == 0
        assert first.wait(10) == 0, output.read_text()
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "stop").read_text().endswith("Stopped; nothing is left running.\n")
    assert_stopped(tree, output)

    # The second, with what the first has left, ended by Ctrl-C.
    second = tree.start("run", output)
    try:
        wait_for("Buy a ticket", output, second)
        url = f"http://{tree.ports.address('gateway')}"
        assert f"Frontrow serves on {url}" in output.read_text()
        assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
        assert len(tree.processes()) >= 1 + len(SERVERS) + len(topology.PROGRAMS)
        second.send_signal(signal.SIGINT)
        assert second.wait(60) == 0, output.read_text()
    finally:
        second.kill()
        second.wait()
    assert_stopped(tree, output)


def assert_stopped(tree: Tree, output: Path) -> None:
    assert output.read_text().endswith("Stopped; nothing is left running.\n")
    assert "was killed" not in output.read_text()
    assert tree.processes() == []


@pytest.mark.usefixtures("servers")
def test_it_can_be_stopped_while_it_starts(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = tree.start("run", output)
    try:
        wait_for("… Redis", output, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Serving after" not in output.read_text()
    assert_stopped(tree, output)
