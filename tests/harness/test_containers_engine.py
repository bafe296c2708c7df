"""Calls of docker: input, output, failure, and a stop request while it hangs."""

import io
import signal
import threading
from pathlib import Path

import pytest

from harness.containers.engine import Engine
from harness.stopping import Stopped, stop_on_signals

DOCKER = """#!/bin/sh
case $1 in
    read) cat >"$2" ;;
    write) head -c 3000000 /dev/zero ;;
    fail) exit 3 ;;
    hang) exec sleep 60 ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    return Engine("test", {"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_it_copies_input_and_output(engine: Engine, tmp_path: Path) -> None:
    sent, received = bytes(range(256)) * 10_000, io.BytesIO()
    assert engine.copy("read", str(tmp_path / "copy"), source=io.BytesIO(sent))
    assert (tmp_path / "copy").read_bytes() == sent
    assert engine.copy("write", target=received)
    assert received.getvalue() == bytes(3_000_000)


def test_a_failure_is_reported_whatever_was_copied(engine: Engine) -> None:
    assert not engine.copy("fail", source=io.BytesIO(bytes(1_000_000)))
    assert not engine.copy("fail", target=io.BytesIO())


@pytest.mark.parametrize("call", ["input", "output", "command"])
def test_a_stop_request_ends_a_call_that_hangs(engine: Engine, call: str) -> None:
    def hang() -> None:
        threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
        if call == "input":
            engine.copy("hang", source=io.BytesIO(bytes(1_000_000)))
        elif call == "output":
            engine.copy("hang", target=io.BytesIO())
        else:
            engine.docker("hang")

    with pytest.raises(Stopped), stop_on_signals():
        hang()
