"""The listener of the admin API: beside the public one, and never on it."""

import asyncio
import signal
from typing import Any

import httpx
import pytest

from concert_service.operators.domain import Role
from gateway.admin.server import AdminServer
from gateway.server import listen_for_operators
from gateway.settings import Settings
from tests.gateway.admin.fakes import AdminServices
from tests.gateway.fakes import KEYS

OFF: dict[str, Any] = {"token_keys": KEYS, "admin_listen": ""}
SETTINGS = {"admin_listen": "127.0.0.1:0", "drain_announce_seconds": 0, "drain_seconds": 5}


def test_nothing_listens_if_it_is_switched_off(admin_settings: Settings) -> None:
    off = admin_settings.model_copy(update={"admin_listen": Settings(**OFF).admin_listen})
    assert listen_for_operators(off) is None
    assert admin_settings.admin_listen == "127.0.0.1:8081"


async def test_it_serves_and_drains(services: AdminServices, admin_settings: Settings) -> None:
    settings = admin_settings.model_copy(update=SETTINGS)
    listener = listen_for_operators(settings)
    assert listener is not None
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    admin = AdminServer(settings, listener)
    running = asyncio.create_task(admin.server.serve())
    bearer = {"Authorization": f"Bearer {await services.key(Role.OPERATOR)}"}
    async with httpx.AsyncClient(base_url=url, headers=bearer) as client:
        assert (await client.put("/admin/rooms/box", json={"capacity": 1})).status_code == 200
        assert (await client.get("/docs")).status_code == 200
        # In many parts.
        document = {"externalId": "large", "title": "x" * 3_000_000}
        planned = await client.post("/admin/events?dryRun=true", json=document)
        assert planned.json()["changes"][1]["after"] == document["title"]
        # A change that has begun is finished.
        begun = asyncio.Event()
        services.steps.before["import"] = begun.set
        change = asyncio.create_task(
            client.post("/admin/events", json={"externalId": "hamlet", "title": "Hamlet"})
        )
        await asyncio.wait_for(begun.wait(), 5)
        admin.server.handle_signal(signal.SIGTERM)
        assert (await change).status_code == 200
    await asyncio.wait_for(running, 10)
    await admin.close()
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/docs")
