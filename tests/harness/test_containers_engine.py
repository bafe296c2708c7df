"""A stop request while docker hangs, with real processes."""

import gzip
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.containers.backup import backup, restore
from harness.containers.engine import Engine
from harness.stopping import Stopped, stop_on_signals

DOCKER = """#!/bin/sh
case $1 in
    container) echo 1 ;;
    inspect) cat <<END ;;
[{
    "Id": "1", "Name": "/mariadb_1", "RestartCount": 0, "State": {"Running": true, "Pid": 1},
    "NetworkSettings": {"Ports": null, "Networks": {}},
    "Config": {"Env": [], "Labels": {
        "com.docker.compose.service": "mariadb", "com.docker.compose.project": "test"
    }}
}]
END
    exec) exec sleep 60 ;;
esac
"""


@pytest.mark.parametrize("command", [backup, restore])
def test_a_stop_request_ends_a_dump_or_an_import_that_hangs(
    tmp_path: Path, command: Callable[[Engine, Path], None]
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    file = tmp_path / "frontrow.sql.gz"
    if command is restore:
        # More than fits into a pipe.
        file.write_bytes(gzip.compress(bytes(3_000_000)))
    engine = Engine("test", {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    threading.Timer(0.5, signal.raise_signal, [signal.SIGTERM]).start()
    with pytest.raises(Stopped), stop_on_signals():
        command(engine, file)
    assert {each.name for each in tmp_path.iterdir()} <= {docker.name, file.name}
