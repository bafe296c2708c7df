"""Converts between frontrow.queue.v1 messages and the domain."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from itertools import chain, repeat
from typing import TypeVar

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import AdminGuard
from queue_service.domain import (
    Entry,
    HandBack,
    Limits,
    LostAdmission,
    Place,
    Refusal,
    Room,
    RoomMemory,
)
from queue_service.service import Entered, NotOpen, QueueService
from queue_service.watch import Watch
from queue_service.watchers import Watchers
from servicekit.call_interceptor import Context

_UNKNOWN = queue_pb2.EnterQueueRequest.Entrant()

# The responses that are a room: they have the same fields.
RoomResponse = TypeVar("RoomResponse", queue_pb2.GetRoomResponse, queue_pb2.UpdateRoomResponse)


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """Implements QueueService of protos/frontrow/queue/v1/queue.proto, for fans.

    `watchers`: of each room. `source_interval_ms`: see `Rules`; a source that has used up its
    allowance waits no longer.
    """

    def __init__(
        self,
        service: QueueService,
        watchers: Mapping[str, Watchers],
        source_interval_ms: int = 0,
    ) -> None:
        self._service = service
        self._watchers = watchers
        self._source_interval_ms = source_interval_ms

    async def EnterQueue(
        self, request: queue_pb2.EnterQueueRequest, context: Context
    ) -> queue_pb2.EnterQueueResponse:
        if request.HasField("memory"):
            self._service.remember(request.room, _memory(request.memory))
        entries = [
            _entry(user_id, entrant)
            for user_id, entrant in zip(
                request.user_ids, chain(request.entrants, repeat(_UNKNOWN)), strict=False
            )
        ]
        results = await self._service.enter_queue(
            request.room, entries, request.renew_issued_before
        )
        return queue_pb2.EnterQueueResponse(results=[self._result(result) for result in results])

    async def GetPositions(
        self, request: queue_pb2.GetPositionsRequest, context: Context
    ) -> queue_pb2.GetPositionsResponse:
        places = [Place(p.room, p.number, p.user_id, p.epoch, p.issued_at) for p in request.places]
        if places and request.HasField("memory"):
            self._service.remember(places[0].room, _memory(request.memory))
        positions = await self._service.get_positions(places, request.renew_issued_before)
        return queue_pb2.GetPositionsResponse(
            positions=[position.message() for position in positions.places],
            epoch=positions.epoch,
            seq=positions.seq,
        )

    async def LeaveQueue(
        self, request: queue_pb2.LeaveQueueRequest, context: Context
    ) -> queue_pb2.LeaveQueueResponse:
        place = request.place
        if request.HasField("memory"):
            self._service.remember(place.room, _memory(request.memory))
        await self._service.leave_queue(place.room, place.number, place.user_id, place.epoch)
        return queue_pb2.LeaveQueueResponse()

    async def WatchRoom(
        self, requests: AsyncIterator[queue_pb2.WatchRoomRequest], context: Context
    ) -> AsyncIterator[queue_pb2.WatchRoomResponse]:
        async for first in requests:
            self._service.remember(first.room, _memory(first.memory))
            watch = Watch(self._watchers[first.room], requests)
            async with contextlib.aclosing(watch.responses(first)) as responses:
                async for response in responses:
                    yield response
            return

    async def HandBack(
        self, request: queue_pb2.HandBackRequest, context: Context
    ) -> queue_pb2.HandBackResponse:
        hand_back = HandBack(
            request.bidder,
            request.lost_epoch,
            request.lost_seq,
            request.last,
            [Place(request.room, p.number, p.user_id, p.epoch) for p in request.ended],
            [
                LostAdmission(p.number, p.user_id, p.admitted_until_ms, p.claimed)
                for p in request.admitted
            ],
            request.waiting,
            request.done,
            request.settled,
        )
        reply = await self._service.hand_back(request.room, hand_back)
        return queue_pb2.HandBackResponse(
            granted=reply.granted, done=reply.done, retry_after_ms=reply.retry_after_ms
        )

    def _result(self, result: Entered | Refusal | NotOpen) -> queue_pb2.EnterQueueResponse.Result:
        if isinstance(result, NotOpen):
            return queue_pb2.EnterQueueResponse.Result(
                error_code=Refusal.QUEUE_NOT_OPEN, retry_after_ms=result.retry_after_ms
            )
        if isinstance(result, Refusal):
            limited = result is Refusal.TOO_MANY_REQUESTS
            return queue_pb2.EnterQueueResponse.Result(
                error_code=result, retry_after_ms=self._source_interval_ms if limited else 0
            )
        return _entered(result)


class QueueAdminServicer(queue_pb2_grpc.QueueAdminServiceServicer):
    """Implements QueueAdminService of protos/frontrow/queue/v1/queue.proto, for operators."""

    def __init__(self, service: QueueService, guard: AdminGuard) -> None:
        self._service = service
        self._guard = guard

    async def GetRoom(
        self, request: queue_pb2.GetRoomRequest, context: Context
    ) -> queue_pb2.GetRoomResponse:
        self._guard.check(context)
        room = await self._service.get_room(request.room)
        return _room(queue_pb2.GetRoomResponse, request.room, room)

    async def UpdateRoom(
        self, request: queue_pb2.UpdateRoomRequest, context: Context
    ) -> queue_pb2.UpdateRoomResponse:
        self._guard.check(context)
        room = await self._service.update_room(
            request.room,
            capacity=request.capacity if request.HasField("capacity") else None,
            max_waiting=request.max_waiting if request.HasField("max_waiting") else None,
            paused=request.paused if request.HasField("paused") else None,
        )
        return _room(queue_pb2.UpdateRoomResponse, request.room, room)


def _entry(user_id: int, entrant: queue_pb2.EnterQueueRequest.Entrant) -> Entry:
    return Entry(
        user_id,
        entrant.source,
        entrant.solution_id,
        entrant.solution_expires_ms,
        entrant.only_live_place,
        entrant.needs_proof,
        entrant.proven_place,
        entrant.attempt_id,
    )


def _memory(memory: queue_pb2.RoomMemory) -> RoomMemory:
    limits = Limits(memory.capacity, memory.max_waiting, memory.paused)
    return RoomMemory(memory.epoch, memory.seq, memory.last, limits)


def _entered(result: Entered) -> queue_pb2.EnterQueueResponse.Result:
    place = result.place
    return queue_pb2.EnterQueueResponse.Result(
        place=queue_pb2.Place(
            room=place.room, number=place.number, user_id=place.user_id, epoch=place.epoch
        ),
        access_token=result.access_token,
        position=result.position.message(),
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
