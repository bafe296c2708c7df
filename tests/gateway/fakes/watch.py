"""The stream of a room's changes, as queue_service serves it to gateways."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from protos.frontrow.queue.v1 import queue_pb2
from servicekit.errors import Unavailable

Change = queue_pb2.RoomChange
RULES = queue_pb2.RoomRules(
    poll_min_ms=1_000,
    poll_max_ms=60_000,
    admission_ttl_ms=600_000,
    claim_window_ms=150_000,
    absent_after_ms=300_000,
)


def waiting(number: int) -> Change:
    return Change(kind=Change.KIND_WAITING, number=number)


def ended(number: int) -> Change:
    return Change(kind=Change.KIND_ENDED, number=number)


def admitted(number: int, user_id: int, until_ms: int, *, claimed: bool) -> Change:
    return Change(
        kind=Change.KIND_CLAIMED if claimed else Change.KIND_ADMITTED,
        number=number,
        user_id=user_id,
        admitted_until_ms=until_ms,
    )


class FakeWatch:
    """Numbers the changes of a fake room and sends them to its watchers.

    `supported` is False for a queue_service of the version before. `answers` is False while the
    store does not answer, `speaks` while the service itself hangs.
    """

    def __init__(self) -> None:
        self._watchers: list[asyncio.Queue[queue_pb2.WatchRoomResponse | None]] = []
        self.first_requests: list[queue_pb2.WatchRoomRequest] = []
        self.seen: list[queue_pb2.Place] = []
        self.heartbeats = 0
        self.reset()

    def reset(self) -> None:
        """Ends all streams."""
        self.disconnect()
        self.supported = False
        self.answers = True
        self.speaks = True
        self.epoch = 1
        self.seq = 0
        self.fields = queue_pb2.RoomFields(capacity=10, max_waiting=1_000)
        self.rules = RULES
        self.first_requests.clear()
        self.seen.clear()
        self.heartbeats = 0

    @property
    def watchers(self) -> int:
        """How many streams are open."""
        return len(self._watchers)

    def disconnect(self) -> None:
        """Ends all streams with UNAVAILABLE."""
        for watcher in self._watchers:
            watcher.put_nowait(None)
        self._watchers = []

    def send(self, message: queue_pb2.WatchRoomResponse) -> None:
        """Sends a message to all watchers."""
        for watcher in self._watchers:
            watcher.put_nowait(message)

    def record(self, *changes: Change) -> None:
        """Numbers what one call changed, and sends it."""
        self.seq += 1
        message = queue_pb2.RoomChanges(
            epoch=self.epoch, seq=self.seq, now_ms=_now_ms(), changes=changes
        )
        self.send(queue_pb2.WatchRoomResponse(changes=[message]))

    def change_fields(self, fields: queue_pb2.RoomFields) -> None:
        """Changes the fields of the room that are set in `fields`."""
        self.fields.MergeFrom(fields)
        self.record(Change(kind=Change.KIND_FIELDS, fields=self.fields))

    def snapshot(
        self, line: Sequence[int], shop: Sequence[queue_pb2.AdmittedPlace]
    ) -> queue_pb2.WatchRoomResponse:
        """Returns the room in one part."""
        return queue_pb2.WatchRoomResponse(
            snapshot=queue_pb2.RoomSnapshot(
                epoch=self.epoch,
                seq=self.seq,
                fields=self.fields,
                rules=self.rules,
                waiting=line,
                admitted=shop,
                last=max([*line, *(place.number for place in shop)], default=0),
                complete_at_seq=self.seq,
                is_first=True,
                is_last=True,
            )
        )

    async def serve(
        self,
        requests: AsyncIterator[queue_pb2.WatchRoomRequest],
        context: Any,
        snapshot: Callable[[], queue_pb2.WatchRoomResponse],
    ) -> AsyncIterator[queue_pb2.WatchRoomResponse]:
        """Serves one stream."""
        if not self.supported:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        messages: asyncio.Queue[queue_pb2.WatchRoomResponse | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, messages, snapshot))
        try:
            while (message := await messages.get()) is not None:
                while not self.speaks:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                yield message
            raise Unavailable("The service stops.")
        finally:
            reading.cancel()
            if messages in self._watchers:
                self._watchers.remove(messages)

    async def _read(
        self,
        requests: AsyncIterator[queue_pb2.WatchRoomRequest],
        messages: "asyncio.Queue[queue_pb2.WatchRoomResponse | None]",
        snapshot: Callable[[], queue_pb2.WatchRoomResponse],
    ) -> None:
        is_first = True
        async for request in requests:
            if is_first:
                is_first = False
                self.first_requests.append(request)
                if (request.memory.epoch, request.memory.seq) != (self.epoch, self.seq):
                    messages.put_nowait(snapshot())
                self._watchers.append(messages)
            self.seen.extend(request.seen)
            if request.heartbeat_id and self.answers:
                self.heartbeats += 1
                messages.put_nowait(self.heartbeat(request.heartbeat_id))

    def heartbeat(self, heartbeat_id: int) -> queue_pb2.WatchRoomResponse:
        """Returns the answer to a question."""
        return queue_pb2.WatchRoomResponse(
            heartbeat=queue_pb2.Heartbeat(
                id=heartbeat_id, epoch=self.epoch, seq=self.seq, now_ms=_now_ms()
            )
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
