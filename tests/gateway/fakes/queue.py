"""queue_service in memory."""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from room_view.position import ENDED, Pacing, PlaceState, Standing
from tests.gateway.fakes import watch
from tests.gateway.fakes.faults import Faults
from tests.gateway.fakes.tokens import GIVEN_AT, sign


class FakeQueue(queue_pb2_grpc.QueueServiceServicer):
    """A waiting room that admits the next in line as soon as fewer than `capacity` are admitted."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        # A number is never given twice, not even after a reset.
        self._places_given = 0
        self.watch = watch.FakeWatch()
        self.reset()

    def reset(self) -> None:
        """Empties the room."""
        self.capacity = 10
        self.closed = ""
        self.retry_after_ms = 0
        self.spent: set[str] = set()
        self.recovering = False
        self.admitted_until_ms = int(time.time() * 1000) + 600_000
        self.admitted: dict[int, queue_pb2.Place] = {}
        self.waiting: list[queue_pb2.Place] = []
        # Admitted places whose owner has not polled since.
        self.unclaimed: set[int] = set()
        self.given_at = GIVEN_AT
        # So many answers to GetPositions come from a store that was replaced: of the epoch before,
        # and all have ended there.
        self.old_answers = 0
        self.watch.reset()

    def enter(self, user_id: int, room: str = "main") -> queue_pb2.Place:
        """Returns the user's place; gives a new one if there is none. Rooms share one line."""
        for place in (*self.admitted.values(), *self.waiting):
            if place.user_id == user_id and place.room == room:
                return place
        self._places_given += 1
        place = queue_pb2.Place(room=room, number=self._places_given, user_id=user_id, epoch=1)
        if not self.waiting and len(self.admitted) < self.capacity:
            self.admitted[place.number] = place
            self.watch.record(self._admitted(place))
        else:
            self.waiting.append(place)
            self.watch.record(watch.waiting(place.number))
            self.admit()
        return place

    def end(self, place_number: int) -> None:
        """Ends a place or an admission."""
        self.admitted.pop(place_number, None)
        self.unclaimed.discard(place_number)
        self.waiting = [place for place in self.waiting if place.number != place_number]
        self.watch.record(watch.ended(place_number))
        self.admit()

    def admit(self) -> None:
        """Gives the free slots to the line."""
        while self.waiting and len(self.admitted) < self.capacity:
            place = self.waiting.pop(0)
            self.admitted[place.number] = place
            self.unclaimed.add(place.number)
            self.watch.record(self._admitted(place))

    def _admitted(self, place: queue_pb2.Place) -> queue_pb2.RoomChange:
        claimed = place.number not in self.unclaimed
        return watch.admitted(place.number, place.user_id, self.admitted_until_ms, claimed=claimed)

    def snapshot(self) -> queue_pb2.WatchRoomResponse:
        """Returns the room as a snapshot."""
        return self.watch.snapshot(
            [place.number for place in self.waiting],
            [
                queue_pb2.AdmittedPlace(
                    number=place.number,
                    user_id=place.user_id,
                    admitted_until_ms=self.admitted_until_ms,
                    claimed=place.number not in self.unclaimed,
                )
                for place in self.admitted.values()
            ],
        )

    def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        if place.number in self.unclaimed:
            self.unclaimed.discard(place.number)
            self.watch.record(self._admitted(place))
        if self.watch.supported:
            return self._exact_position(place)
        if place.number in self.admitted:
            return queue_pb2.Position(
                state=queue_pb2.PLACE_STATE_ADMITTED,
                admitted_until_ms=self.admitted_until_ms,
                recovering=self.recovering,
            )
        numbers = [waiting.number for waiting in self.waiting]
        if place.number in numbers:
            order = 1 + numbers.index(place.number)
            return queue_pb2.Position(
                state=queue_pb2.PLACE_STATE_WAITING,
                order=order,
                poll_after_ms=500 + 1_000 * order,
                estimated_wait_ms=1_234 * order,
                recovering=self.recovering,
            )
        return queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED)

    def _exact_position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        standing = ENDED
        numbers = [waiting.number for waiting in self.waiting]
        if place.number in self.admitted:
            standing = Standing(PlaceState.ADMITTED, 0, self.admitted_until_ms)
        elif place.number in numbers:
            standing = Standing(PlaceState.WAITING, 1 + numbers.index(place.number))
        now_ms = time.time_ns() // 1_000_000
        pacing = Pacing(self.watch.rules)
        return pacing.position(standing, place.number, self.watch.fields, now_ms).message()

    async def WatchRoom(
        self, requests: AsyncIterator[queue_pb2.WatchRoomRequest], context: Any
    ) -> AsyncIterator[queue_pb2.WatchRoomResponse]:
        async for response in self.watch.serve(requests, context, self.snapshot):
            yield response

    async def HandBack(
        self, request: queue_pb2.HandBackRequest, context: Any
    ) -> queue_pb2.HandBackResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return queue_pb2.HandBackResponse()

    async def EnterQueue(
        self, request: queue_pb2.EnterQueueRequest, context: object
    ) -> queue_pb2.EnterQueueResponse:
        await self.faults.before("EnterQueue", request)
        results = [
            self._enter(user, request.room, entrant, request.renew_issued_before)
            for user, entrant in zip(request.user_ids, request.entrants, strict=True)
        ]
        return queue_pb2.EnterQueueResponse(results=results)

    def _enter(
        self,
        user_id: int,
        room: str,
        entrant: queue_pb2.EnterQueueRequest.Entrant,
        renew_before: int,
    ) -> queue_pb2.EnterQueueResponse.Result:
        if self.closed:
            return queue_pb2.EnterQueueResponse.Result(
                error_code=self.closed, retry_after_ms=self.retry_after_ms
            )
        places = (*self.admitted.values(), *self.waiting)
        live = {place.user_id: place for place in places if place.room == room}
        unsolved = entrant.only_live_place or entrant.solution_id in self.spent
        if unsolved and user_id not in live:
            return queue_pb2.EnterQueueResponse.Result(error_code="CHALLENGE_REQUIRED")
        if entrant.solution_id and user_id not in live:
            self.spent.add(entrant.solution_id)
        place = self.enter(user_id, room)
        if entrant.needs_proof and user_id in live and place.number != entrant.proven_place:
            return queue_pb2.EnterQueueResponse.Result(error_code="NOT_YOURS")
        given_at = self.given_at
        token = sign(place, iat=int(time.time()) if given_at < renew_before else given_at)
        return queue_pb2.EnterQueueResponse.Result(
            place=place, access_token=token, position=self.position(place)
        )

    async def GetPositions(
        self, request: queue_pb2.GetPositionsRequest, context: object
    ) -> queue_pb2.GetPositionsResponse:
        await self.faults.before("GetPositions", request)
        if self.old_answers:
            self.old_answers -= 1
            return queue_pb2.GetPositionsResponse(
                positions=[
                    queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED) for _ in request.places
                ],
                epoch=self.watch.epoch - 1,
                seq=1_000,
            )
        positions = [self.position(place) for place in request.places]
        for place, position in zip(request.places, positions, strict=True):
            is_live = position.state != queue_pb2.PLACE_STATE_ENDED
            if is_live and place.issued_at < request.renew_issued_before:
                position.access_token = sign(place, iat=int(time.time()))
        # As a queue_service of the version before, it does not say the epoch.
        epoch, seq = (self.watch.epoch, self.watch.seq) if self.watch.supported else (0, 0)
        return queue_pb2.GetPositionsResponse(positions=positions, epoch=epoch, seq=seq)

    async def LeaveQueue(
        self, request: queue_pb2.LeaveQueueRequest, context: object
    ) -> queue_pb2.LeaveQueueResponse:
        await self.faults.before("LeaveQueue", request)
        self.end(request.place.number)
        return queue_pb2.LeaveQueueResponse()
