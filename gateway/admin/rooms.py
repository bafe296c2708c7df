"""The routes of waiting rooms: definitions, modes, messages, the public value of a draw, counts."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.admin import schemas
from gateway.admin.access import Changer, Operator, Viewer
from gateway.admin.audit import Audit
from gateway.admin.bodies import JsonRoute
from gateway.admin.clients import READ_SECONDS, AdminClients
from gateway.admin.errors import ChangedMeanwhile, RoomNotFound
from gateway.admin.params import Version
from gateway.admin.schemas import LineOrder, RoomMode, moment, zone_of
from gateway.errors import FieldError, InvalidFields
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.client import call
from servicekit.rpc_errors import RemoteError

ROOM_CHANGED = "ROOM_CHANGED"
# How often a change of one field is made anew because somebody else was faster.
_ATTEMPTS = 4

Name = Annotated[str, Path(max_length=64)]
Edit = Callable[[rooms_pb2.Room], None]

_TIMES = ("gather_from", "gather_until", "opens_at", "closes_at")
_LIMITS = ("capacity", "max_waiting", "admissions_per_minute")
_TEXTS = ("time_zone", "message", "public_value_source")


class RoomRoutes:
    """/admin/rooms."""

    def __init__(self, clients: AdminClients, audit: Audit) -> None:
        self._rooms = clients.rooms
        self._queue = clients.queue
        self._credentials = clients.queue_credentials
        self._audit = audit

    def router(self) -> APIRouter:
        """Returns the routes."""
        router = APIRouter(tags=["rooms"], route_class=JsonRoute)
        one = "/admin/rooms/{name}"
        router.get("/admin/rooms")(self.list_rooms)
        router.get(one)(self.get_room)
        router.put(one)(self.put_room)
        router.delete(one, status_code=204, response_class=Response)(self.remove_room)
        router.get(f"{one}/counts")(self.count_room)
        router.post(f"{one}/pause")(self.pause_room)
        router.post(f"{one}/resume")(self.resume_room)
        router.post(f"{one}/drain")(self.drain_room)
        router.post(f"{one}/reopen")(self.reopen_room)
        router.post(f"{one}/bypass")(self.bypass_room)
        router.post(f"{one}/close")(self.close_room)
        router.put(f"{one}/message")(self.set_message)
        router.post(f"{one}/public-value")(self.set_public_value)
        return router

    async def list_rooms(self, _: Viewer) -> schemas.Rooms:
        """Lists all rooms by name."""
        return schemas.Rooms(rooms=[_room(room) for room in await self._all()])

    async def get_room(self, name: Name, _: Viewer) -> schemas.Room:
        """Returns a room."""
        return _room(await self._one(name))

    async def put_room(
        self, name: Name, asked: schemas.NewRoom, operator: Changer, version: Version = 0
    ) -> schemas.Room:
        """Creates a room, or replaces its definition. A change shows everywhere within a second.

        What has passed does not change (`ROOM_HAS_BEGUN`): to postpone an opening, change
        `opensAt` before it. A new draw gets a secret seed, whose SHA-256 is in the answer.
        """
        if asked.name not in (None, name):
            raise InvalidFields([FieldError("name", "is not the name in the path")])
        room = _definition(name, asked)
        detail = asked.model_dump(by_alias=True, mode="json", exclude_none=True, exclude={"draw"})
        async with self._audit.change(operator, "putRoom", f"room {name}", detail):
            return _room(await self._put(room, version or asked.version or 0))

    async def remove_room(self, name: Name, operator: Changer) -> None:
        """Removes a room that no published concert needs; its places are lost."""
        async with self._audit.change(operator, "removeRoom", f"room {name}", {}):
            request = rooms_pb2.RemoveRoomRequest(name=name)
            await call(self._rooms.RemoveRoom, request, budget=READ_SECONDS)

    async def count_room(self, name: Name, _: Viewer) -> schemas.RoomCounts:
        """Counts the people in a room, as queue_service knows them."""
        counts = await call(
            self._queue.GetRoom,
            queue_pb2.GetRoomRequest(room=name),
            budget=READ_SECONDS,
            metadata=self._credentials,
        )
        return schemas.RoomCounts(
            admitted=counts.admitted, waiting=counts.waiting, recovering=counts.recovering
        )

    async def pause_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Gives no new places and admits nobody for the moment."""
        return await self._set_mode(operator, "pauseRoom", name, RoomMode.PAUSED)

    async def resume_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Ends a pause, a drain or a bypass."""
        return await self._set_mode(operator, "resumeRoom", name, RoomMode.NORMAL)

    async def drain_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Lets those who are in finish, and admits nobody any more."""
        return await self._set_mode(operator, "drainRoom", name, RoomMode.DRAINING)

    async def bypass_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Switches the room off: everybody is let through at once."""
        return await self._set_mode(operator, "bypassRoom", name, RoomMode.BYPASSED)

    async def reopen_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Ends a pause, a drain or a bypass, and a close that has come."""

        def reopen(room: rooms_pb2.Room) -> None:
            room.mode = rooms_pb2.ROOM_MODE_NORMAL
            if room.closes_at.ToDatetime(UTC) <= datetime.now(UTC):
                room.ClearField("closes_at")

        return await self._edit(operator, "reopenRoom", name, {}, reopen)

    async def close_room(self, name: Name, operator: Changer) -> schemas.Room:
        """Closes the room now: it gives no new places and admits nobody."""

        def close(room: rooms_pb2.Room) -> None:
            room.closes_at.GetCurrentTime()

        return await self._edit(operator, "closeRoom", name, {}, close)

    async def set_message(
        self, name: Name, asked: schemas.Message, operator: Changer
    ) -> schemas.Room:
        """Sets what everybody who polls is told; an empty message ends it."""

        def tell(room: rooms_pb2.Room) -> None:
            room.message = asked.message

        return await self._edit(operator, "setMessage", name, asked.model_dump(), tell)

    async def set_public_value(
        self, name: Name, asked: schemas.PublicValue, operator: Changer
    ) -> schemas.Room:
        """Sets the public value of a draw, once, after its gathering has closed."""
        detail = asked.model_dump()
        async with self._audit.change(operator, "setPublicValue", f"room {name}", detail):
            request = rooms_pb2.SetPublicValueRequest(room=name, value=asked.value)
            response = await call(self._rooms.SetPublicValue, request, budget=READ_SECONDS)
        return _room(response.room)

    async def _all(self) -> list[rooms_pb2.Room]:
        request = rooms_pb2.ListRoomsRequest()
        return list((await call(self._rooms.ListRooms, request, budget=READ_SECONDS)).rooms)

    async def _one(self, name: str) -> rooms_pb2.Room:
        for room in await self._all():
            if room.name == name:
                return room
        raise RoomNotFound

    async def _put(self, room: rooms_pb2.Room, version: int) -> rooms_pb2.Room:
        """Raises ChangedMeanwhile with what differs from `room`."""
        request = rooms_pb2.PutRoomRequest(room=room, expected_version=version)
        try:
            return (await call(self._rooms.PutRoom, request, budget=READ_SECONDS)).room
        except RemoteError as error:
            if error.code != ROOM_CHANGED:
                raise
        present = [each for each in await self._all() if each.name == room.name]
        if not present:
            raise ChangedMeanwhile(ROOM_CHANGED, 0, [])
        raise ChangedMeanwhile(ROOM_CHANGED, present[0].version, _differences(present[0], room))

    async def _set_mode(
        self, operator: Operator, action: str, name: str, mode: RoomMode
    ) -> schemas.Room:
        def set_mode(room: rooms_pb2.Room) -> None:
            room.mode = rooms_pb2.RoomMode.Value(f"ROOM_MODE_{mode}")

        return await self._edit(operator, action, name, {}, set_mode)

    async def _edit(
        self, operator: Operator, action: str, name: str, detail: dict[str, object], edit: Edit
    ) -> schemas.Room:
        """Changes the room as it is; anew if somebody else is faster."""
        async with self._audit.change(operator, action, f"room {name}", detail):
            attempt = 1
            while True:
                room = await self._one(name)
                edit(room)
                try:
                    return _room(await self._put(room, room.version))
                except ChangedMeanwhile:
                    if attempt == _ATTEMPTS:
                        raise
                attempt += 1


