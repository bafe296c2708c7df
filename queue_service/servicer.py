"""proto <-> domain."""

from typing import TypeVar

from protos.frontrow.queue.v1 import queue_pb2 as pb
from protos.frontrow.queue.v1 import queue_pb2_grpc
from queue_service.domain import Place, PlaceState, Position, Refusal, Room
from queue_service.service import Entered, QueueService
from servicekit.server import Context

# The responses that are a room: they have the same fields.
RoomResponse = TypeVar("RoomResponse", pb.GetRoomResponse, pb.UpdateRoomResponse)

_STATES = {
    PlaceState.WAITING: pb.PLACE_STATE_WAITING,
    PlaceState.ADMITTED: pb.PLACE_STATE_ADMITTED,
    PlaceState.ENDED: pb.PLACE_STATE_ENDED,
}


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """What fans do, through the gateway."""

    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def EnterQueue(
        self, request: pb.EnterQueueRequest, context: Context
    ) -> pb.EnterQueueResponse:
        results = await self._service.enter_queue(request.room, request.user_ids)
        return pb.EnterQueueResponse(results=[_result(result) for result in results])

    async def GetPositions(
        self, request: pb.GetPositionsRequest, context: Context
    ) -> pb.GetPositionsResponse:
        places = [Place(p.room, p.number, p.user_id, p.epoch) for p in request.places]
        positions = await self._service.get_positions(places)
        return pb.GetPositionsResponse(positions=[_position(position) for position in positions])

    async def LeaveQueue(
        self, request: pb.LeaveQueueRequest, context: Context
    ) -> pb.LeaveQueueResponse:
        place = request.place
        await self._service.leave_queue(place.room, place.number, place.user_id)
        return pb.LeaveQueueResponse()


class QueueAdminServicer(queue_pb2_grpc.QueueAdminServiceServicer):
    """What operators do."""

    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
        room = await self._service.get_room(request.room)
        return _room(pb.GetRoomResponse, request.room, room)

    async def UpdateRoom(
        self, request: pb.UpdateRoomRequest, context: Context
    ) -> pb.UpdateRoomResponse:
        room = await self._service.update_room(
            request.room,
            capacity=request.capacity if request.HasField("capacity") else None,
            max_waiting=request.max_waiting if request.HasField("max_waiting") else None,
            paused=request.paused if request.HasField("paused") else None,
        )
        return _room(pb.UpdateRoomResponse, request.room, room)


def _result(result: Entered | Refusal) -> pb.EnterQueueResponse.Result:
    if isinstance(result, Refusal):
        return pb.EnterQueueResponse.Result(error_code=result)
    place = result.place
    return pb.EnterQueueResponse.Result(
        place=pb.Place(
            room=place.room, number=place.number, user_id=place.user_id, epoch=place.epoch
        ),
        access_token=result.access_token,
        position=_position(result.position),
    )


def _position(position: Position) -> pb.Position:
    return pb.Position(
        state=_STATES[position.standing.state],
        order=position.standing.order,
        poll_after_ms=position.poll_after_ms,
        estimated_wait_ms=position.estimated_wait_ms,
        admitted_until_ms=position.standing.admitted_until_ms,
        recovering=position.recovering,
    )


def _room(kind: type[RoomResponse], name: str, room: Room) -> RoomResponse:
    return kind(
        room=name,
        capacity=room.limits.capacity,
        max_waiting=room.limits.max_waiting,
        paused=room.limits.paused,
        admitted=room.admitted,
        waiting=room.waiting,
        epoch=room.epoch,
        recovering=room.recovering,
    )
