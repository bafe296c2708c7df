"""Checks admissions with queue_service and caches positive answers briefly."""

import math
import time

from cachetools import FIFOCache

from gateway.errors import StillWaiting, TokenExpired
from gateway.pace import EarlyAnswer, Pace
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher

_MAX_CACHED = 200_000
# A waiting client that asks for something else than its order sees its admission this late at most,
# also if another gateway process has told it to come in.
_WAITING_SECONDS = 1.0


def retry_after(position: queue_pb2.Position) -> int:
    """Returns the whole seconds until the next poll, at least 1 (the header has no fractions)."""
    return max(1, math.ceil(position.poll_after_ms / 1000))


class Admissions:
    """Asks queue_service for positions; caches "admitted" for at most `ttl_seconds` from the
    question.

    Also remembers the admissions that a payment has ended, because queue_service learns of that by
    an event, a moment later. Only `pace` keeps a client waiting without a question, if it asks far
    too early.
    """

    def __init__(
        self,
        positions: Batcher[queue_pb2.Place, queue_pb2.Position],
        ttl_seconds: float,
        pace: Pace,
    ) -> None:
        self._positions = positions
        self._pace = pace
        self._ttl = ttl_seconds
        # Place number -> until when it counts as admitted. To store is 2 µs cheaper than in a
        # TLRUCache, and each active place stores once per second (docs/adr/0028).
        self._admitted = FIFOCache[int, float](_MAX_CACHED)
        self._paid = FIFOCache[int, None](_MAX_CACHED)

    async def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Returns the current position of the place. Raises TokenExpired if the place has
        ended."""
        position = await self._positions.submit(place)
        self._pace.remember(place, position)
        if position.state == queue_pb2.PLACE_STATE_ENDED:
            raise TokenExpired
        return position

    def early_answer(self, place: queue_pb2.Place) -> EarlyAnswer | None:
        """Returns the last answer to a waiting place that polls far earlier than advised."""
        return self._pace.early_answer(place)

    def entered(self, place: queue_pb2.Place, position: queue_pb2.Position) -> None:
        """Notes the answer to entering, from which the first pause counts."""
        self._pace.remember(place, position)

    async def check(self, place: queue_pb2.Place) -> None:
        """Returns if the place is admitted. Raises StillWaiting or TokenExpired."""
        asked = time.monotonic()
        if self._admitted.get(place.number, 0.0) > asked:
            return
        early = self._pace.early_answer(place, _WAITING_SECONDS)
        position = early.position if early else await self.position(place)
        if position.state != queue_pb2.PLACE_STATE_ADMITTED:
            raise StillWaiting(position.order, retry_after(position))
        remaining = position.admitted_until_ms / 1000 - time.time()
        self._admitted[place.number] = min(asked + self._ttl, time.monotonic() + remaining)

    def forget(self, place: queue_pb2.Place) -> None:
        """Makes the next check ask queue_service: the place has ended or is about to."""
        self._admitted.pop(place.number, None)
        self._pace.forget(place)

    async def check_unpaid(self, place: queue_pb2.Place) -> None:
        """Does what `check` does; also raises TokenExpired if `end` was called for the place."""
        if place.number in self._paid:
            raise TokenExpired
        await self.check(place)

    def end(self, place: queue_pb2.Place) -> None:
        """Notes that a payment has ended the admission."""
        self.forget(place)
        self._paid[place.number] = None
