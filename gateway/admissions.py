"""Where places stand and who is admitted: from the copy of the room, or from queue_service."""

import math
import time

from gateway.errors import StillWaiting, TokenExpired
from gateway.pace import EARLY, EarlyAnswer, Pace
from gateway.recent import Recent
from gateway.room.answers import RoomAnswers
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher
from servicekit.errors import ServiceError, Unavailable, is_transient

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
    """Answers from the copy of the room where that is exact, and asks queue_service otherwise.

    Without a copy, caches "admitted" for at most `ttl_seconds` from the question. Also remembers
    the admissions that a payment has ended, because queue_service learns of that by an event, a
    moment later. Only `pace` keeps a client waiting without a question, if it asks far too early
    and the copy cannot answer.
    """

    def __init__(
        self,
        positions: Batcher[queue_pb2.Place, queue_pb2.Position],
        ttl_seconds: float,
        pace: Pace,
        room: RoomAnswers,
    ) -> None:
        self._positions = positions
        self._pace = pace
        self._ttl = ttl_seconds
        self._room = room
        self._probing = False
        # Place number -> until when it counts as admitted. To store is 2 µs cheaper than in a
        # TLRUCache, and each active place stores once per second (docs/adr/0028).
        self._admitted = Recent[int, float](ttl_seconds, _MAX_CACHED)
        self._paid = Recent[int, bool](_PAID_SECONDS, _MAX_CACHED)

    def position_now(self, place: queue_pb2.Place) -> queue_pb2.Position | None:
        """Returns the position of the place without a call; None if it must be asked for."""
        position = self._room.position(place)
        if position is not None:
            # What was remembered before this answer is older now.
            self._pace.forget(place)
        return position

    async def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Returns the current position of the place. Raises TokenExpired if the place has
        ended."""
        position = self.position_now(place)
        if position is None and self._room.usable() is None and await self._view_speaks():
            position = self.position_now(place)
        return await self.ask(place) if position is None else position

    async def _view_speaks(self) -> bool:
        """Waits for the view to become usable, if that helps. An outage may begin meanwhile, in
        which the last view speaks."""
        return await self._room.becomes_usable() or self._room.in_outage

    async def ask(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Returns what queue_service says about the place; in an outage, what the last view says.
        Raises TokenExpired if the place has ended."""
        if self._room.in_outage:
            position = await self._probe(place)
        else:
            position = await self._call(place)
        if position.state == queue_pb2.PLACE_STATE_ENDED:
            raise TokenExpired
        return position

    async def _probe(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Calls queue_service in an outage. One request does that at a time."""
        if self._probing:
            raise Unavailable("The waiting room is unavailable at the moment.")
        self._probing = True
        try:
            return await self._call(place)
        finally:
            self._probing = False

    async def _call(self, place: queue_pb2.Place) -> queue_pb2.Position:
        self._room.count_call(place)
        try:
            position = await self._positions.submit(place)
        except ServiceError as error:
            if not is_transient(error):
                raise
            await self._begin_outage(error)
            last = self.position_now(place)
            if last is not None:
                return last
            self._refuse_in_outage(error)
            raise
        self._room.call_succeeded()
        self._pace.remember(place, position)
        self._room.note_reply(place, position)
        return position

    async def call_failed(self, error: ServiceError) -> None:
        """Notes the error of a call to queue_service. If it begins or belongs to an outage, raises
        Unavailable, also after a timeout: what only queue_service can answer has one refusal."""
        if is_transient(error):
            await self._begin_outage(error)
            self._refuse_in_outage(error)

    async def _begin_outage(self, error: ServiceError) -> None:
        if await self._room.call_failed():
            self._positions.fail_waiting(error)

    def _refuse_in_outage(self, error: ServiceError) -> None:
        if self._room.in_outage:
            raise Unavailable("The waiting room is unavailable at the moment.") from error

    def has_fresh_view(self) -> bool:
        """Returns whether the copy of the room answers what it can."""
        return self._room.usable() is not None

    def early_answer(self, place: queue_pb2.Place) -> EarlyAnswer | None:
        """Returns the last answer to a waiting place that polls far earlier than advised."""
        early = self._pace.early_answer(place)
        if early:
            EARLY.inc()
        return early

    def waited_just_now(self, place: queue_pb2.Place) -> bool:
        """Returns whether the last answer, of less than a second ago, says that the place waits."""
        return self._pace.early_answer(place, _WAITING_SECONDS) is not None

    def entered(self, place: queue_pb2.Place, position: queue_pb2.Position) -> None:
        """Notes the answer to entering, from which the first pause counts."""
        self._pace.remember(place, position)
        self._room.note_reply(place, position)

    def is_admitted_now(self, place: queue_pb2.Place) -> bool:
        """Returns whether the copy of the room says that the place is admitted."""
        return self._room.is_admitted(place)

    async def check(self, place: queue_pb2.Place) -> None:
        """Returns if the place is admitted. Raises StillWaiting or TokenExpired."""
        if self._room.is_admitted(place):
            return
        position: queue_pb2.Position | None
        if self._room.usable() or await self._view_speaks():
            position = await self.position(place)
        else:
            position = await self._position_without_view(place)
        if position is not None and position.state != queue_pb2.PLACE_STATE_ADMITTED:
            raise StillWaiting(position.order, retry_after(position))

    async def _position_without_view(self, place: queue_pb2.Place) -> queue_pb2.Position | None:
        """Returns the position, perhaps one of a second ago; None if the place was admitted just
        now."""
        asked = time.monotonic()
        until = self._admitted.get(place.number)
        if until is not None and until > asked:
            return None
        early = self._pace.early_answer(place, _WAITING_SECONDS)
        if early:
            EARLY.inc()
            return early.position
        position = await self.ask(place)
        if position.state == queue_pb2.PLACE_STATE_ADMITTED:
            remaining = position.admitted_until_ms / 1000 - time.time()
            until = min(asked + self._ttl, time.monotonic() + remaining)
            self._admitted.put(place.number, until)
        return position

    def forget(self, place: queue_pb2.Place) -> None:
        """Makes the next check ask queue_service: the place may be about to end."""
        self._admitted.drop(place.number)
        self._pace.forget(place)
        self._room.forget(place)

    def left(self, place: queue_pb2.Place) -> None:
        """Notes that the place has ended; an answer that arrives late is not remembered."""
        self.forget(place)
        self._pace.end(place)
        self._room.left(place)

    async def check_unpaid(self, place: queue_pb2.Place) -> None:
        """Does what `check` does; also raises TokenExpired if `end` was called for the place."""
        if self._paid.get(place.number):
            raise TokenExpired
        await self.check(place)

    def end(self, place: queue_pb2.Place) -> None:
        """Notes that a payment has ended the admission."""
        self.left(place)
        self._paid.put(place.number, True)
