"""What the log shows: JSON lines with the request id, and no line of a library too often."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from servicekit import call_context, logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Puts the process-wide configuration back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    events = structlog.get_config()
    libraries = {name: logging.getLogger(name).level for name in ("aiokafka", "httpx")}
    yield
    root.handlers, root.level = handlers, level
    for name, old in libraries.items():
        logging.getLogger(name).setLevel(old)
    structlog.configure(**events)


def test_an_event_is_one_json_line_with_the_request_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO")
    call_context.request_id.set("r1")
    logs.get("some.module").warning("store_unavailable", room="main")
    line = json.loads(capsys.readouterr().out)
    assert (
        line.items()
        >= {
            "event": "store_unavailable",
            "room": "main",
            "level": "warning",
            "logger": "some.module",
            "request_id": "r1",
        }.items()
    )


def test_libraries_are_quieter_than_our_own_events(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    for name in ("aiokafka.consumer.fetcher", "httpx", "servicekit.server"):
        logging.getLogger(name).info("from %s", name)
    assert [json.loads(line)["logger"] for line in capsys.readouterr().out.splitlines()] == [
        "servicekit.server"
    ]


class TestRepetitions:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=1_000.0)
        monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return clock

    @pytest.mark.parametrize(
        ("library", "seconds"), [("asyncio", 1), ("grpc", 1), ("aiokafka.conn", 60)]
    )
    def test_of_a_library_are_counted(
        self,
        clock: SimpleNamespace,
        capsys: pytest.CaptureFixture[str],
        library: str,
        seconds: int,
    ) -> None:
        logs.configure("INFO")
        for _ in range(4):
            for number in range(1_000):
                logging.getLogger(library).warning("Invalid request from %s", number)
            clock.now += seconds
        lines = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
        assert lines == ["Invalid request from 0"] + ["Invalid request from 0 (and 999 more)"] * 3

    @pytest.mark.usefixtures("clock")
    def test_of_another_message_are_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure("INFO")
        for _ in range(3):
            logging.getLogger("aiokafka.conn").error("Unable to connect to %s", "broker")
            logging.getLogger("aiokafka.cluster").error("Unable to request metadata")
        lines = [json.loads(line)["logger"] for line in capsys.readouterr().out.splitlines()]
        assert lines == ["aiokafka.conn", "aiokafka.cluster"]

    @pytest.mark.usefixtures("clock")
    def test_of_our_own_events_all_pass(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A client may ask for the request id of any of them."""
        logs.configure("INFO")
        for number in range(3):
            logs.get("gateway").error("request_failed", number=number)
        lines = [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()]
        assert lines == [0, 1, 2]


def test_importing_changes_no_logger(repository: Path) -> None:
    modules = ["servicekit.server", "servicekit.kafka", "servicekit.mysql", "queue_service.service"]
    script = f"""
import importlib, logging
for module in {modules}:
    importlib.import_module(module)
root = logging.getLogger()
assert root.handlers == [], root.handlers
changed = [
    name
    for name, logger in root.manager.loggerDict.items()
    if isinstance(logger, logging.Logger) and name.startswith(("aiokafka", "servicekit", "grpc"))
    and (logger.level or logger.filters)
]
assert changed == [], changed
"""
    subprocess.run([sys.executable, "-c", script], cwd=repository, check=True, timeout=60)
