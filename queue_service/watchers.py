"""All who watch one room at this replica."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prometheus_client import Gauge

from protos.limits import MAX_ITEMS
from queue_service.domain import Place, Room
from queue_service.room_copy import RoomCopy
from queue_service.service import QueueService
from servicekit.batching import Batcher

WATCHERS = Gauge("queue_watchers", "Callers that watch a room at this replica.", ["room"])

_HEARTBEAT_SECONDS = 5.0


class _Beat(NamedTuple):
    seen: Sequence[Place]
    polled: bool


class Watchers:
    """All who watch one room at this replica."""

    def __init__(self, service: QueueService, copy: RoomCopy, room: str) -> None:
        self.copy = copy
        self.room = room
        self.draining = False
        self._service = service
        self._wakes: set[asyncio.Event] = set()
        self._heartbeats = Batcher[_Beat, Room](self._beat, budget=_HEARTBEAT_SECONDS, max_batch=64)

    async def run(self) -> None:
        """Keeps the copy up to date, until cancelled; then waits for the heartbeats under way. One
        that is left when its Redis client is closed would connect again, and nobody would close
        that connection."""
        try:
            await self.copy.run()
        finally:
            await self._heartbeats.settled()

    @contextlib.contextmanager
    def watching(self, wake: asyncio.Event) -> Iterator[None]:
        """Counts a watcher, and sets `wake` when the copy changes or the drain begins."""
        self._wakes.add(wake)
        WATCHERS.labels(self.room).set(len(self._wakes))
        try:
            with self.copy.watched(wake):
                yield
        finally:
            self._wakes.discard(wake)
            WATCHERS.labels(self.room).set(len(self._wakes))

    async def heartbeat(self, seen: Sequence[Place], *, polled: bool) -> Room:
        """Reports at most MAX_ITEMS signs of life, and that somebody polled; returns the room after
        that. Callers at the same time share a call. Raises Unavailable and TimedOut."""
        return await self._heartbeats.submit(_Beat(seen, polled))

    def end(self) -> None:
        """Ends all watches, and each later one."""
        self.draining = True
        for wake in self._wakes:
            wake.set()

    async def _beat(self, asked: Sequence[_Beat]) -> list[Room]:
        seen = [place for beat in asked for place in beat.seen]
        polled = any(beat.polled for beat in asked)
        state = await self._service.heartbeat(self.room, seen[:MAX_ITEMS], polled=polled)
        for n in range(MAX_ITEMS, len(seen), MAX_ITEMS):
            state = await self._service.heartbeat(self.room, seen[n : n + MAX_ITEMS])
        return [state] * len(asked)
