"""When a room needs its next tick."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from queue_service.domain import Room


class Activity:
    """Whether there is something to do in a room, and when: never in a room where nobody waits and
    nobody is admitted."""

    def __init__(self) -> None:
        self._busy = asyncio.Event()
        self._hurried = False
        self._due_at = math.inf  # by the time of the loop
        self._sooner = asyncio.Event()
        self._newest = (0, 0)

    @property
    def is_busy(self) -> bool:
        """Whether ticks come."""
        return self._busy.is_set()

    def hurry(self) -> None:
        """Makes a tick come at once, also in an empty room."""
        self._hurried = True
        self._busy.set()
        self._sooner.set()

    def note(self, state: Room, *, must_hurry: bool) -> None:
        """Takes note of what a call has found. `must_hurry`: there is more to do than it knows."""
        if must_hurry:
            self.hurry()
        self._note_due(state)
        # Replies overtake each other: an older one must not hide who has entered since.
        if (state.epoch, state.seq) < self._newest:
            return
        self._newest = (state.epoch, state.seq)
        if state.waiting or state.admitted:
            self._busy.set()
        elif not self._hurried:
            self._busy.clear()

    def _note_due(self, state: Room) -> None:
        due_at = asyncio.get_running_loop().time() + state.due_in / 1000
        if due_at < self._due_at:
            self._due_at = due_at
            self._sooner.set()

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """Waits until there is something to do; the block is the tick. If it fails, the next one is
        due at once."""
        await self._busy.wait()
        hurried, self._hurried, self._due_at = self._hurried, False, math.inf
        try:
            yield
        except BaseException:
            self._hurried = self._hurried or hurried
            raise

    async def until_due(self, at_most: float, less: float) -> None:
        """Waits until `less` seconds before a tick is due, but at most `at_most - less` seconds."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + at_most
        while not self._hurried and (left := min(self._due_at, latest) - less - loop.time()) > 0:
            self._sooner.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._sooner.wait()