def _definition(name: str, asked: schemas.RoomDefinition) -> rooms_pb2.Room:
    room = rooms_pb2.Room(
        name=name,
        mode=rooms_pb2.RoomMode.Value(f"ROOM_MODE_{asked.mode}"),
        order=rooms_pb2.LineOrder.Value(f"LINE_ORDER_{asked.order}"),
    )
    for field in (*_LIMITS, *_TEXTS):
        setattr(room, field, getattr(asked, field))
    for field in _TIMES:
        at: datetime | None = getattr(asked, field)
        if at is not None:
            _set(getattr(room, field), at)
    return room


def _set(timestamp: Timestamp, at: datetime) -> None:
    timestamp.FromDatetime(at)


def _room(room: rooms_pb2.Room) -> schemas.Room:
    zone = zone_of(room.time_zone)
    times = {
        field: moment(getattr(room, field), zone)
        for field in _TIMES
        if room.HasField(field)  # type: ignore[arg-type]  # its stubs want literals
    }
    return schemas.Room(
        name=room.name,
        version=room.version,
        mode=RoomMode(rooms_pb2.RoomMode.Name(room.mode).removeprefix("ROOM_MODE_")),
        order=LineOrder(rooms_pb2.LineOrder.Name(room.order).removeprefix("LINE_ORDER_")),
        draw=_draw(room.draw) if room.HasField("draw") else None,
        **{field: getattr(room, field) for field in (*_LIMITS, *_TEXTS)},
        **times,
    )


def _draw(draw: rooms_pb2.Draw) -> schemas.Draw:
    cohort = None
    if draw.HasField("cohort"):
        cohort = schemas.Cohort(size=draw.cohort.size, sha256=draw.cohort.sha256.hex())
    return schemas.Draw(
        seed_sha256=draw.seed_sha256.hex(), public_value=draw.public_value or None, cohort=cohort
    )


def _differences(present: rooms_pb2.Room, asked: rooms_pb2.Room) -> list[dict[str, object]]:
    """Lists the fields in which the present room differs from the one that was asked for."""
    before, after = (
        _room(room).model_dump(by_alias=True, mode="json", exclude={"version", "draw"})
        for room in (present, asked)
    )
    return [
        {"field": field, "before": before[field], "after": after[field]}
        for field in before
        if before[field] != after[field]
    ]
