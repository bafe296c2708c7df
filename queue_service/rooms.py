"""The rooms that this replica runs: those of its settings, and those that the catalogue defines."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from protos.frontrow.concert.v1 import catalogue_pb2, rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Definition
from queue_service.domain import Limits
from queue_service.ports import QueueStore
from queue_service.room_copy import RoomCopy
from queue_service.service import QueueService
from queue_service.watchers import Watchers
from servicekit import logs
from servicekit.background import keep_running
from servicekit.errors import is_transient
from servicekit.retries import Outage

log = logs.get(__name__)

_RETRY_SECONDS = 0.5

UNHEARD_SECONDS = 5.0
"""How long a room goes on that the store has a definition of, and the first message of the
catalogue does not: another replica may have heard of it just now."""


class Draw(Protocol):
    """Runs the draw of a room, if its line is one."""

    def define(self, room: rooms_pb2.Room | None) -> None:
        """Takes the newest definition; None: it has none any more."""

    async def run(self) -> None:
        """Runs the draw until cancelled."""


class Rooms:
    """Begins and ends rooms while the service runs.

    At the start these are the rooms of the settings, which run by the settings until they are
    defined, and then those that the store has definitions of: so a replica starts with all rooms
    although concert_service is away. From then on the catalogue decides (`apply`). A room whose
    definition is removed ends with all its places; one of the settings begins anew, by them.

    `watchers` has the watchers of each room that runs.
    """

    def __init__(
        self,
        service: QueueService,
        store: QueueStore,
        names: Iterable[str],
        limits: Limits,
        rules: queue_pb2.RoomRules,
        tick_seconds: float,
        new_draw: Callable[[str], Draw],
    ) -> None:
        """`names` and `limits`: of the settings. `new_draw` makes what runs the draw of a room."""
        self.watchers: dict[str, Watchers] = {}
        self._service = service
        self._store = store
        self._names = frozenset(names)
        self._limits = limits
        self._rules = rules
        self._tick_seconds = tick_seconds
        self._new_draw = new_draw
        self._draws: dict[str, Draw] = {}
        self._definitions: dict[str, Definition] = {}
        self._messages: deque[catalogue_pb2.WatchCatalogueResponse] = deque()
        self._changed = asyncio.Event()
        self._heard = False
        self._unheard: set[str] = set()
        self._removal: asyncio.TimerHandle | None = None
        self._draining = False
        self._running: dict[Watchers, asyncio.Task[None]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        for name in sorted(self._names):
            self._open(name)

    def apply(self, message: catalogue_pb2.WatchCatalogueResponse) -> None:
        """Takes the next message of the catalogue: begins, changes and ends its rooms soon."""
        self._messages.append(message)
        self._changed.set()

    def end_streams(self) -> None:
        """Ends all watches, and each later one."""
        self._draining = True
        for watchers in self.watchers.values():
            watchers.end()

    async def run(self) -> None:
        """Runs all rooms until cancelled."""
        adopting = asyncio.create_task(self._adopt())
        try:
            while True:
                self._changed.clear()
                if adopting.done():
                    adopting.result()
                    while self._messages:
                        self._take(self._messages.popleft())
                await self._keep_tasks()
                await self._changed.wait()
        finally:
            if self._removal is not None:
                self._removal.cancel()
            tasks = [adopting, *self._running.values(), *self._ends]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running.clear()
            self._ends.clear()

    async def _adopt(self) -> None:
        """Takes the definitions that the store has, before the first message of the catalogue."""
        outage = Outage(log, "definitions_unavailable", "definitions_available")
        while True:
            try:
                stored = await self._store.definitions()
                break
            except Exception as error:
                if not is_transient(error):
                    raise
                outage.failed(error)
                await asyncio.sleep(_RETRY_SECONDS)
        outage.succeeded()
        for name, definition in stored.items():
            self._define(name, definition)
        self._unheard = set(stored)
        self._changed.set()

    def _take(self, message: catalogue_pb2.WatchCatalogueResponse) -> None:
        for room in message.rooms:
            self._unheard.discard(room.name)
            self._define(room.name, Definition.of(room))
            # The store may have had the definition, but it does not have the seed.
            self._draws[room.name].define(room)
        removed = set(message.removed_rooms)
        if message.reset:
            removed |= self._definitions.keys() - {room.name for room in message.rooms}
        if message.reset and not self._heard:
            self._heard = True
            if self._unheard:
                loop = asyncio.get_running_loop()
                self._removal = loop.call_later(UNHEARD_SECONDS, self._remove_unheard)
        for name in removed - self._unheard:
            self._remove(name)

    def _remove_unheard(self) -> None:
        for name in self._unheard:
            self._remove(name)
        self._unheard = set()
        self._changed.set()

    def _define(self, name: str, definition: Definition) -> None:
        known = self._definitions.get(name)
        if known and known.version >= definition.version:
            return
        if name not in self.watchers:
            self._open(name)
        self._definitions[name] = definition
        self._service.define_room(name, definition)
        log.info("room_defined", room=name, version=definition.version)

    def _open(self, name: str) -> None:
        self._service.open_room(name)
        watchers = Watchers(self._service, RoomCopy(self._store, name, self._rules), name)
        if self._draining:
            watchers.end()
        self.watchers[name] = watchers
        self._draws[name] = self._new_draw(name)

    def _remove(self, name: str) -> None:
        definition = self._definitions.pop(name, None)
        if definition is None:
            return
        log.info("room_removed", room=name, version=definition.version)
        if name in self._names:
            self._service.define_room(name, None)
            self._draws[name].define(None)
        else:
            self._service.close_room(name)
            del self._draws[name]
            self.watchers.pop(name).end()
        end = asyncio.create_task(self._end(name, definition.version))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    async def _end(self, name: str, version: int) -> None:
        """Ends the places of a room. Each replica does it when it has heard of it, because the ones
        that have not still call scripts with the definition."""
        outage = Outage(log, "room_not_ended", "room_ended", room=name)
        limits = self._limits if name in self._names else None
        while True:
            try:
                await self._store.end_room(name, version, limits)
                break
            except Exception as error:
                if not is_transient(error):
                    raise
                outage.failed(error)
                await asyncio.sleep(_RETRY_SECONDS)
        outage.succeeded()

    async def _keep_tasks(self) -> None:
        """Begins the tasks of rooms that have none, and ends those of rooms that have ended."""
        wanted = {watchers: name for name, watchers in self.watchers.items()}
        for watchers, name in wanted.items():
            if watchers not in self._running:
                self._running[watchers] = asyncio.create_task(self._run_room(name, watchers))
        over = [self._running.pop(w) for w in list(self._running) if w not in wanted]
        for task in over:
            task.cancel()
        await asyncio.gather(*over, return_exceptions=True)

    async def _run_room(self, name: str, watchers: Watchers) -> None:
        async with asyncio.TaskGroup() as group:
            tick = partial(self._service.keep_ticking, name, self._tick_seconds)
            group.create_task(keep_running(f"tick {name}", tick))
            group.create_task(keep_running(f"copy {name}", watchers.run))
            group.create_task(keep_running(f"draw {name}", self._draws[name].run))
