"""From the store to the gateways, through two replicas, in random histories and virtual time.

The real classes on both sides of the streams, a fake store, and no network. People enter and leave,
admissions lapse, the store loses all or its newest changes, noticed or not, the log of a replica
stands still or has a gap, the store is unavailable, streams are cut.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from gateway.room.copy import RoomCopy as GatewayCopy
from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import Entry, Place
from queue_service.room_copy import RoomCopy
from queue_service.service import QueueService
from queue_service.servicer import QueueServicer
from queue_service.tokens import Signer
from queue_service.watchers import Watchers
from room_view.position import Pacing
from room_view.view import Gap, RoomView
from servicekit.errors import ServiceError, Unavailable
from tests.queue_service.watching import RULES, Store
from tests.virtual_time import run

ROOM = "main"
SECONDS = 10.0
SETTLES_IN = 12.0
"""Longer than anything waits for: a log that stood still, a snapshot after a gap."""

Shown = tuple[list[int], dict[int, tuple[int, int, bool]], queue_pb2.RoomFields]


class Tasks:
    """Tasks of a group that end with the test."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    def create_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._group.create_task(work))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


class TracedStore(Store):
    """Remembers what the room was after each change that has not been lost."""

    def __init__(self) -> None:
        super().__init__(capacity=2)
        self.history: dict[tuple[int, int], Shown] = {}

    def new_replica(self) -> "TracedStore":
        replica = super().new_replica()
        assert isinstance(replica, TracedStore)
        return replica

    @property
    def at(self) -> tuple[int, int]:
        """The epoch and the newest change."""
        state = self._rooms.get(ROOM)
        return (state.epoch, state.seq) if state else (0, 0)

    def _record(self, state: Any, fields: queue_pb2.RoomFields) -> None:
        super()._record(state, fields)
        self.history[state.epoch, state.seq] = (
            sorted(state.shown.waiting),
            {
                number: (place.user_id, place.admitted_until_ms, place.claimed)
                for number, place in state.shown.admitted.items()
            },
            state.shown.fields,
        )

    def lose_newest(self, rooms: Any, *, unnoticed: bool) -> None:
        self.cut_back(rooms, unnoticed=unnoticed)
        epoch, seq = self.at
        for change in [c for c in self.history if c[0] == epoch and c[1] > seq]:
            del self.history[change]


def shown(view: RoomView) -> Shown:
    admitted = {n: (a.user_id, a.until_ms, a.claimed) for n, a in view.admitted.items()}
    return [number for block in view.line.blocks() for number in block], admitted, view.fields


class Replica:
    """A queue_service without a server."""

    def __init__(self, store: TracedStore, tasks: Tasks) -> None:
        self.store = store
        self.service = QueueService(store, Signer("k1", "0" * 32), Pacing(RULES), [ROOM])
        watchers = Watchers(self.service, RoomCopy(store, ROOM, RULES), ROOM)
        self.servicer = QueueServicer(self.service, {ROOM: watchers})
        tasks.create_task(watchers.copy.run())
        tasks.create_task(self.service.keep_ticking(ROOM, 0.1))


class Gateway:
    """Keeps a copy of the room over a stream to one of the replicas."""

    def __init__(self, replicas: list[Replica], chance: random.Random, tasks: Tasks) -> None:
        self.copy = GatewayCopy(0.3)
        self.proofs = 0
        self.last_loss = 0.0
        self._replicas = replicas
        self._chance = chance
        self._requests = asyncio.Queue[queue_pb2.WatchRoomRequest]()
        self._stream: asyncio.Task[None] | None = None
        # When a heartbeat was asked for -> how far the room was.
        self._asked: dict[float, tuple[int, int]] = {}
        tasks.create_task(self._watch())
        tasks.create_task(self._ask())

    def cut(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    async def _watch(self) -> None:
        while True:
            self._requests = asyncio.Queue()
            self._stream = asyncio.create_task(self._receive())
            try:
                await asyncio.wait({self._stream})
            finally:
                self._stream.cancel()
            with contextlib.suppress(Gap, ServiceError, asyncio.CancelledError):
                self._stream.result()
            self.copy.disconnected()
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    async def _receive(self) -> None:
        replica = self._chance.choice(self._replicas)
        first = queue_pb2.WatchRoomRequest(room=ROOM, memory=self.copy.memory())
        responses = replica.servicer.WatchRoom(self._sent(first), None)  # type: ignore[arg-type]
        async with contextlib.aclosing(responses):  # type: ignore[type-var]
            async for response in responses:
                self.copy.apply(response)
                self._check()

    async def _sent(
        self, first: queue_pb2.WatchRoomRequest
    ) -> AsyncIterator[queue_pb2.WatchRoomRequest]:
        yield first
        while True:
            yield await self._requests.get()

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.05, 0.2))
            self._asked[time.monotonic()] = self._replicas[0].store.at
            heartbeat_id = self.copy.freshness.asked()
            self._requests.put_nowait(queue_pb2.WatchRoomRequest(heartbeat_id=heartbeat_id))

    def _check(self) -> None:
        view, as_of = self.copy.view, self.copy.freshness.as_of
        if view is None or as_of not in self._asked or as_of <= self.last_loss:
            return
        self.proofs += 1
        assert (view.epoch, view.seq) >= self._asked[as_of], "older than it says"
        history = self._replicas[0].store.history
        assert (view.epoch, view.seq) in history, "it shows what was lost"
        assert shown(view) == history[view.epoch, view.seq]


