"""Proves how new the copy of the room is, by round trips on the clock of this process."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import Histogram

from protos.frontrow.queue.v1 import queue_pb2
from room_view.view import RoomView

HEARTBEAT_SECONDS = Histogram(
    "room_view_heartbeat_seconds",
    "From asking for a heartbeat until the room view had proved itself as new as the question.",
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5),
)

# When the next heartbeat is asked for, as a share of the time for which the last one counts. The
# rest, 90 ms by default, is several times what one takes under load. Asking at half of the time
# would send 40 % more of them.
_ASK_AFTER = 0.7
# Answers whose change has not been applied yet: more than a stream can be behind.
_MAX_UNPROVED = 64


class Freshness:
    """Knows as of when a view is exact, and asks for a heartbeat when a request needs to know.

    A heartbeat names the last change of the room when a script wrote to the store. Once the view
    has applied that change, it is as new as the moment at which the heartbeat was *asked for*: the
    age of the last message would hide a stall. A heartbeat of another epoch proves nothing.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: how old an answer from the view may be."""
        self.seconds = seconds
        self.ask: Callable[[], bool] = lambda: False
        """Sends a heartbeat soon; returns whether there is a stream."""
        self.is_connected: Callable[[], bool] = lambda: False
        """Returns whether there is a stream."""
        self.as_of = -math.inf
        """The view has every change that was made before this, by time.monotonic()."""
        self._is_followed = False  # a heartbeat of the present stream has proved the view
        self._followed_until = -math.inf
        self._next_id = 1
        self._asked: dict[int, float] = {}
        self._asked_at = -math.inf
        self._unproved: deque[tuple[queue_pb2.Heartbeat, float]] = deque(maxlen=_MAX_UNPROVED)
        self._clock = (0.0, 0.0, 0)
        self._proved: asyncio.Future[None] | None = None

    def is_fresh(self) -> bool:
        """Returns whether the view may answer now. Shortly before the end of the time, asks for the
        next heartbeat, so that under load nobody waits for one."""
        now = time.monotonic()
        age = now - self.as_of
        # While heartbeats have no answer, a new one tries from time to time.
        if age > _ASK_AFTER * self.seconds and (
            not self._asked or now - self._asked_at > self.seconds
        ):
            self.ask()
        return age <= self.seconds

    async def becomes_fresh(self) -> bool:
        """Waits for one heartbeat, at most `seconds`; returns whether the view may answer now.
        Does not wait for one that is overdue already: nobody waits for a stream that stalls."""
        if self.is_fresh():
            return True
        now = time.monotonic()
        oldest = next(iter(self._asked.values()), now)
        patience = oldest + self.seconds - now
        if patience <= 0 or (not self._asked and not self.ask()):
            return False
        if self._proved is None:
            self._proved = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._proved}, timeout=patience)
        return self.is_fresh()

    def asked(self) -> int:
        """Notes that a heartbeat is asked for now, and returns its id."""
        heartbeat_id = self._next_id
        self._next_id += 1
        self._asked_at = self._asked[heartbeat_id] = time.monotonic()
        return heartbeat_id

    @property
    def is_asking(self) -> bool:
        """Whether a heartbeat is unanswered."""
        return bool(self._asked)

    @property
    def waiting_since(self) -> float:
        """When the oldest unanswered heartbeat was asked for, by time.monotonic(); infinity if
        none is unanswered."""
        return next(iter(self._asked.values()), math.inf)

    @property
    def is_overdue(self) -> bool:
        """Whether there is no stream, or a heartbeat has had no answer for `seconds`."""
        return not self.is_connected() or time.monotonic() - self.waiting_since > self.seconds

    @property
    def followed_until(self) -> float:
        """Until when the stream has brought every change as far as is known, by time.monotonic():
        until now, or until a heartbeat was asked for that has no answer. Nobody asks for heartbeats
        in a silent room, so `as_of` may be long ago there."""
        if not self._is_followed:
            return max(self.as_of, self._followed_until)
        return max(self.as_of, min(time.monotonic(), self.waiting_since))

    def answered(self, heartbeat: queue_pb2.Heartbeat) -> None:
        """Takes an answer. It counts once its change is applied (`prove`)."""
        asked_at = self._asked.get(heartbeat.id)
        if asked_at is None:
            return
        # Answers come in the order of the questions.
        for heartbeat_id in [n for n in self._asked if n <= heartbeat.id]:
            del self._asked[heartbeat_id]
        self._unproved.append((heartbeat, asked_at))

    def prove(self, view: RoomView) -> None:
        """Counts the answers whose change `view` has applied."""
        waiting = self._unproved
        while waiting:
            heartbeat, asked_at = waiting[0]
            if heartbeat.epoch > view.epoch:
                return
            if heartbeat.epoch == view.epoch:
                if heartbeat.seq > view.seq:
                    return
                took = time.monotonic() - asked_at
                HEARTBEAT_SECONDS.observe(took)
                self.as_of = max(self.as_of, asked_at)
                self._is_followed = True
                self._clock = (asked_at, took, heartbeat.now_ms)
            waiting.popleft()
        if self._proved is not None and self.is_fresh():
            self._proved.set_result(None)
            self._proved = None

    def disconnected(self) -> None:
        """Forgets the questions of a stream that has ended; nobody waits for them."""
        self._followed_until = self.followed_until
        self._is_followed = False
        self._asked.clear()
        if self._proved is not None:
            self._proved.set_result(None)
            self._proved = None

    def reset(self) -> None:
        """Takes nothing for proved any more: the view belongs to another epoch now."""
        self.as_of = self._followed_until = -math.inf
        self._is_followed = False

    def now_ms(self) -> int:
        """Returns the time by the clock of the store, Unix time in milliseconds; never less than
        the real one, and more by at most `uncertainty_ms`."""
        asked_at, _, now_ms = self._clock
        return now_ms + math.ceil((time.monotonic() - asked_at) * 1000)

    @property
    def uncertainty_ms(self) -> int:
        """How long the heartbeat took that `now_ms` relies on."""
        return math.ceil(self._clock[1] * 1000)
