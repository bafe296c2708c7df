"""The draw of a room at this process: takes it once it is decided, and ranks the view by it."""

import asyncio
import contextlib
import math
from typing import Protocol

from catalogue_view.cohorts import is_decided
from gateway.room.copy import RoomCopy
from protos.frontrow.concert.v1 import rooms_pb2
from room_view.draw import Draw
from servicekit import cancellation, logs
from servicekit.errors import ServiceError, is_transient
from servicekit.retries import Outage

log = logs.get(__name__)

_RETRY_SECONDS = 0.5


class Cohorts(Protocol):
    """Lists of draws, stored durably."""

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        """Returns the draw of a room; it must be decided."""


class RoomDraw:
    """Gives the copy of a room its draw. A room that is no draw costs nothing.

    Until the draw is here, and while its ranks are missing in the view, places of the cohort are
    asked for by calls.
    """

    def __init__(self, copy: RoomCopy, cohorts: Cohorts, room: str) -> None:
        self._copy = copy
        self._cohorts = cohorts
        self._room: rooms_pb2.Room | None = None
        self._drawn = rooms_pb2.Draw()  # that of the draw that the copy has
        self._changed = asyncio.Event()
        self._outage = Outage(log, "draw_unavailable", "draw_available", room=room)
        copy.on_behind = self._changed.set

    def define(self, room: rooms_pb2.Room | None) -> None:
        """Takes the newest definition of the room; None if it has none any more."""
        self._room = room
        self._changed.set()

    async def run(self) -> None:
        """Keeps the copy up to date with the draw, until cancelled."""
        while True:
            self._changed.clear()
            pause = math.inf
            try:
                await self._take()
                self._outage.succeeded()
            except Exception as error:
                # Also a refusal: by a clock that is behind, or of a room that was just removed.
                if not (is_transient(error) or isinstance(error, ServiceError)):
                    raise
                self._outage.failed(error)
                pause = _RETRY_SECONDS
            await self._rank()
            cancellation.raise_if_requested()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause == math.inf else pause):
                    await self._changed.wait()

    async def _take(self) -> None:
        """Loads the draw if there is another one."""
        room = self._room
        if room is None or not is_decided(room):
            self._copy.use_draw(None)
            self._drawn = rooms_pb2.Draw()
        elif room.draw != self._drawn:
            draw = await self._cohorts.draw(room)
            if self._room is room:
                self._copy.use_draw(draw)
                self._drawn = room.draw
            else:
                self._changed.set()

    async def _rank(self) -> None:
        """Gives the view the ranks that are missing in it, in steps."""
        is_behind = True
        while is_behind:
            view = self._copy.view
            is_behind = view is not None and view.advance()
            await asyncio.sleep(0)
