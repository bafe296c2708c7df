"""The lists of draws in concert_service, for programs that rank the places of a room."""

import asyncio
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protos.frontrow.concert.v1 import rooms_pb2
from room_view.draw import Draw, cohort_sha256, draw_key
from servicekit.client import call
from servicekit.errors import Unavailable

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.concert.v1.rooms_pb2_grpc import DrawServiceAsyncStub

# A part of 100,000 numbers takes about 0.1 s.
_BUDGET_SECONDS = 5.0


def is_draw(room: rooms_pb2.Room) -> bool:
    """Returns whether a draw decides the order of the room."""
    return room.order == rooms_pb2.LINE_ORDER_DRAW


def is_decided(room: rooms_pb2.Room) -> bool:
    """Returns whether everything is known from which the ranks of a draw follow."""
    has_value = bool(room.draw.public_value) or not room.public_value_source
    return is_draw(room) and room.draw.HasField("cohort") and has_value


class Cohorts:
    """Reads and stores the lists of draws. Every method raises ServiceError."""

    def __init__(self, stub: "DrawServiceAsyncStub") -> None:
        self._stub = stub

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        """Returns the draw of a room; it must be decided. Raises Unavailable, too, if the list is
        not the one whose hash the room states."""
        numbers, size = array("q"), room.draw.cohort.size
        while len(numbers) < size:
            request = rooms_pb2.GetCohortRequest(room=room.name, offset=len(numbers))
            response = await call(self._stub.GetCohort, request, budget=_BUDGET_SECONDS)
            if not response.numbers:
                break
            numbers.extend(response.numbers)
        # In a thread: for a million numbers that takes 50 ms.
        if await asyncio.to_thread(cohort_sha256, numbers) != room.draw.cohort.sha256:
            raise Unavailable("The list of a draw is not the one that its room states.")
        key = draw_key(room.draw.seed, room.draw.public_value)
        return await asyncio.to_thread(Draw, numbers, key)

    async def put(
        self, room: str, attempt: str, offset: int, numbers: Sequence[int], *, is_last: bool
    ) -> rooms_pb2.Cohort | None:
        """Stores a part of a list, at most 100,000 ascending numbers; returns the complete one of
        this attempt or of another, or None."""
        request = rooms_pb2.PutCohortRequest(
            room=room, attempt=attempt, offset=offset, numbers=numbers, is_last=is_last
        )
        response = await call(self._stub.PutCohort, request, budget=_BUDGET_SECONDS)
        return response.cohort if response.HasField("cohort") else None
