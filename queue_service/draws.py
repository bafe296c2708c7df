"""The draw of one room at this replica: closes the gathering, then gives the ranks."""

import asyncio
import contextlib
import math
import secrets
import time
from array import array
from collections.abc import Sequence
from itertools import count
from typing import Protocol

from catalogue_view.cohorts import is_decided, is_draw
from protos.frontrow.concert.v1 import rooms_pb2
from queue_service.domain import Room
from queue_service.ports import DrawStore
from room_view.draw import STEP, Draw
from room_view.position import given_at_ms
from servicekit import cancellation, logs
from servicekit.errors import ServiceError, is_transient
from servicekit.retries import Outage

log = logs.get(__name__)

_PART = 100_000
# Between two looks at the store: while one of the replicas works, and after the draw, when only a
# loss makes the ranks be given anew.
_LOOK_SECONDS = 0.2
_WATCH_SECONDS = 1.0
# How long another replica waits before it goes on with the work of one that was killed.
_LEASE_MS = 2_000
# Between two steps: others have as much of Redis as the draw.
_PAUSE_SECONDS = 0.001
# Half a second of them.
_STEPS_OF_LEASE = 100
# After a loss, callers that remember the room say so within this: only then is it known whether
# places are missing.
_SETTLE_MS = 3_000


class Cohorts(Protocol):
    """Lists of draws, stored durably."""

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        """Returns the draw of a room; it must be decided."""

    async def put(
        self, room: str, attempt: str, offset: int, numbers: Sequence[int], *, is_last: bool
    ) -> rooms_pb2.Cohort | None:
        """Stores a part of a list; returns the complete one, if there is one."""


class RoomDraw:
    """Runs the draw of one room, together with the other replicas.

    1. Gathering closes by the clock of the store: numbers that are given later are greater than
       `cohort_last`. One replica at a time copies the numbers that wait, and stores them durably.
       It begins anew if places were lost meanwhile, once they had their time to return.
    2. When the list is stored and the public value is known, if there is to be one, each replica
       takes the draw. From then on it restores places at their ranks.
    3. One replica at a time gives the ranks, in steps. All ranks follow from the list, so it does
       not matter who gives them, or how often.
    """

    def __init__(self, store: DrawStore, cohorts: Cohorts, room: str) -> None:
        self._store = store
        self._cohorts = cohorts
        self._name = room
        self._me = secrets.token_hex(8)
        self._room: rooms_pb2.Room | None = None
        self._defined = asyncio.Event()
        self._draw: Draw | None = None
        self._outage = Outage(log, "draw_unavailable", "draw_available", room=room)

    def define(self, room: rooms_pb2.Room | None) -> None:
        """Takes the newest definition of the room; None if it has none any more."""
        if room is None or self._room is None or room.draw != self._room.draw:
            self._use(None)
        self._room = room
        self._defined.set()

    async def run(self) -> None:
        """Runs the draw until cancelled. A room that is no draw makes no call."""
        while True:
            self._defined.clear()
            try:
                pause = await self._proceed()
            except Exception as error:
                # Also a refusal: by a clock that is behind, or of a room that was just removed.
                if not (is_transient(error) or isinstance(error, ServiceError)):
                    raise
                self._outage.failed(error)
                pause = _LOOK_SECONDS
            else:
                self._outage.succeeded()
            # A time-out in a driver at the same moment may hide it.
            cancellation.raise_if_requested()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause == math.inf else pause):
                    await self._defined.wait()

    async def _proceed(self) -> float:
        """Does what is to be done now; returns after how many seconds to look again, at most."""
        room = self._room
        if room is None or not is_draw(room):
            return math.inf
        if not room.draw.HasField("cohort"):
            closes_in = room.gather_until.ToMilliseconds() / 1000 - time.time()
            if closes_in > 0:
                return closes_in
            state = await self._store.tick(self._name)
            if not _is_whole(state) or not await self._is_mine():
                return _LOOK_SECONDS
            return await self._close(room, state)
        if not is_decided(room):
            return math.inf
        if self._draw is None:
            draw = await self._cohorts.draw(room)
            if self._room is not room:
                return 0
            self._use(draw)
        return await self._give_ranks()

    async def _close(self, room: rooms_pb2.Room, state: Room) -> float:
        """Stores the numbers that wait."""
        assert state.defined is not None
        started, attempt, last = time.monotonic(), secrets.token_hex(8), state.defined.cohort_last
        numbers, offset = array("q"), 0
        above, cohort = 0, None
        while cohort is None:
            found = await self._store.gathered(self._name, above, last)
            numbers.extend(found)
            if found and len(numbers) < _PART:
                above = found[-1]
                continue
            if not await self._is_mine():
                return _LOOK_SECONDS
            part, numbers = numbers[:_PART], numbers[_PART:]
            is_last = not found and not numbers
            if is_last:
                after = await self._store.tick(self._name)
                if after.epoch != state.epoch or not _is_whole(after):
                    return _LOOK_SECONDS
            cohort = await self._cohorts.put(self._name, attempt, offset, part, is_last=is_last)
            offset += len(part)
            above = found[-1] if found else above
        log.info(
            "gathering_closed",
            room=self._name,
            size=cohort.size,
            sha256=cohort.sha256.hex(),
            seconds=round(time.monotonic() - started, 3),
        )
        if self._room is room:
            # The catalogue tells of it, too, a moment later.
            closed = rooms_pb2.Room()
            closed.CopyFrom(room)
            closed.draw.cohort.CopyFrom(cohort)
            self._room = closed
        return 0

    async def _give_ranks(self) -> float:
        """Gives all ranks that the room has not given yet."""
        draw, started = self._draw, time.monotonic()
        assert draw is not None
        state = await self._store.tick(self._name)
        first = drawn = _drawn(state)
        steps = count()
        while drawn < max(1, len(draw)):
            if next(steps) % _STEPS_OF_LEASE == 0 and not await self._is_mine():
                return _LOOK_SECONDS
            state = await self._store.give_ranks(
                self._name, drawn, draw.places(drawn, drawn + STEP)
            )
            before, drawn = drawn, _drawn(state)
            if drawn == before or self._draw is not draw:
                # The store has lost the definition of the room, or this replica has another one.
                return _LOOK_SECONDS
            if before == first:
                # Who has the first ranks may be let in.
                await self._store.tick(self._name)
            await asyncio.sleep(_PAUSE_SECONDS)
        if drawn > first:
            seconds = round(time.monotonic() - started, 3)
            log.info("ranks_given", room=self._name, first=first, end=drawn, seconds=seconds)
        return _WATCH_SECONDS

    async def _is_mine(self) -> bool:
        """Whether this replica does the work, and no other one for the next two seconds."""
        return await self._store.lease(self._name, self._me, _LEASE_MS)

    def _use(self, draw: Draw | None) -> None:
        self._draw = draw
        self._store.use_draw(self._name, draw)


def _is_whole(state: Room) -> bool:
    """Whether gathering has closed and all places are there, as far as is known."""
    return (
        state.defined is not None
        and state.defined.cohort_last > 0
        and not state.recovering
        and state.now - given_at_ms(state.epoch) >= _SETTLE_MS
    )


def _drawn(state: Room) -> int:
    return state.defined.drawn if state.defined is not None else 0
