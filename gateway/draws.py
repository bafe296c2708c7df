"""What the public may know of draws, from concert_service: read rarely, asked for by crowds."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from catalogue_view.cohorts import is_draw
from gateway.caching import LoadingCache
from gateway.errors import DrawNotFound, DrawNotPublished, TooManyRequests
from gateway.rooms import Rooms
from gateway.turns import Turns
from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.client import call
from servicekit.errors import Unavailable

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.concert.v1.rooms_pb2_grpc import DrawServiceAsyncStub

_DRAW_SECONDS = 1.0
_MAX_DRAWS = 100
# A list that is published does not change any more.
_PART_SECONDS = 600.0
# The whole list of a million places, 17 MB. Of a larger one, or of several, parts are read again.
_PARTS_BYTES = 20_000_000
# Lists that one process sends. A client that reads slowly keeps one for as long as it likes to read
# a byte every 20 s (GATEWAY_WRITE_SECONDS), so these are many, and few of them have a turn at once.
_MOST_LISTS = 64
_AT_ONCE = 4
_TURN_SECONDS = 0.25
_RETRY_SECONDS = 5


class _Part(NamedTuple):
    """Some numbers as text, one on each line, and the offset of the next part."""

    text: bytes
    end: int


class Draws:
    """Reads draws of rooms that are known. Concurrent callers share calls."""

    def __init__(self, stub: "DrawServiceAsyncStub", rooms: Rooms, budget: float) -> None:
        self._stub = stub
        self._rooms = rooms
        self._budget = budget
        self._draws = LoadingCache[str, rooms_pb2.GetDrawResponse](
            _DRAW_SECONDS, _MAX_DRAWS, lambda: _DRAW_SECONDS
        )
        self._parts = LoadingCache[tuple[str, bytes, int], _Part](
            _PART_SECONDS, _PARTS_BYTES, lambda: _PART_SECONDS, lambda part: len(part.text)
        )
        self._sending = 0
        self._turns = Turns(_AT_ONCE, _TURN_SECONDS)

    async def draw(self, name: str) -> rooms_pb2.GetDrawResponse:
        """Returns the draw of a room, at most a second old. Raises DrawNotFound, and what a call
        raises."""
        room = self._rooms.get(name)
        if room is None or room.definition is None or not is_draw(room.definition):
            if not self._rooms.are_known:
                raise Unavailable("The waiting rooms are not known here yet.")
            raise DrawNotFound
        return await self._draws.get(name, lambda: self._load(name))

    async def published(self, name: str) -> rooms_pb2.Cohort:
        """Returns the cohort of a draw whose list is public. Raises DrawNotPublished before the
        opening, and what `draw` raises."""
        draw = await self.draw(name)
        if not draw.seed:
            raise DrawNotPublished
        return draw.cohort

    async def numbers(self, name: str, cohort: rooms_pb2.Cohort) -> AsyncIterator[bytes]:
        """Returns the list of a published draw as text, in parts of at most 2 MB: a place number on
        each line, ascending.

        Raises TooManyRequests while this process sends many lists, and what a call raises.
        """
        if self._sending >= _MOST_LISTS:
            raise TooManyRequests(_RETRY_SECONDS)
        parts = self._load_all(name, cohort)
        # An error of the first part is an answer; later ones break the connection off.
        first = await anext(parts)
        return self._in_turns(first, parts)

    async def _load_all(self, name: str, cohort: rooms_pb2.Cohort) -> AsyncIterator[bytes]:
        self._sending += 1
        try:
            part = await self._part(name, cohort, 0)
            yield part.text
            while part.end < cohort.size:
                part = await self._part(name, cohort, part.end)
                yield part.text
        finally:
            self._sending -= 1

    async def _in_turns(self, first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async with self._turns.turn():
            yield first
        async for part in others:
            async with self._turns.turn():
                yield part

    async def _part(self, name: str, cohort: rooms_pb2.Cohort, offset: int) -> _Part:
        key = (name, cohort.sha256, offset)
        return await self._parts.get(key, lambda: self._load_part(name, cohort.size, offset))

    async def _load(self, name: str) -> rooms_pb2.GetDrawResponse:
        request = rooms_pb2.GetDrawRequest(room=name)
        return await call(self._stub.GetDraw, request, budget=self._budget)

    async def _load_part(self, name: str, size: int, offset: int) -> _Part:
        request = rooms_pb2.GetCohortRequest(room=name, offset=offset)
        response = await call(self._stub.GetCohort, request, budget=self._budget)
        if not response.numbers and offset < size:
            raise Unavailable("The list of this draw is shorter than it should be.")
        # 100,000 numbers take 15 ms: in a thread, so that others are answered meanwhile.
        text = await asyncio.to_thread(_lines, response.numbers)
        return _Part(text, offset + len(response.numbers))


def _lines(numbers: Sequence[int]) -> bytes:
    return b"".join([b"%d\n" % number for number in numbers])
