"""The limit of open files, and what happens when it is reached."""

import asyncio
import resource

import httpx
import pytest

from gateway.open_files import OPEN_FILES, OpenFiles, count_open_files, set_limit
from tests.gateway.fakes import Services
from tests.gateway.serving import serving


def test_the_soft_limit_is_set_as_far_as_the_hard_limit_allows() -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
        assert set_limit(700).limit == 700
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, hard)
        assert set_limit(hard + 1).limit == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert set_limit(700).limit == 700  # lowered: more connections would not fit into memory
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.mark.parametrize(("limit", "connections"), [(20_000, 19_744), (1_024, 768), (300, 150)])
def test_some_files_are_kept_for_everything_else(limit: int, connections: int) -> None:
    assert OpenFiles(limit).connections == connections


def test_exhausted_files_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = OpenFiles(2 * count_open_files())
    for now in (1_000.0, 1_059.0, 1_060.0, 1_119.0):
        monkeypatch.setattr("gateway.open_files.time.monotonic", lambda now=now: now)
        files.check()
    events = [r for r in caplog.records if r.getMessage() == "open_files_exhausted"]
    assert len(events) == 2
    assert events[0].__dict__["limit"] == files.limit
    assert files.exhausted
    files.connections = files.limit
    files.check()
    assert not files.exhausted


async def test_a_gateway_without_files_is_not_ready_and_recovers(services: Services) -> None:
    """At the limit newcomers wait, and open connections are served."""
    async with serving(services) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/health/ready")).status_code == 200
        gateway.open_files.connections = count_open_files()
        gateway.open_files.check()
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        expected = {"status": "not ready", "away": ["open files"], "roomView": "off"}
        assert ready.json() == expected
        assert OPEN_FILES._value.get() >= gateway.open_files.connections
        assert (await client.get("/health/live")).status_code == 200
        gateway.open_files.connections = 20_000
        gateway.open_files.check()
        assert (await client.get("/health/ready")).status_code == 200


async def test_connections_above_the_limit_wait(services: Services) -> None:
    async with serving(services, open_files=4) as gateway:  # two connections
        idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        idle[0][1].close()
        async with asyncio.timeout(10):
            assert b" 200 OK" in await reader.readline()
        for stream in (writer, idle[1][1]):
            stream.close()
