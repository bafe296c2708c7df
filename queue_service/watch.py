"""One caller that keeps a copy of a room: a snapshot, then every change, and heartbeats."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from prometheus_client import Histogram

from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from queue_service.domain import Place, Room
from queue_service.errors import TooManyItems
from queue_service.recent_changes import RecentChanges
from queue_service.watchers import Watchers
from servicekit.call_interceptor import SlowReader
from servicekit.errors import Unavailable, is_transient

CHANGE_LAG = Histogram(
    "queue_change_lag_seconds",
    "From a change in Redis until it was sent to a watcher, by the clocks of both.",
    ["room"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

JOINS_EVERY_SECONDS = 0.1
"""Changes that can wait are sent that far apart. A message costs more than what it carries: 0.65
ms here, 0.25 ms at a gateway."""

MAX_CHANGES_BYTES = 128 * 1024
"""Changes in one message, but one call's changes at least. One script makes less than 100 KB of
them."""
MAX_CHANGES_PLACES = 5_000
"""Places that one message changes. A gateway needs 2.5 µs for each, in one step of its loop."""

MAX_UNREPORTED = 16 * MAX_ITEMS
"""Signs of life of one caller that wait while the store is unavailable. A gateway has half as many
under way."""

# The first snapshot of a million places takes about half a second.
_READY_SECONDS = 10.0
# For a change that a script has made; see RoomCopy.expect.
_REACHED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """A heartbeat whose answer waits for the changes before it."""

    heartbeat: queue_pb2.Heartbeat
    answer_by: float


class Watch:
    """One caller that watches a room: serves one stream of WatchRoom.

    What is sent, in this order:

    1. If the memory of the first request is of the current epoch and all changes after it are still
       known here: those changes. Otherwise a snapshot, in parts. A replica that is behind the
       memory first waits until it has come as far, at most a second.
    2. Changes, each once and in their order, several in a message. Those after the snapshot's `seq`
       follow it. Ends, admissions and fields are sent at once, the others at most every 100 ms.
    3. For a request with a heartbeat_id, a Heartbeat, after all changes up to its seq, and after
       all signs of life of this and the earlier requests were reported. If this
       replica does not get these changes within a second, the Heartbeat is sent without them. A
       Heartbeat answers all earlier ids, too. None is sent while the store is unavailable.
    4. After a loss in the store, or a gap in its log, a new snapshot, whose first part is of a
       later epoch or seq, then its changes.
    """

    def __init__(
        self, watchers: Watchers, requests: AsyncIterator[queue_pb2.WatchRoomRequest]
    ) -> None:
        self._watchers = watchers
        self._copy = watchers.copy
        self._requests = requests
        self._wake = asyncio.Event()
        # How far the caller has come: change `_seq` of these, which a new snapshot replaces.
        self._recent: RecentChanges | None = None
        self._seq = 0
        self._sent_at = 0.0
        self._seen: dict[int, Place] = {}
        self._unanswered: deque[_Unanswered] = deque()

    async def responses(
        self, first: queue_pb2.WatchRoomRequest
    ) -> AsyncGenerator[queue_pb2.WatchRoomResponse, None]:
        """Serves until the caller ends the stream. `first` is the first request.

        Raises TooManyItems, SlowReader, and Unavailable when the replica drains or if the store is
        unavailable at the first request.
        """
        with self._watchers.watching(self._wake):
            await self._begin(first)
            listening = asyncio.create_task(self._listen())
            listening.add_done_callback(lambda _: self._wake.set())
            try:
                while not listening.done():
                    self._raise_if_draining()
                    self._wake.clear()
                    if self._recent is not self._copy.recent:
                        for part in self._snapshot():
                            yield queue_pb2.WatchRoomResponse(snapshot=part)
                    elif response := self._take_due():
                        yield response
                    else:
                        await self._wait_until(self._next_due())
                listening.result()
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def _begin(self, first: queue_pb2.WatchRoomRequest) -> None:
        """Waits until the copy is as new as this request, and finds out what the caller lacks."""
        memory = first.memory
        # A stream begins by itself, perhaps without any poll.
        state = await self._beat(first, polled=False)
        # A memory of the same epoch is never newer than the reply of the store.
        if not await self._wait_for(lambda: self._copy.view is not None, _READY_SECONDS):
            raise Unavailable("The copy of the room is not ready.")
        await self._wait_for(lambda: self._copy.has(state.epoch, state.seq), _REACHED_SECONDS)
        recent = self._copy.recent
        if recent and recent.epoch == memory.epoch and recent.reach_back_to(memory.seq):
            self._recent, self._seq = recent, memory.seq

    async def _listen(self) -> None:
        async for request in self._requests:
            try:
                await self._beat(request, polled=True)
            except Exception as error:
                # The signs of life are reported by the next heartbeat, for which the caller asks
                # if it has no answer.
                if not is_transient(error):
                    raise

    async def _beat(self, request: queue_pb2.WatchRoomRequest, *, polled: bool) -> Room:
        """Reports the signs of life, also those that could not be reported before, and has the
        request answered once the copy is as new as the reply. Raises TooManyItems, Unavailable and
        TimedOut."""
        if len(request.seen) > MAX_ITEMS:
            raise TooManyItems(f"A request may have at most {MAX_ITEMS} signs of life.")
        for seen in request.seen:
            place = Place(seen.room, seen.number, seen.user_id, seen.epoch, seen.issued_at)
            if place.possible and place.room == self._watchers.room:
                self._seen[place.number] = place
        if len(self._seen) > MAX_UNREPORTED:
            # The caller keeps what no heartbeat has confirmed, and sends it again.
            raise TooManyItems(f"At most {MAX_UNREPORTED} signs of life may be unreported.")
        state = await self._report(polled=polled)
        while self._seen:
            state = await self._report(polled=polled)
        self._copy.expect(state.epoch, state.seq)
        if request.heartbeat_id:
            heartbeat = queue_pb2.Heartbeat(
                id=request.heartbeat_id, epoch=state.epoch, seq=state.seq, now_ms=state.now
            )
            answer_by = asyncio.get_running_loop().time() + _REACHED_SECONDS
            self._unanswered.append(_Unanswered(heartbeat, answer_by))
            self._wake.set()
        return state

    async def _report(self, *, polled: bool) -> Room:
        """Reports the oldest signs of life, and forgets them once that has succeeded."""
        reported = list(islice(self._seen.values(), MAX_ITEMS))
        state = await self._watchers.heartbeat(reported, polled=polled)
        for place in reported:
            del self._seen[place.number]
        return state

    def _snapshot(self) -> Iterator[queue_pb2.RoomSnapshot]:
        """Returns the parts of a new snapshot, after which the caller has come that far."""
        recent = self._copy.recent
        assert recent is not None
        self._recent, self._seq = recent, recent.seq
        return self._copy.snapshot()

    def _take_due(self) -> queue_pb2.WatchRoomResponse | None:
        """Returns the next message if it is time for one. Raises SlowReader."""
        recent, now = self._recent, asyncio.get_running_loop().time()
        assert recent is not None
        if not recent.reach_back_to(self._seq):
            raise SlowReader("The caller reads too slowly.")
        answers = bool(self._unanswered) and self._is_answerable(self._unanswered[0], now)
        if not (answers or recent.urgent_seq > self._seq or self._joins_due(recent) <= now):
            return None
        response = recent.after(self._seq, MAX_CHANGES_BYTES, MAX_CHANGES_PLACES)
        if response.changes:
            self._seq, self._sent_at = response.changes[-1].seq, now
            lag = time.time() - response.changes[0].now_ms / 1000
            CHANGE_LAG.labels(self._watchers.room).observe(max(0.0, lag))
        if self._seq == recent.seq:
            while self._unanswered and self._is_answerable(self._unanswered[0], now):
                response.heartbeat.CopyFrom(self._unanswered.popleft().heartbeat)
        return response

    def _is_answerable(self, unanswered: _Unanswered, now: float) -> bool:
        heartbeat = unanswered.heartbeat
        return now >= unanswered.answer_by or self._copy.has(heartbeat.epoch, heartbeat.seq)

    def _joins_due(self, recent: RecentChanges) -> float:
        return self._sent_at + JOINS_EVERY_SECONDS if recent.seq > self._seq else math.inf

    def _next_due(self) -> float:
        """When there will be something to send, by the time of the loop, unless it wakes first."""
        recent = self._recent
        assert recent is not None
        return min(
            self._joins_due(recent),
            self._unanswered[0].answer_by if self._unanswered else math.inf,
        )

    async def _wait_for(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Waits for the copy, at most so many seconds; returns whether it is ready."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not ready():
            self._raise_if_draining()
            if loop.time() >= until:
                return False
            self._wake.clear()
            await self._wait_until(until)
        return True

    async def _wait_until(self, when: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if when == math.inf else when):
                await self._wake.wait()

    def _raise_if_draining(self) -> None:
        if self._watchers.draining:
            raise Unavailable("The service drains.")
