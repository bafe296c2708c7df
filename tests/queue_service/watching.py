"""A replica of queue_service over gRPC, and a caller that watches a room, for the tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.domain import Limits, Place, Room
from queue_service.ports import QueueStore, Snapshot
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
from tests import cancelling
from tests.fakes.queue import FakeQueueStore
from tests.queue_service.conftest import RULES as STORE_RULES

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
    servicer: QueueServicer
    address: str

    async def has_changes(self) -> None:
        """Returns once its copy has everything that has happened so far."""
        room = await self.service.heartbeat(self.watchers.room, ())
        async with asyncio.timeout(10):
            while not self.watchers.copy.has(room.epoch, room.seq):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def replica(store: QueueStore, room: str = "main") -> AsyncIterator[Replica]:
    service = QueueService(store, Signer("k1", "0" * 32), Pacing(RULES), [room])
    watchers = Watchers(service, RoomCopy(store, room, RULES), room)
    settings = ServiceSettings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    server = Server(settings, "queue_service").grpc
    servicer = QueueServicer(service, {room: watchers})
    queue_pb2_grpc.add_QueueServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    background = [
        asyncio.create_task(watchers.run()),
        asyncio.create_task(service.keep_ticking(room, TICK_SECONDS)),
    ]
    try:
        yield Replica(service, watchers, servicer, f"127.0.0.1:{port}")
    finally:
        watchers.end()
        await server.stop(1)
        await cancelling.end(*background)


@dataclass
class Mirror:
    """A copy of the room, made of the messages of one stream and nothing else. Every deviation
    from the promised order fails."""

    stream: Stream[queue_pb2.WatchRoomRequest, queue_pb2.WatchRoomResponse]
    view: RoomView | None = None
    snapshots: int = 0
    messages: list[queue_pb2.WatchRoomResponse] = field(default_factory=list)
    heartbeats: dict[int, queue_pb2.Heartbeat] = field(default_factory=dict)
    ended: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _asked: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self) -> None:
        """Applies all messages, until the stream ends."""
        try:
            async for message in self.stream:
                self._apply(message)
                async with self._changed:
                    self._changed.notify_all()
        except Exception as error:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
        async with self._changed:
            self._changed.notify_all()

    def _apply(self, message: queue_pb2.WatchRoomResponse) -> None:
        self.messages.append(message)
        if message.HasField("snapshot"):
            self._take(message.snapshot)
        for changes in message.changes:
            # Nothing twice, and nothing left out.
            assert self.room.apply(changes)
        if message.HasField("heartbeat"):
            self.heartbeats[message.heartbeat.id] = message.heartbeat

    @property
    def room(self) -> RoomView:
        assert self.view is not None
        return self.view

    def _take(self, part: queue_pb2.RoomSnapshot) -> None:
        if part.is_first:
            self.snapshots += 1
            self.view = RoomView(part.epoch, part.seq, part.rules, part.fields, part.last)
        view = self.room
        view.line.extend(part.waiting)
        for place in part.admitted:
            view.admitted[place.number] = Admission(
                place.user_id, place.admitted_until_ms, place.claimed
            )
        if part.is_last:
            assert part.complete_at_seq == view.seq

    async def begin(self, room: str) -> None:
        """Sends the first request and waits for its heartbeat."""
        self._asked = 1
        memory = self.memory() if self.view else None
        request = queue_pb2.WatchRoomRequest(room=room, memory=memory, heartbeat_id=1)
        await self.stream.send(request)
        await self.answered(1)

    async def beat(self, *seen: queue_pb2.Place) -> queue_pb2.Heartbeat:
        """Asks for a heartbeat and waits for it."""
        self._asked += 1
        await self.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=self._asked, seen=seen))
        return await self.answered(self._asked)

    async def answered(self, heartbeat_id: int) -> queue_pb2.Heartbeat:
        await self.until(lambda: heartbeat_id in self.heartbeats)
        heartbeat = self.heartbeats[heartbeat_id]
        assert (self.room.epoch, self.room.seq) >= (heartbeat.epoch, heartbeat.seq)
        return heartbeat

    async def until(self, ready: Callable[[], bool], seconds: float = 10) -> None:
        """Returns once `ready` is true. Raises why the stream has ended, if it has."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: ready() or self.ended.done())
        if not ready():
            self.ended.result()
            raise AssertionError("the server has ended the stream")

    def memory(self) -> queue_pb2.RoomMemory:
        view = self.room
        return queue_pb2.RoomMemory(
            epoch=view.epoch,
            seq=view.seq,
            last=view.last,
            capacity=view.fields.capacity,
            max_waiting=view.fields.max_waiting,
        )


