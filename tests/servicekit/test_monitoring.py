"""The HTTP port of a service: health, which reports the event loop, and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from servicekit import monitoring
from servicekit.monitoring import MonitoringServer


class Service:
    """A service whose state a test sets."""

    serving = True


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def port(service: Service) -> AsyncIterator[int]:
    server = MonitoringServer("127.0.0.1:0", lambda: service.serving)
    yield server.port
    await asyncio.to_thread(server.close)


async def get(port: int, path: str) -> httpx.Response:
    return await asyncio.to_thread(
        httpx.get, f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10
    )


async def test_health_follows_the_state_of_the_service(service: Service, port: int) -> None:
    assert (await get(port, "/health")).status_code == 200
    service.serving = False
    response = await get(port, "/health")
    assert (response.status_code, response.text) == (503, "not serving\n")


async def test_a_stuck_event_loop_is_unhealthy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "LOOP_SECONDS", 0.1)
    request = asyncio.create_task(get(port, "/health"))
    await asyncio.sleep(0.01)  # the request is on its way
    time.sleep(0.5)  # noqa: ASYNC251  # the loop is stuck
    assert (await request).status_code == 503
    assert (await get(port, "/health")).status_code == 200


async def test_metrics_are_served_at_their_path(port: int) -> None:
    response = await get(port, "/metrics")
    assert response.status_code == 200
    assert "python_info" in response.text


async def test_a_taken_address_is_an_error(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        MonitoringServer(f"127.0.0.1:{port}", lambda: True)


async def test_ipv6_addresses_are_served() -> None:
    server = MonitoringServer("[::1]:0", lambda: True)
    response = await asyncio.to_thread(
        httpx.get, f"http://[::1]:{server.port}/health", trust_env=False
    )
    await asyncio.to_thread(server.close)
    assert response.status_code == 200
