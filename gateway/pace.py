"""Enforces the advised pause between two polls of one place."""

import math
import time
from struct import Struct
from typing import NamedTuple

from prometheus_client import Counter

from gateway.recent import Recent
from protos.frontrow.queue.v1 import queue_pb2

EARLY = Counter(
    "early_polls", "Requests of waiting places that came too early and were answered from memory."
)

# Half of the longest advised pause, unless it is configured longer.
_SECONDS = 30.0
# 2.5 MB: packed, because a tuple of numbers takes twice as much. That is the whole half minute at
# 330 answers per second, and 2 s at the 5,000 that a process may reach. It is needed only while the
# room view does not answer.
_MAX_REMEMBERED = 20_000
_ANSWER = Struct("<dIIQ?B")  # when, order, pause and wait in ms, recovering, phase
# A place that has left: an answer that arrives late must not be remembered.
_LEFT = b""

# The next ones in line see their admission within this time, however often they poll, and all who
# gather see the opening.
_NEAR = 100
_NEAR_SECONDS = 0.5
# Before the opening, the order is the number of people who wait, which grows.
_GATHERING = frozenset({queue_pb2.ROOM_PHASE_GATHERING, queue_pb2.ROOM_PHASE_DRAWING})


class EarlyAnswer(NamedTuple):
    """The last answer, with the pause that remains; `age` in whole seconds."""

    position: queue_pb2.Position
    age: int


class Pace:
    """Remembers the last answer to each waiting place for half of the pause that it advised.

    A client that waits as advised always gets a fresh answer. One that does not costs no call to
    queue_service, and its admission is hidden for no longer than from a client that does. For the
    first 100 places, and for all before the opening of the room, the memory ends after half a
    second.

    Each gateway process remembers its own answers (docs/adr/0034-limits-per-source.md).
    """

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._answers = Recent[int, bytes](_SECONDS, _MAX_REMEMBERED)

    def early_answer(
        self, place: queue_pb2.Place, most_seconds: float = math.inf
    ) -> EarlyAnswer | None:
        """Returns the last answer if the place asks far too early, and it is not older than
        `most_seconds`."""
        packed = self._answers.get(place.number)
        if not packed:
            return None
        at, order, pause_ms, wait_ms, recovering, phase = _ANSWER.unpack(packed)
        passed = time.monotonic() - at
        if passed >= min(_memory_seconds(order, pause_ms, phase), most_seconds):
            return None
        passed_ms = int(passed * 1000)
        position = queue_pb2.Position(
            state=queue_pb2.PLACE_STATE_WAITING,
            order=order,
            poll_after_ms=pause_ms - passed_ms,
            estimated_wait_ms=max(0, wait_ms - passed_ms),
            recovering=recovering,
            phase=phase,
        )
        return EarlyAnswer(position, int(passed))

    def remember(self, place: queue_pb2.Place, position: queue_pb2.Position) -> None:
        """Remembers a new answer, if the place waits."""
        if not self._enforced:
            return
        packed = self._answers.get(place.number)
        if packed == _LEFT:
            return
        if position.state != queue_pb2.PLACE_STATE_WAITING:
            if packed:
                self._answers.drop(place.number)
            return
        # Answers to entering and to polling may arrive in another order than they were given. An
        # order that grows without a recovery is the older answer.
        if packed and not position.recovering:
            _, order, _, _, _, phase = _ANSWER.unpack(packed)
            if order < position.order and _GATHERING.isdisjoint((phase, position.phase)):
                return
        packed = _ANSWER.pack(
            time.monotonic(),
            position.order,
            position.poll_after_ms,
            position.estimated_wait_ms,
            position.recovering,
            position.phase,
        )
        self._answers.put(place.number, packed)

    def forget(self, place: queue_pb2.Place) -> None:
        """Makes the next poll ask: the place may be about to end."""
        if self._answers.get(place.number):
            self._answers.drop(place.number)

    def end(self, place: queue_pb2.Place) -> None:
        """Answers nothing from memory for this place any more: it has ended."""
        if self._enforced:
            self._answers.put(place.number, _LEFT)


def _memory_seconds(order: int, pause_ms: int, phase: int) -> float:
    half = pause_ms / 2000
    return min(half, _NEAR_SECONDS) if order <= _NEAR or phase in _GATHERING else half
