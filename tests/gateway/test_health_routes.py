"""The probes: GET /health/live and /health/ready."""

import asyncio
import time
from types import SimpleNamespace

import httpx
import pytest
from grpc_health.v1 import health_pb2

from gateway.clients import Clients
from gateway.routes import health
from gateway.server import Drain
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services


class TestHealth:
    @pytest.fixture
    def checks(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The results of all checks of the services."""
        results: list[list[str]] = []
        check = Clients.unavailable_services

        async def counted(clients: Clients) -> list[str]:
            results.append(await check(clients))
            return results[-1]

        monkeypatch.setattr(Clients, "unavailable_services", counted)
        return results

    async def test_ready_when_every_service_answers(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/health/ready")
        assert response.status_code == 200
        assert response.json() == {"status": "ready", "away": [], "roomView": "off"}

    async def test_not_ready_names_the_unavailable_services(
        self, open_gateway: OpenGateway, unused_address: str
    ) -> None:
        client = await open_gateway(payment_addr=unused_address)
        response = await client.get("/health/ready")
        assert response.status_code == 503
        expected = {"status": "not ready", "away": ["payment_service"], "roomView": "off"}
        assert response.json() == expected
        assert response.headers["Retry-After"] == "1"
        assert (await client.get("/health/live")).json() == {"status": "live"}

    async def test_a_draining_service_is_unavailable(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        await services.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await client.get("/health/ready")).status_code == 503

    async def test_the_services_are_asked_once_a_second(
        self, open_gateway: OpenGateway, checks: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        crowd = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))
        crowd += [await client.get("/health/ready") for _ in range(50)]
        assert {response.status_code for response in crowd} == {200}
        assert len(checks) == 1
        monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1))
        await client.get("/health/ready")
        assert len(checks) == 2

    async def test_a_recovery_shows_soon(
        self, open_gateway: OpenGateway, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        await services.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await client.get("/health/ready")).status_code == 503
        await services.health.set("", health_pb2.HealthCheckResponse.SERVING)
        assert (await client.get("/health/ready")).status_code == 503
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.1)
        monkeypatch.setattr(health, "time", later)
        assert (await client.get("/health/ready")).status_code == 200

    async def test_a_client_that_leaves_does_not_end_the_check_for_the_others(
        self, open_gateway: OpenGateway, checks: list[list[str]]
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        impatient, patient = (asyncio.create_task(client.get("/health/ready")) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).status_code == 200
        assert len(checks) == 1

    async def test_a_drain_shows_at_once(self, open_gateway: OpenGateway) -> None:
        drain = Drain()
        client = await open_gateway(drain=drain, readiness_ttl_seconds=1)
        assert (await client.get("/health/ready")).status_code == 200
        drain.begun = True
        response = await client.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "draining")
