"""Converts between the messages of rooms and draws and their use cases."""

import hashlib

from concert_service.rooms.draws import DrawService
from concert_service.rooms.repository import to_message
from concert_service.rooms.rules import StoredRoom
from concert_service.rooms.service import RoomService
from protos.frontrow.concert.v1 import rooms_pb2, rooms_pb2_grpc
from servicekit.call_interceptor import Context


class RoomAdminServicer(rooms_pb2_grpc.RoomAdminServiceServicer):
    """Implements RoomAdminService of protos/frontrow/concert/v1/rooms.proto. Operators do not see
    seeds."""

    def __init__(self, service: RoomService) -> None:
        self._service = service

    async def ListRooms(
        self, request: rooms_pb2.ListRoomsRequest, context: Context
    ) -> rooms_pb2.ListRoomsResponse:
        rooms = await self._service.list_rooms()
        return rooms_pb2.ListRoomsResponse(rooms=map(_without_seed, rooms))

    async def PutRoom(
        self, request: rooms_pb2.PutRoomRequest, context: Context
    ) -> rooms_pb2.PutRoomResponse:
        room = await self._service.put_room(request.room, request.expected_version)
        return rooms_pb2.PutRoomResponse(room=_without_seed(room))

    async def RemoveRoom(
        self, request: rooms_pb2.RemoveRoomRequest, context: Context
    ) -> rooms_pb2.RemoveRoomResponse:
        await self._service.remove_room(request.name)
        return rooms_pb2.RemoveRoomResponse()

    async def SetPublicValue(
        self, request: rooms_pb2.SetPublicValueRequest, context: Context
    ) -> rooms_pb2.SetPublicValueResponse:
        room = await self._service.set_public_value(request.room, request.value)
        return rooms_pb2.SetPublicValueResponse(room=_without_seed(room))


class DrawServicer(rooms_pb2_grpc.DrawServiceServicer):
    """Implements DrawService of protos/frontrow/concert/v1/rooms.proto."""

    def __init__(self, service: DrawService) -> None:
        self._service = service

    async def PutCohort(
        self, request: rooms_pb2.PutCohortRequest, context: Context
    ) -> rooms_pb2.PutCohortResponse:
        room = await self._service.put_cohort(
            request.room, request.attempt, request.offset, request.numbers, request.is_last
        )
        return rooms_pb2.PutCohortResponse(cohort=_cohort(room))

    async def GetCohort(
        self, request: rooms_pb2.GetCohortRequest, context: Context
    ) -> rooms_pb2.GetCohortResponse:
        numbers, room = await self._service.get_cohort(request.room, request.offset)
        return rooms_pb2.GetCohortResponse(numbers=numbers, cohort=_cohort(room))

    async def GetDraw(
        self, request: rooms_pb2.GetDrawRequest, context: Context
    ) -> rooms_pb2.GetDrawResponse:
        room = await self._service.get_draw(request.room)
        definition = room.definition
        return rooms_pb2.GetDrawResponse(
            seed_sha256=hashlib.sha256(room.seed or b"").digest(),
            public_value_source=definition.public_value_source,
            gather_from=definition.gather_from,
            gather_until=definition.gather_until,
            opens_at=definition.opens_at,
            cohort=_cohort(room),
            seed=self._service.public_seed(room),
            public_value=room.public_value,
        )


def _without_seed(room: StoredRoom) -> rooms_pb2.Room:
    message = to_message(room)
    if message.HasField("draw"):
        message.draw.ClearField("seed")
    return message


def _cohort(room: StoredRoom) -> rooms_pb2.Cohort | None:
    if room.cohort_sha256 is None:
        return None
    return rooms_pb2.Cohort(size=room.cohort_size, sha256=room.cohort_sha256)
