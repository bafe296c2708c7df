"""Fixtures of all tests, and their order: what is cheap runs first.

The servers are real and our own: free ports, data in a temporary folder, gone with the test run.
Each is started when the first test asks for it.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from harness.local.ports import Ports
from harness.local.stack import Stack
from harness.topology import SCHEMAS

# Folders whose tests start the programs; everything else runs before them, the faults last.
_COSTLY = ["e2e", "faults"]


def pytest_configure() -> None:
    """Ctrl-C and the end of the terminal work in the programs that tests start, also when the tests
    were started in the background by a shell, or by nohup, which have them ignore SIGINT or SIGHUP
    and hand that on."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without a server, then tests with servers, then the running system, then faults."""

    def cost(item: pytest.Item) -> int:
        folder = item.path.parent.name
        if folder in _COSTLY:
            return 2 + _COSTLY.index(folder)
        names = getattr(item, "fixturenames", ())
        return int("servers" in names)

    items.sort(key=cost)


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
