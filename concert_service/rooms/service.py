"""The use cases of operators: defining rooms, and the public value of a draw."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import urandom

from concert_service.rooms.errors import (
    DrawNotClosed,
    InvalidRoom,
    PublicValueSet,
    RoomChanged,
    RoomInUse,
    RoomNotFound,
    TooManyRooms,
)
from concert_service.rooms.ports import RoomStore
from concert_service.rooms.rules import (
    MAX_ROOMS,
    Found,
    StoredRoom,
    check_change,
    checked,
    public_value_fault,
)
from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.errors import InvalidRequest

SEED_BYTES = 32


def now_ms() -> int:
    """Returns the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class RoomService:
    """Changes rooms in the store. `clock` returns the Unix time in milliseconds."""

    def __init__(self, store: RoomStore, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._clock = clock

    async def list_rooms(self) -> Sequence[StoredRoom]:
        """Lists all rooms by name."""
        return await self._store.rooms()

    async def put_room(self, room: rooms_pb2.Room, expected_version: int) -> StoredRoom:
        """Creates a room, or replaces its definition, unless it is the same already. Raises
        InvalidRoom, RoomChanged, RoomHasBegun and TooManyRooms."""
        if expected_version < 0:
            raise InvalidRequest("expected_version must not be below 0.")
        definition = checked(room)

        def decide(found: Found) -> StoredRoom | None:
            live = found.live
            if live is not None and live.definition == definition:
                return None
            if expected_version and (live is None or live.version != expected_version):
                raise RoomChanged(live.version if live is not None else 0)
            if live is None:
                if found.live_rooms >= MAX_ROOMS:
                    raise TooManyRooms(MAX_ROOMS)
                version = found.room.version if found.room is not None else 0
                live = StoredRoom(definition.name, version, rooms_pb2.Room())
            else:
                check_change(live, definition, self._clock())
            after = replace(live, version=live.version + 1, definition=definition)
            if not after.is_draw:
                # Of a draw that has become none before it began.
                return replace(after, seed=None, public_value="")
            return after if after.seed is not None else replace(after, seed=urandom(SEED_BYTES))

        stored = await self._store.change(definition.name, decide)
        assert stored is not None
        return stored

    async def remove_room(self, name: str) -> None:
        """Removes a room; no-op if there is none. Raises RoomInUse."""

        def decide(found: Found) -> StoredRoom | None:
            live = found.live
            if live is None:
                return None
            if found.concert_ids:
                raise RoomInUse(found.concert_ids)
            return StoredRoom(name, live.version + 1, rooms_pb2.Room(), is_removed=True)

        await self._store.change(name, decide)

    async def set_public_value(self, name: str, value: str) -> StoredRoom:
        """Sets the public value of a draw whose cohort is complete. Raises InvalidRequest,
        RoomNotFound, DrawNotClosed and PublicValueSet."""
        if fault := public_value_fault(value):
            raise InvalidRoom("public_value", fault)

        def decide(found: Found) -> StoredRoom | None:
            live = found.live
            if live is None:
                raise RoomNotFound
            if not live.definition.public_value_source:
                raise InvalidRoom("public_value", "the room announced no source of one")
            if live.public_value:
                if live.public_value != value:
                    raise PublicValueSet
                return None
            # Whoever sets it must not be able to change the list any more.
            if live.cohort_sha256 is None:
                raise DrawNotClosed
            return replace(live, version=live.version + 1, public_value=value)

        stored = await self._store.change(name, decide)
        assert stored is not None
        return stored
