"""A replica of queue_service over gRPC, and a caller that watches a room, for the tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.ports import QueueStore
from queue_service.room_copy import RoomCopy
from queue_service.service import QueueService
from queue_service.servicer import QueueServicer
from queue_service.tokens import Signer
from queue_service.watchers import Watchers
from room_view.position import Pacing
from room_view.view import Admission, RoomView
from servicekit.client import Stream, connect, open_stream
from servicekit.server import Server
from servicekit.settings import ServiceSettings

RULES = queue_pb2.RoomRules(
    poll_min_ms=1_000,
    poll_max_ms=10_000,
    admission_ttl_ms=60_000,
    claim_window_ms=60_000,
    absent_after_ms=60_000,
)
TICK_SECONDS = 0.1


@dataclass
class Replica:
    """A running queue_service of one room."""

    service: QueueService
    watchers: Watchers
    address: str
    server: grpc.aio.Server


@asynccontextmanager
async def replica(store: QueueStore, room: str = "main") -> AsyncIterator[Replica]:
    service = QueueService(store, Signer("k1", "0" * 32), Pacing(RULES), [room])
    watchers = Watchers(service, RoomCopy(store, room, RULES), room)
    settings = ServiceSettings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    server = Server(settings, "queue_service").grpc
    queue_pb2_grpc.add_QueueServiceServicer_to_server(
        QueueServicer(service, {room: watchers}), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    background = [
        asyncio.create_task(watchers.copy.run()),
        asyncio.create_task(service.keep_ticking(room, TICK_SECONDS)),
    ]
    try:
        yield Replica(service, watchers, f"127.0.0.1:{port}", server)
    finally:
        watchers.end()
        await server.stop(1)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


@dataclass
class Mirror:
    """A copy of the room, made of the messages of one stream and nothing else. Every deviation
    from the promised order fails."""

    stream: Stream[queue_pb2.WatchRoomRequest, queue_pb2.WatchRoomResponse]
    view: RoomView | None = None
    snapshots: int = 0
    messages: list[queue_pb2.WatchRoomResponse] = field(default_factory=list)
    heartbeats: dict[int, queue_pb2.Heartbeat] = field(default_factory=dict)
    _asked: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self) -> None:
        """Applies all messages, until the stream ends. Raises RemoteError."""
        async for message in self.stream:
            self.messages.append(message)
            if message.HasField("snapshot"):
                self._take(message.snapshot)
            for changes in message.changes:
                assert self.view is not None
                # Nothing twice, and nothing left out.
                assert self.view.apply(changes)
            if message.HasField("heartbeat"):
                self.heartbeats[message.heartbeat.id] = message.heartbeat
            async with self._changed:
                self._changed.notify_all()

    def _take(self, part: queue_pb2.RoomSnapshot) -> None:
        if part.is_first:
            self.snapshots += 1
            self.view = RoomView(part.epoch, part.seq, part.rules, part.fields, part.last)
        view = self.view
        assert view is not None
        view.line.extend(part.waiting)
        for place in part.admitted:
            view.admitted[place.number] = Admission(
                place.user_id, place.admitted_until_ms, place.claimed
            )
        if part.is_last:
            assert part.complete_at_seq == view.seq

    async def begin(
        self, room: str = "main", memory: queue_pb2.RoomMemory | None = None
    ) -> "Mirror":
        """Sends the first request and waits for its heartbeat."""
        self._asked = 1
        request = queue_pb2.WatchRoomRequest(room=room, memory=memory, heartbeat_id=1)
        await self.stream.send(request)
        await self.answered(1)
        return self

    async def beat(self, *seen: queue_pb2.Place) -> queue_pb2.Heartbeat:
        """Asks for a heartbeat and waits for it."""
        self._asked += 1
        await self.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=self._asked, seen=seen))
        return await self.answered(self._asked)

    async def answered(self, heartbeat_id: int) -> queue_pb2.Heartbeat:
        await self.until(lambda: heartbeat_id in self.heartbeats)
        heartbeat = self.heartbeats[heartbeat_id]
        assert self.view is not None
        assert (self.view.epoch, self.view.seq) >= (heartbeat.epoch, heartbeat.seq)
        return heartbeat

    async def until(self, ready: Callable[[], bool], seconds: float = 10) -> None:
        """Returns once `ready` is true."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(ready)

    def memory(self) -> queue_pb2.RoomMemory:
        view = self.view
        assert view is not None
        return queue_pb2.RoomMemory(
            epoch=view.epoch,
            seq=view.seq,
            last=view.last,
            capacity=view.fields.capacity,
            max_waiting=view.fields.max_waiting,
        )


@asynccontextmanager
async def mirror(
    address: str, room: str = "main", memory: queue_pb2.RoomMemory | None = None
) -> AsyncIterator[Mirror]:
    """A caller that has begun to watch."""
    async with (
        connect(address) as channel,
        open_stream(queue_pb2_grpc.QueueServiceStub(channel).WatchRoom) as stream,
    ):
        watching = Mirror(stream)
        following = asyncio.create_task(watching.follow())
        try:
            await watching.begin(room, memory)
            yield watching
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
