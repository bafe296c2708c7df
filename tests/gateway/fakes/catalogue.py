"""The stream of changes of the catalogue, as concert_service serves it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from protos.frontrow.concert.v1 import catalogue_pb2, catalogue_pb2_grpc, rooms_pb2
from servicekit.errors import Unavailable

PUBLISHED = catalogue_pb2.EVENT_STATUS_PUBLISHED


class FakeCatalogue(catalogue_pb2_grpc.CatalogueServiceServicer):
    """Three concerts behind the room `main`, of which the first has two dates."""

    def __init__(self) -> None:
        self._watchers: list[asyncio.Queue[catalogue_pb2.WatchCatalogueResponse | None]] = []
        self.version = 0
        self.reset()

    def reset(self) -> None:
        """Restores the initial concerts, without rooms that are defined, and ends all streams."""
        self.version += 1
        self.concerts: dict[int, catalogue_pb2.CatalogueConcert] = {
            id: catalogue_pb2.CatalogueConcert(
                id=id, room="main", status=PUBLISHED, schedule_ids=schedule_ids
            )
            for id, schedule_ids in {1: [11, 12], 2: [], 3: []}.items()
        }
        self.rooms: dict[str, rooms_pb2.Room] = {}
        self.disconnect()

    def disconnect(self) -> None:
        """Ends all streams with UNAVAILABLE."""
        for watcher in self._watchers:
            watcher.put_nowait(None)
        self._watchers = []

    def change_concert(
        self,
        concert_id: int,
        room: str = "main",
        status: catalogue_pb2.EventStatus.ValueType = PUBLISHED,
        schedule_ids: Sequence[int] = (),
    ) -> None:
        """Adds or changes a concert."""
        concert = self.concerts[concert_id] = catalogue_pb2.CatalogueConcert(
            id=concert_id, room=room, status=status, schedule_ids=schedule_ids
        )
        self._send(catalogue_pb2.WatchCatalogueResponse(concerts=[concert]))

    def define(self, room: rooms_pb2.Room) -> None:
        """Adds or changes a room."""
        self.rooms[room.name] = room
        self._send(catalogue_pb2.WatchCatalogueResponse(rooms=[room]))

    def remove(self, name: str) -> None:
        """Removes a room."""
        del self.rooms[name]
        self._send(catalogue_pb2.WatchCatalogueResponse(removed_rooms=[name]))

    def _send(self, message: catalogue_pb2.WatchCatalogueResponse) -> None:
        self.version += 1
        message.version = self.version
        for watcher in self._watchers:
            watcher.put_nowait(message)

    async def WatchCatalogue(
        self, request: catalogue_pb2.WatchCatalogueRequest, context: Any
    ) -> AsyncIterator[catalogue_pb2.WatchCatalogueResponse]:
        messages: asyncio.Queue[catalogue_pb2.WatchCatalogueResponse | None] = asyncio.Queue()
        self._watchers.append(messages)
        yield catalogue_pb2.WatchCatalogueResponse(
            version=self.version,
            reset=True,
            concerts=[each for each in self.concerts.values() if each.status == PUBLISHED],
            rooms=self.rooms.values(),
        )
        while (message := await messages.get()) is not None:
            yield message
        raise Unavailable("The service stops.")
