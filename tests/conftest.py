"""Fixtures of all tests, and their order: what is cheap runs first.

The servers are real and our own: free ports, data in a temporary folder, stopped with the test run.
Each is started when the first test asks for it.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from harness.local.ports import TEST_PORTS, Ports
from harness.local.stack import Stack
from harness.topology import SCHEMAS

# Folders whose tests share a running system, so that one worker runs each, in this order: these
# take longest.
_FOLDERS = ("tests/e2e/", "tests/faults/", "tests/loadtests/e2e/")


def pytest_configure() -> None:
    """Test clients reach servers of this machine directly, also if the environment names a proxy.
    Ctrl-C and the end of the terminal work in the programs that tests start, also when the tests
    were started in the background by a shell, or by nohup, which have them ignore SIGINT or SIGHUP
    and hand that on. Each worker has ports of its own."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
        filter(None, (os.environ.get("no_proxy"), "127.0.0.1", "localhost"))
    )
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        first = 20_000 + 6_000 * (int(worker.removeprefix("gw")) % 2)
        os.environ[TEST_PORTS] = f"{first}-{first + 5_999}"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names cases of bytes by their number: keys and archives are made anew in each worker, and all
    workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without a server, then tests with servers, then those of a running system."""

    def cost(item: pytest.Item) -> int:
        for number, folder in enumerate(_FOLDERS, 2):
            if item.nodeid.startswith(folder):
                return number
        return int("servers" in getattr(item, "fixturenames", ()))

    items.sort(key=cost)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist asks with --numprocesses
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Workers share the tests by file, and by folder where a folder shares a running system.
    (xdist_group of pytest-xdist 3.8 has no effect with pytest 9.2.)"""
    return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in _FOLDERS if file.startswith(folder)), file)


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Log lines go to pytest, which shows those of a test that fails. Left alone, structlog
    paints every traceback with its sources, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers without programs; not started yet."""
    stack = Stack(tmp_path_factory.mktemp("servers"), Ports.free())
    yield stack
    killed = stack.stop()
    assert killed == [], "these did not stop when asked"


@pytest.fixture(scope="session")
def redis_url(servers: Stack) -> str:
    """A Redis of our own."""
    servers.redis.start()
    return servers.redis_url


@pytest.fixture(scope="session")
def mysql_urls(servers: Stack) -> dict[str, str]:
    """Schema name (concert, reservation, payment) -> URL; freshly migrated, without rows."""
    servers.mariadb.start()
    servers.create_databases()
    servers.migrate()
    return {name: servers.mysql_url(name) for name in SCHEMAS}


@pytest.fixture(scope="session")
def kafka_bootstrap(servers: Stack) -> str:
    """A Kafka of our own, with the topics of the services."""
    servers.kafka.start()
    servers.create_topics()
    return servers.kafka_bootstrap


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top folder of the project."""
    return Path(__file__).parent.parent
