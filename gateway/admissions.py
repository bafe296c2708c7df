"""Who is let in: asks the waiting room, and remembers the answer for a moment."""

import asyncio
import math
import time
from collections import OrderedDict

from gateway.errors import StillWaiting, TokenExpired
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher

_MAX_REMEMBERED = 200_000


def retry_after(position: queue_pb2.Position) -> int:
    """Whole seconds until the next poll, at least 1 (the header has no fractions)."""
    return max(1, math.ceil(position.poll_after_ms / 1000))


class Admissions:
    """Asks the waiting room where a place stands; remembers "admitted" for at most `ttl` seconds.

    Nothing else is remembered: who waits must see the door open at once.
    """

    def __init__(
        self, positions: Batcher[queue_pb2.Place, queue_pb2.Position], ttl_seconds: float
    ) -> None:
        self._positions = positions
        self._ttl = ttl_seconds
        self._admitted: OrderedDict[int, float] = OrderedDict()

    async def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Where the place stands now. Raises TokenExpired if it has ended."""
        position = await self._positions.submit(place)
        if position.state == queue_pb2.PLACE_STATE_ENDED:
            raise TokenExpired
        return position

    async def check(self, place: queue_pb2.Place) -> None:
        """Returns if the place is admitted. Raises StillWaiting or TokenExpired."""
        now = asyncio.get_running_loop().time()
        if self._admitted.get(place.number, 0.0) > now:
            return
        self._admitted.pop(place.number, None)
        position = await self.position(place)
        if position.state != queue_pb2.PLACE_STATE_ADMITTED:
            raise StillWaiting(position.order, retry_after(position))
        left = position.admitted_until_ms / 1000 - time.time()
        self._admitted[place.number] = now + min(self._ttl, max(0.0, left))
        if len(self._admitted) > _MAX_REMEMBERED:
            self._admitted.popitem(last=False)

    def forget(self, place: queue_pb2.Place) -> None:
        """Asks the waiting room the next time: the admission has ended or is about to."""
        self._admitted.pop(place.number, None)
