"""Tables, and programs, of the version before."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from harness.local.stack import Stack
from servicekit.kafka import Producer
from tests.reservation_service.upgrade.fans import Fans
from tests.reservation_service.upgrade.versions import BEFORE, Versions, unpack_version_before


@pytest.fixture(scope="session")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version-before")
    if not unpack_version_before(folder):
        pytest.skip(f"this copy of the repository has no commit {BEFORE[:7]} to run beside it")
    return folder


@pytest.fixture
def versions(
    servers: Stack, mysql_urls: dict[str, str], version_before: Path, tmp_path: Path
) -> Iterator[Versions]:
    """Nothing runs yet, and there is no table."""
    versions = Versions(servers, version_before, tmp_path / "log")
    yield versions
    assert versions.stop() == [], "these did not stop when asked"


@pytest.fixture
async def fans(versions: Versions, redis_url: str, kafka_bootstrap: str) -> AsyncIterator[Fans]:
    """Nobody shops yet."""
    await versions.create_topics()
    async with Producer(kafka_bootstrap) as producer:
        yield Fans(producer, kafka_bootstrap, versions.payments)