class History:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.proofs = 0
        self._places: list[Place] = []
        self._users = 0

    async def play(self) -> None:
        store = TracedStore()
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            replicas = [Replica(s, tasks) for s in (store, store.new_replica())]
            gateways = [Gateway(replicas, self.chance, tasks) for _ in range(2)]
            kept = store.copy_rooms()
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                await asyncio.sleep(self.chance.uniform(0, 0.1))
                replica = self.chance.choice(replicas)
                kind = self.chance.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
                if kind == "keep":
                    kept = store.copy_rooms()
                elif kind == "cut":
                    self.chance.choice(gateways).cut()
                elif kind in ("forget", "lose", "go back"):
                    if kind == "forget":
                        store.forget()
                    else:
                        await self._catch_up(replicas)
                        store.lose_newest(kept, unnoticed=kind == "go back")
                    for gateway in gateways:
                        gateway.last_loss = time.monotonic()
                else:
                    with contextlib.suppress(Unavailable):
                        await self._change(replica.store, kind)
            await self._catch_up(replicas)
            await asyncio.sleep(SETTLES_IN)
            for gateway in gateways:
                view = gateway.copy.view
                assert view is not None
                assert (view.epoch, view.seq) == store.at
                assert time.monotonic() - gateway.copy.freshness.as_of <= 0.3
                self.proofs += gateway.proofs
            tasks.cancel()

    async def _catch_up(self, replicas: list[Replica]) -> None:
        """A store that goes back unnoticed is found out by a caller that has seen more."""
        for replica in replicas:
            self._mend(replica.store)
        await asyncio.sleep(0.3)

    async def _change(self, store: TracedStore, kind: str) -> None:
        if kind == "enter":
            self._users += 1
            for answer in (await store.enter(ROOM, [Entry(self._users)]))[1]:
                if isinstance(answer, tuple):
                    self._places.append(answer[0])
        elif kind == "poll":
            await store.positions(ROOM, self._some_places(5))
        elif kind == "leave":
            await store.leave_all(ROOM, self._some_places(1))
        elif kind == "limit":
            capacity = self.chance.randint(0, 5)
            await store.update(ROOM, capacity=capacity, max_waiting=None, paused=None)
        elif kind == "later":
            store.advance(self.chance.choice((0.1, 1, 30)))
        elif kind == "log stands still":
            store.log.clear()
        elif kind == "log has a gap":
            store.lose = {store.at[1] + 1, store.at[1] + 2}
        elif kind == "unavailable":
            store.unavailable = Unavailable("The waiting room is unavailable.")
        else:
            self._mend(store)

    def _mend(self, store: TracedStore) -> None:
        store.log.set()
        store.lose = set()
        store.unavailable = None

    def _some_places(self, most: int) -> list[Place]:
        return self.chance.sample(self._places, min(most, len(self._places)))


WEIGHTS = {
    "enter": 20,
    "poll": 20,
    "leave": 10,
    "limit": 2,
    "later": 3,
    "log stands still": 1,
    "log has a gap": 1,
    "unavailable": 1,
    "mend": 5,
    "cut": 2,
    "keep": 2,
    "forget": 0.3,
    "lose": 0.5,
    "go back": 0.5,
}


@pytest.mark.parametrize("histories", [10, pytest.param(100, marks=pytest.mark.long)])
def test_every_gateway_shows_the_room_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, histories: int
) -> None:
    proofs = 0
    for seed in range(histories):
        history = History(seed)
        run(history.play(), monkeypatch)
        proofs += history.proofs
    assert proofs > 50 * histories
