"""The stream from queue_service that keeps the copy of the room up to date."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
from prometheus_client import Counter

from gateway.room.copy import RoomCopy
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from room_view.view import Gap
from servicekit import cancellation, logs
from servicekit.client import Stream, open_stream
from servicekit.errors import ServiceError, Unavailable
from servicekit.retries import Outage
from servicekit.rpc_errors import RemoteError

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceAsyncStub

log = logs.get(__name__)

RECONNECTS = Counter(
    "room_view_reconnects",
    "Streams of the room view that have ended, and attempts to open one that have failed.",
)

# A stream that leaves a heartbeat unanswered for this long has no peer, or one that has lost its
# store. Other messages do not count: the log of a demoted Redis may still be read.
_SILENT_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 1.0
# A queue_service of the version before has no stream; it may be replaced at any moment.
_UNSUPPORTED_SECONDS = 30.0
# Signs of life travel with heartbeats. Without one, they wait for this long at most, and for no
# more than the part of the absence window that is theirs.
_SIGNS_SECONDS = 2.0
_SIGNS_PART_OF_WINDOW = 16

_Stream = Stream[queue_pb2.WatchRoomRequest, queue_pb2.WatchRoomResponse]


class RoomWatch:
    """Watches the room, one stream at a time, and watches anew when it ends.

    The view stays when a stream ends: the next one continues after its last change if
    queue_service still has the following ones, and brings a snapshot otherwise.
    """

    def __init__(
        self, queue: "QueueServiceAsyncStub", room: str, copy: RoomCopy, signs: SignsOfLife
    ) -> None:
        self._queue = queue
        self._room = room
        self._copy = copy
        self._signs = signs
        self._wanted = asyncio.Event()
        self._heartbeat_id = 0
        self._deadline: asyncio.Timeout | None = None  # of the stream, while there is one
        self._snapshot_at = -math.inf  # when the last part of a snapshot came
        self._heard = False
        self._outage = Outage(log, "room_view_unavailable", "room_view_available", room=room)
        self.supported = True
        """False while queue_service is of the version before."""
        copy.freshness.ask = self.ask_heartbeat
        copy.freshness.is_connected = lambda: self._deadline is not None
        signs.on_pending = self._report_soon

    async def run(self) -> None:
        """Keeps the copy up to date, until cancelled."""
        failures = 0
        while True:
            self._heard = False
            error = await self._watch()
            cancellation.raise_if_requested()
            RECONNECTS.inc()
            was_supported, self.supported = self.supported, not _is_unimplemented(error)
            if not self.supported:
                if was_supported:
                    log.info(
                        "room_view_unsupported",
                        room=self._room,
                        retry_seconds=_UNSUPPORTED_SECONDS,
                    )
                await asyncio.sleep(_UNSUPPORTED_SECONDS)
                continue
            # Each stream ends some day, because its server stops or its connection gets old. The
            # next one begins at once.
            failures = 0 if self._heard else failures + 1
            if failures > 1:
                self._outage.failed(error)
            if failures:
                longest = min(_LONGEST_PAUSE_SECONDS, 0.05 * 2 ** min(failures, 5))
                await asyncio.sleep(random.uniform(longest / 2, longest))

    def ask_heartbeat(self) -> bool:
        """Sends a heartbeat, with signs of life; returns False if there is no stream."""
        if self._deadline is None:
            return False
        if not self._wanted.is_set():
            self._heartbeat_id = self._copy.freshness.asked()
            self._wanted.set()
            self._set_deadline()
        return True

    async def _watch(self) -> Exception:
        """Watches until the stream ends, and returns why."""
        try:
            async with (
                open_stream(
                    self._queue.WatchRoom, expected=grpc.StatusCode.UNIMPLEMENTED
                ) as stream,
                asyncio.TaskGroup() as tasks,
            ):
                sending = tasks.create_task(self._send(stream))
                await self._receive(stream)
                sending.cancel()
            return Unavailable("The server has ended the stream.")
        except* (Gap, ServiceError, TimeoutError) as group:
            # Both directions of a stream end for the same reason.
            ended = group.exceptions[0]
        finally:
            self._copy.disconnected()
            self._signs.disconnected()
        return ended

    async def _send(self, stream: _Stream) -> None:
        await stream.send(
            queue_pb2.WatchRoomRequest(
                room=self._room,
                memory=self._copy.memory(),
                heartbeat_id=self._copy.freshness.asked(),
            )
        )
        while True:
            if self._signs.pending and not self._signs.is_held:
                self.ask_heartbeat()
            await self._wanted.wait()
            self._wanted.clear()
            await stream.send(
                queue_pb2.WatchRoomRequest(
                    heartbeat_id=self._heartbeat_id, seen=self._signs.take(self._heartbeat_id)
                )
            )

    async def _receive(self, stream: _Stream) -> None:
        self._wanted.clear()
        self._snapshot_at = -math.inf
        async with self._until_silent():
            async for message in stream:
                if not self._heard:
                    self._heard = self.supported = True
                    self._outage.succeeded()
                self._copy.apply(message)
                if message.HasField("heartbeat"):
                    self._signs.confirmed(message.heartbeat.id)
                    if self._signs.pending >= MAX_ITEMS:
                        self.ask_heartbeat()
                # The answer comes after the snapshot, which may be long.
                if message.HasField("snapshot"):
                    self._snapshot_at = time.monotonic()
                self._set_deadline()

    @contextlib.asynccontextmanager
    async def _until_silent(self) -> AsyncIterator[None]:
        """Raises TimeoutError if a heartbeat has no answer in time."""
        async with asyncio.timeout(_SILENT_SECONDS) as self._deadline:
            try:
                yield
            finally:
                self._deadline = None

    def _set_deadline(self) -> None:
        """Sets the deadline of the oldest unanswered heartbeat, if there is one."""
        deadline = self._deadline
        if deadline is None or deadline.expired():
            return
        waiting_since = max(self._copy.freshness.waiting_since, self._snapshot_at)
        left = waiting_since + _SILENT_SECONDS - time.monotonic()
        loop = asyncio.get_running_loop()
        deadline.reschedule(None if left == math.inf else loop.time() + left)

    def _report_soon(self) -> None:
        delay = min(_SIGNS_SECONDS, self._signs.window_seconds / _SIGNS_PART_OF_WINDOW)
        asyncio.get_running_loop().call_later(delay, self._report)

    def _report(self) -> None:
        if not self._signs.pending:
            return
        if self._signs.is_held:
            self._report_soon()
        else:
            self.ask_heartbeat()


def _is_unimplemented(error: BaseException) -> bool:
    return isinstance(error, RemoteError) and error.status is grpc.StatusCode.UNIMPLEMENTED
