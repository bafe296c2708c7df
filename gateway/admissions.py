"""Checks admissions with queue_service and caches positive answers briefly."""

import math
import time

from gateway.errors import StillWaiting, TokenExpired
from gateway.pace import EARLY, EarlyAnswer, Pace
from gateway.recent import Recent
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher

# 2 MB each. More than the checks of two seconds, and than the payments of a minute.
_MAX_CACHED = 20_000
# An event of a payment arrives within this time, unless Kafka fails: then payment_service refuses a
# second payment.
_PAID_SECONDS = 600.0
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
        self._admitted = Recent[int, float](ttl_seconds, _MAX_CACHED)
        self._paid = Recent[int, bool](_PAID_SECONDS, _MAX_CACHED)

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
        early = self._pace.early_answer(place)
        if early:
            EARLY.inc()
        return early

    def waited_just_now(self, place: queue_pb2.Place) -> bool:
        """Returns whether `check` would answer from memory that the place waits."""
        return self._pace.early_answer(place, _WAITING_SECONDS) is not None

    def entered(self, place: queue_pb2.Place, position: queue_pb2.Position) -> None:
        """Notes the answer to entering, from which the first pause counts."""
        self._pace.remember(place, position)

    async def check(self, place: queue_pb2.Place) -> None:
        """Returns if the place is admitted. Raises StillWaiting or TokenExpired."""
        asked = time.monotonic()
        until = self._admitted.get(place.number)
        if until is not None and until > asked:
            return
        early = self._pace.early_answer(place, _WAITING_SECONDS)
        if early:
            EARLY.inc()
        position = early.position if early else await self.position(place)
        if position.state != queue_pb2.PLACE_STATE_ADMITTED:
            raise StillWaiting(position.order, retry_after(position))
        remaining = position.admitted_until_ms / 1000 - time.time()
        until = min(asked + self._ttl, time.monotonic() + remaining)
        self._admitted.put(place.number, until)

    def forget(self, place: queue_pb2.Place) -> None:
        """Makes the next check ask queue_service: the place may be about to end."""
        self._admitted.drop(place.number)
        self._pace.forget(place)

    def left(self, place: queue_pb2.Place) -> None:
        """Notes that the place has ended; an answer that arrives late is not remembered."""
        self.forget(place)
        self._pace.end(place)

    async def check_unpaid(self, place: queue_pb2.Place) -> None:
        """Does what `check` does; also raises TokenExpired if `end` was called for the place."""
        if self._paid.get(place.number):
            raise TokenExpired
        await self.check(place)

    def end(self, place: queue_pb2.Place) -> None:
        """Notes that a payment has ended the admission."""
        self.left(place)
        self._paid.put(place.number, True)
