"""Gateways that watch the fake room."""

from collections.abc import Awaitable, Callable

import httpx

from gateway.clients import Clients
from protos.frontrow.queue.v1 import queue_pb2
from tests.gateway.fakes import Services, sign
from tests.gateway.polling import until


class Watching:
    """A gateway that watches the room."""

    def __init__(self, clients: Clients, http: httpx.AsyncClient, services: Services) -> None:
        self.clients = clients
        self.http = http
        self._services = services

    async def get(self, path: str, place: queue_pb2.Place) -> httpx.Response:
        return await self.http.get(path, headers={"X-Access-Token": sign(place)})

    async def order(self, place: queue_pb2.Place) -> int:
        response = await self.get("/queues/order", place)
        assert response.status_code == 200, response.text
        return int(response.json()["order"])

    async def caught_up(self) -> None:
        """Waits until the copy has every change of the fake room."""
        watch = self._services.queue.watch
        copy = self.clients.rooms.main.copy
        await until(
            lambda: (
                copy.view is not None
                and (copy.view.epoch, copy.view.seq) == (watch.epoch, watch.seq)
            )
        )

    def calls(self) -> int:
        return len(self._services.faults.of("GetPositions"))


OpenWatching = Callable[..., Awaitable[Watching]]


def shopping(room: Services) -> queue_pb2.Place:
    return next(iter(room.queue.admitted.values()))