class Store(FakeQueueStore):
    """The fake, as one replica sees it, which a test may disturb."""

    def __init__(self, capacity: int = 1) -> None:
        super().__init__(STORE_RULES, Limits(capacity, 1_000_000))
        self.seen: list[list[int]] = []
        """The signs of life of each heartbeat."""
        self.calls = 0
        """Calls that take a script."""
        self.heartbeats = asyncio.Event()
        """Heartbeats wait while it is not set."""
        self.waiting = 0
        """Heartbeats that wait."""
        self.log = asyncio.Event()
        """The log shows nothing while it is not set."""
        self.polls = 0
        """Heartbeats that somebody's poll caused."""
        self.lose: set[int] = set()
        """The log does not show these changes, by seq."""
        self.crowd = 0
        """Places that snapshots have in front of all others."""
        self.heartbeats.set()
        self.log.set()

    async def heartbeat(self, room: str, seen: Sequence[Place], *, polled: bool = False) -> Room:
        self.waiting += 1
        try:
            await self.heartbeats.wait()
        finally:
            self.waiting -= 1
        self.calls += 1
        self.polls += polled
        if seen:
            self.seen.append([place.number for place in seen])
        return await super().heartbeat(room, seen, polled=polled)

    async def tick(self, room: str) -> Room:
        self.calls += 1
        return await super().tick(room)

    async def changes(
        self, room: str, after_id: str, block_ms: int
    ) -> list[tuple[str, queue_pb2.RoomChanges]]:
        while found := await super().changes(room, after_id, block_ms):
            await self.log.wait()
            if shown := [entry for entry in found if entry[1].seq not in self.lose]:
                return shown
            after_id = found[-1][0]
        return []

    async def snapshot(self, room: str) -> Snapshot:
        snapshot = await super().snapshot(room)
        return Snapshot(snapshot.after_id, self._with_crowd(snapshot.parts))

    async def _with_crowd(
        self, parts: AsyncIterator[queue_pb2.RoomSnapshot]
    ) -> AsyncIterator[queue_pb2.RoomSnapshot]:
        yield await anext(parts)
        for n in range(0, self.crowd, 50_000):
            yield queue_pb2.RoomSnapshot(waiting=range(n + 1, n + 50_001))
        async for part in parts:
            yield part

    def new_replica(self) -> "Store":
        replica = super().new_replica()
        assert isinstance(replica, Store)
        replica.heartbeats, replica.log = asyncio.Event(), asyncio.Event()
        replica.heartbeats.set()
        replica.log.set()
        return replica


@asynccontextmanager
async def mirror(
    address: str, room: str = "main", view: RoomView | None = None
) -> AsyncIterator[Mirror]:
    """A caller that has begun to watch, with the view of an earlier stream, if there was one."""
    async with (
        connect(address) as channel,
        open_stream(queue_pb2_grpc.QueueServiceStub(channel).WatchRoom) as stream,
    ):
        watching = Mirror(stream, view)
        following = asyncio.create_task(watching.follow())
        try:
            await watching.begin(room)
            yield watching
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            if watching.ended.done() and not watching.ended.cancelled():
                watching.ended.exception()  # a test that cares has seen it
