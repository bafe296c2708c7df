"""The waiting rooms that this process knows."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from gateway.errors import TokenExpired
from gateway.room.draw import Cohorts
from gateway.room.room import Room
from gateway.settings import Settings
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from servicekit import logs
from servicekit.errors import Unavailable

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceAsyncStub

log = logs.get(__name__)

# The place of a room that another process has known for a moment: catalogues are a second apart at
# most, and the clocks of machines some seconds.
_NEW_SECONDS = 30.0


class Rooms:
    """Rooms by name. The one of GATEWAY_ROOM exists always, the others come and go at run time.

    Create it inside the event loop that uses it; `close()` it at the end.
    """

    def __init__(
        self, queue: "QueueServiceAsyncStub", settings: Settings, cohorts: Cohorts
    ) -> None:
        self._queue = queue
        self._cohorts = cohorts
        self._settings = settings
        self._rooms: dict[str, Room] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.on_polled: Callable[[], None] = lambda: None
        """Called when somebody polls a room, at most once a second for each."""
        self.are_known = False
        """Whether the catalogue has named all rooms since the start."""
        self.main = self.add(settings.room)
        """The room of who enters without a concert."""

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def get(self, name: str) -> Room | None:
        """Returns a room, or None."""
        return self._rooms.get(name)

    def of(self, place: queue_pb2.Place) -> Room:
        """Returns the room of a place whose token is genuine. Raises TokenExpired if the room was
        removed, and Unavailable if it may be one that this process does not know yet."""
        room = self._rooms.get(place.room)
        if room is not None:
            return room
        if self.are_known and place.issued_at < time.time() - _NEW_SECONDS:
            raise TokenExpired
        raise Unavailable("The waiting room of this token is not known here yet.")

    def define(self, definition: rooms_pb2.Room) -> None:
        """Takes the definition of a room, and adds the room if there is none."""
        self.add(definition.name).define(definition)

    def add(self, name: str) -> Room:
        """Returns the room with this name, a new one if there is none, which begins to watch."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._queue, self._settings, self._cohorts)
            room.notice.on_wanted = self._polled
            room.start()
            log.info("room_added", room=name)
        return room

    def remove(self, name: str) -> None:
        """Forgets a room. No-op for an unknown one; the one of GATEWAY_ROOM forgets its
        definition."""
        if name == self._settings.room:
            self.main.define(None)
            return
        room = self._rooms.pop(name, None)
        if room is None:
            return
        task = asyncio.create_task(room.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        log.info("room_removed", room=name)

    def keep_only(self, definitions: Iterable[rooms_pb2.Room]) -> None:
        """Takes the definitions of all rooms that there are, and removes all others."""
        defined = {definition.name: definition for definition in definitions}
        for name in self._rooms.keys() - defined.keys():
            self.remove(name)
        for definition in defined.values():
            self.define(definition)
        self.are_known = True

    def _polled(self) -> None:
        self.on_polled()

    async def close(self) -> None:
        """Ends all rooms."""
        await asyncio.gather(*self._closing, *(room.close() for room in self._rooms.values()))
