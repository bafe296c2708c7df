"""Who was answered from the copy: queue_service must know, or it takes them for absent."""

import time
from collections.abc import Callable
from itertools import islice

from gateway.room.reported import Reported
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS

# More wait to be reported only in an outage: the longest waiting are then polls that failed.
_MAX_PENDING = 10_000

_MAX_UNCONFIRMED = 8
"""Messages under way. More are unanswered only while the store is unavailable; queue_service keeps
twice as many places."""


class SignsOfLife:
    """Collects the places that polled, each at most once in a quarter of the absence window, and
    keeps them until a heartbeat confirms that they have arrived.

    With the longest pause between two polls, at most two thirds of the window, that leaves a
    twelfth of it for the way to the store. Above some 100,000 places, a few of them are reported
    more often (Reported).
    """

    def __init__(self) -> None:
        self.on_pending: Callable[[], None] = lambda: None
        """Called when the first place begins to wait for a message."""
        self.window_seconds = 0.0
        """After how long without a poll a place is skipped."""
        self._reported = Reported()
        self._pending: dict[int, queue_pb2.Place] = {}
        self._sent: dict[int, list[queue_pb2.Place]] = {}

    @property
    def pending(self) -> int:
        """How many places wait for a message."""
        return len(self._pending)

    @property
    def is_held(self) -> bool:
        """Whether no message may take places, until a heartbeat confirms some."""
        return len(self._sent) >= _MAX_UNCONFIRMED

    def use(self, rules: queue_pb2.RoomRules) -> None:
        """Takes the absence window of the room."""
        self.window_seconds = rules.absent_after_ms / 1_000

    def report_again(self) -> None:
        """Reports each place at its next poll: the store has forgotten whose place it is."""
        self._reported.forget_all()

    def note(self, place: queue_pb2.Place) -> None:
        """Notes that a waiting place has polled."""
        number = place.number
        now = time.monotonic()
        reported = self._reported.get(number)
        if reported is not None and now - reported < self.window_seconds / 4:
            return
        self._reported.put(number, now)
        self._pending[number] = place
        self._drop_oldest()
        if len(self._pending) == 1:
            self.on_pending()

    def take(self, heartbeat_id: int) -> list[queue_pb2.Place]:
        """Returns the places that go with this heartbeat, at most MAX_ITEMS."""
        numbers = [] if self.is_held else list(islice(self._pending, MAX_ITEMS))
        places = [self._pending.pop(number) for number in numbers]
        if places:
            self._sent[heartbeat_id] = places
        return places

    def confirmed(self, heartbeat_id: int) -> None:
        """Notes that this heartbeat and all before it were answered."""
        for sent in [n for n in self._sent if n <= heartbeat_id]:
            del self._sent[sent]

    def disconnected(self) -> None:
        """Makes what may have been lost with the stream wait again."""
        lost = {place.number: place for places in self._sent.values() for place in places}
        self._sent.clear()
        self._pending = lost | self._pending
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._pending) > _MAX_PENDING:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            self._reported.drop(oldest)
