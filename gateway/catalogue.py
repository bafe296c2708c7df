"""What this process knows of the catalogue: concerts on sale, their rooms, and what has changed."""

from array import array
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from catalogue_view.follower import CatalogueFollower
from gateway.errors import ConcertNotFound
from gateway.room.room import Room
from gateway.rooms import Rooms
from protos.frontrow.concert.v1 import catalogue_pb2
from servicekit.errors import Unavailable

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueServiceAsyncStub


class Concert(NamedTuple):
    """A concert on sale. Its schedules are also those that have passed."""

    room: str
    schedule_ids: "array[int]"


class Changed(NamedTuple):
    """What a message of the catalogue says has changed; None: perhaps everything."""

    concert_ids: Collection[int] | None
    schedule_ids: Collection[int] | None


class Catalogue:
    """Follows the catalogue: keeps the concerts on sale and the definitions of rooms, and tells the
    caches of the process what has changed, within a second.

    A concert takes 300 bytes and 8 for each date. `run` it in the background.
    """

    def __init__(self, stub: "CatalogueServiceAsyncStub", rooms: Rooms) -> None:
        self._rooms = rooms
        self._concerts: dict[int, Concert] = {}
        self._listeners: list[Callable[[Changed], None]] = []
        self._follower = CatalogueFollower(stub, self.apply)
        self.run = self._follower.run

    def on_change(self, listener: Callable[[Changed], None]) -> None:
        """Calls `listener` at each change from now on, after it was applied here."""
        self._listeners.append(listener)

    def room_of(self, concert_id: int) -> str | None:
        """Returns the name of the room that leads to a concert; None if it is not on sale, or not
        known here yet."""
        concert = self._concerts.get(concert_id)
        return None if concert is None else concert.room

    def entrance(self, concert_id: int | None) -> Room:
        """Returns the room that somebody enters who wants this concert. Raises ConcertNotFound if
        it is not on sale, and Unavailable while that is not known."""
        if concert_id is None:
            return self._rooms.main
        name = self.room_of(concert_id)
        if name is None and self._rooms.are_known:
            raise ConcertNotFound
        room = None if name is None else self._rooms.get(name)
        if room is None:
            raise Unavailable("The waiting room of this concert is not known here yet.")
        return room

    def concerts_of(self, room: str) -> dict[int, Concert]:
        """Returns the concerts on sale to which a room leads, by id."""
        return {id: concert for id, concert in self._concerts.items() if concert.room == room}

    def apply(self, message: catalogue_pb2.WatchCatalogueResponse) -> None:
        """Applies a message of the stream."""
        if message.reset:
            self._concerts.clear()
            self._rooms.keep_only(message.rooms)
        for name in message.removed_rooms:
            self._rooms.remove(name)
        for room in message.rooms:
            self._rooms.define(room)
        for concert in message.concerts:
            self._apply_concert(concert)
        changed = Changed(None, None)
        if not message.reset:
            changed = Changed(
                [concert.id for concert in message.concerts],
                [id for concert in message.concerts for id in concert.schedule_ids],
            )
        for listener in self._listeners:
            listener(changed)

    def _apply_concert(self, message: catalogue_pb2.CatalogueConcert) -> None:
        if message.status == catalogue_pb2.EVENT_STATUS_PUBLISHED:
            self._concerts[message.id] = Concert(message.room, array("q", message.schedule_ids))
        else:
            self._concerts.pop(message.id, None)
