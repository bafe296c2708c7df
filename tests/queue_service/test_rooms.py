"""Rooms begin, change and end while the service runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from protos.frontrow.concert.v1 import catalogue_pb2, rooms_pb2
from queue_service import rooms as rooms_module
from queue_service.definition import Definition, Mode
from queue_service.domain import Limits, Place, Refusal
from queue_service.errors import RoomNotFound
from queue_service.rooms import Rooms
from queue_service.service import Entered, QueueService
from queue_service.tokens import Signer
from room_view.position import Pacing, PlaceState
from servicekit.errors import Unavailable
from tests import cancelling
from tests.queue_service.conftest import entries
from tests.queue_service.watching import RULES, Store

Message = catalogue_pb2.WatchCatalogueResponse


def room(
    name: str,
    version: int = 1,
    capacity: int = 1,
    mode: rooms_pb2.RoomMode.ValueType = rooms_pb2.ROOM_MODE_NORMAL,
) -> rooms_pb2.Room:
    return rooms_pb2.Room(name=name, version=version, capacity=capacity, max_waiting=10, mode=mode)


def started(*defined: rooms_pb2.Room) -> Message:
    """The first message of the catalogue."""
    return Message(version=1, reset=True, rooms=defined)


class Draw:
    """Notes what the draw of a room is told."""

    def __init__(self) -> None:
        self.definitions: list[rooms_pb2.Room | None] = []
        self.runs = False

    def define(self, room: rooms_pb2.Room | None) -> None:
        self.definitions.append(room)

    async def run(self) -> None:
        self.runs = True
        try:
            await asyncio.Event().wait()
        finally:
            self.runs = False


class Replica:
    """A replica with the room `main` of the settings."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.service = QueueService(store, Signer("k1", "0" * 32), Pacing(RULES), [])
        self.draws: dict[str, Draw] = {}
        self.rooms = Rooms(
            self.service, store, ["main"], Limits(5, 50), RULES, 0.01, self._new_draw
        )

    def _new_draw(self, name: str) -> Draw:
        self.draws[name] = Draw()
        return self.draws[name]

    @asynccontextmanager
    async def running(self, *messages: Message) -> AsyncIterator[None]:
        task = asyncio.create_task(self.rooms.run())
        for message in messages:
            self.rooms.apply(message)
        try:
            yield
        finally:
            await cancelling.end(task)

    async def enter(self, name: str, *users: int) -> list[Place]:
        places = []
        for answer in await self.service.enter_queue(name, entries(users)):
            assert isinstance(answer, Entered), answer
            places.append(answer.place)
        return places

    async def states(self, places: Sequence[Place]) -> list[PlaceState]:
        positions = await self.service.get_positions(places)
        return [position.standing.state for position in positions.places]

    async def runs(self, name: str, version: int) -> None:
        """Returns once the store knows the definition."""
        await until(lambda: self.stored(name) == version)

    def stored(self, name: str) -> int:
        state = self.store.copy_rooms().get(name)
        return state.defined.definition.version if state and state.defined else 0


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def store() -> Store:
    return Store(capacity=5)


@pytest.fixture
def replica(store: Store) -> Replica:
    return Replica(store)


async def test_the_rooms_of_the_settings_run_without_a_catalogue(replica: Replica) -> None:
    assert list(replica.rooms.watchers) == ["main"]
    async with replica.running():
        assert await replica.states(await replica.enter("main", 1)) == [PlaceState.ADMITTED]
        with pytest.raises(RoomNotFound):
            await replica.enter("hamlet", 1)


async def test_a_room_begins_changes_and_ends(replica: Replica) -> None:
    async with replica.running(started(room("hamlet"))):
        await replica.runs("hamlet", 1)
        places = await replica.enter("hamlet", 1, 2)
        assert await replica.states(places) == [PlaceState.ADMITTED, PlaceState.WAITING]
        # Without a call of anybody: the change comes at once.
        replica.rooms.apply(Message(version=2, rooms=[room("hamlet", 2, capacity=2)]))
        await until(lambda: len(replica.store.copy_rooms()["hamlet"].admitted) == 2)
        watchers = replica.rooms.watchers["hamlet"]
        replica.rooms.apply(Message(version=3, removed_rooms=["hamlet"]))
        await until(lambda: not replica.store.copy_rooms()["hamlet"].live)
        assert watchers.draining
        assert list(replica.rooms.watchers) == ["main"]
        with pytest.raises(RoomNotFound):
            await replica.states(places)
        # Again, under the same name.
        replica.rooms.apply(Message(version=4, rooms=[room("hamlet", 3)]))
        await replica.runs("hamlet", 3)
        assert await replica.states(places) == [PlaceState.ENDED, PlaceState.ENDED]
        assert await replica.states(await replica.enter("hamlet", 3)) == [PlaceState.ADMITTED]
        assert replica.rooms.watchers["hamlet"] is not watchers


async def test_main_is_defined_and_runs_by_the_settings_again(replica: Replica) -> None:
    async with replica.running(started(room("main", 4))):
        await replica.runs("main", 4)
        assert (await replica.service.get_room("main")).limits == Limits(1, 10)
        replica.rooms.apply(Message(version=2, removed_rooms=["main"]))
        await until(lambda: replica.stored("main") == 0)
        assert (await replica.service.get_room("main")).limits == Limits(5, 50)
        assert (await replica.service.update_room("main", capacity=7)).limits.capacity == 7


async def test_an_older_definition_changes_nothing(replica: Replica) -> None:
    async with replica.running(started(room("hamlet", 3, capacity=3))):
        await replica.runs("hamlet", 3)
        replica.rooms.apply(Message(version=2, rooms=[room("hamlet", 2, capacity=2)]))
        replica.rooms.apply(Message(version=3, rooms=[room("other")]))
        await replica.runs("other", 1)
        assert replica.stored("hamlet") == 3


async def test_two_rooms_do_not_disturb_each_other(replica: Replica) -> None:
    """One user waits in both; each ends, closes and is removed alone."""
    async with replica.running(started(room("a"), room("b"))):
        await replica.runs("a", 1)
        await replica.runs("b", 1)
        in_a, in_b = await replica.enter("a", 1, 2), await replica.enter("b", 1, 2)
        await replica.service.end_places("a", in_a[:1])
        assert await replica.states(in_a) == [PlaceState.ENDED, PlaceState.ADMITTED]
        assert await replica.states(in_b) == [PlaceState.ADMITTED, PlaceState.WAITING]
        paused = room("a", 2, mode=rooms_pb2.ROOM_MODE_PAUSED)
        replica.rooms.apply(Message(version=2, rooms=[paused]))
        await replica.runs("a", 2)
        assert await replica.service.enter_queue("a", entries([3])) == [Refusal.QUEUE_PAUSED]
        in_b += await replica.enter("b", 3)
        replica.rooms.apply(Message(version=3, removed_rooms=["a"]))
        await until(lambda: replica.stored("a") == 0)
        assert await replica.states(in_b) == [
            PlaceState.ADMITTED, PlaceState.WAITING, PlaceState.WAITING
        ]  # fmt: skip
        await replica.service.end_places("b", in_b[:1])
        assert (await replica.states(in_b))[1] is PlaceState.ADMITTED


async def test_a_replica_begins_with_the_rooms_of_the_store(replica: Replica) -> None:
    """concert_service does not answer, and another replica has heard of the room before."""
    replica.store.define("hamlet", Definition(2, 1, 10, mode=Mode.BYPASSED))
    await replica.store.tick("hamlet")
    new = Replica(replica.store.new_replica())
    async with new.running():
        await until(lambda: "hamlet" in new.rooms.watchers)
        new.store.forget()
        await new.enter("hamlet", 1, 2, 3)
        assert new.stored("hamlet") == 2


@pytest.mark.parametrize("heard_later", [True, False])
async def test_rooms_that_were_removed_meanwhile_end(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, heard_later: bool
) -> None:
    monkeypatch.setattr(rooms_module, "UNHEARD_SECONDS", 0.05)
    replica.store.define("hamlet", Definition(2, 1, 10))
    await replica.store.tick("hamlet")
    new = Replica(replica.store.new_replica())
    async with new.running(started()):
        await until(lambda: "hamlet" in new.rooms.watchers)
        if heard_later:  # it was defined just after the first message
            new.rooms.apply(Message(version=2, rooms=[room("hamlet", 2)]))
            await asyncio.sleep(0.1)
            assert new.stored("hamlet") == 2
        else:
            await until(lambda: new.stored("hamlet") == 0)
            assert "hamlet" not in new.rooms.watchers


async def test_a_reset_ends_rooms_that_it_does_not_have(replica: Replica) -> None:
    async with replica.running(started(room("a"), room("b"))):
        await replica.runs("a", 1)
        await replica.runs("b", 1)
        replica.rooms.apply(started(room("b")))
        await until(lambda: replica.stored("a") == 0)
        assert sorted(replica.rooms.watchers) == ["b", "main"]
        assert replica.stored("b") == 1


async def test_rooms_are_defined_and_end_once_the_store_is_back(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms_module, "_RETRY_SECONDS", 0.01)
    replica.store.unavailable = Unavailable("Redis is down.")
    async with replica.running(started(room("hamlet"))):
        await asyncio.sleep(0.05)
        replica.store.unavailable = None
        await replica.runs("hamlet", 1)
        replica.store.unavailable = Unavailable("Redis is down.")
        replica.rooms.apply(Message(version=2, removed_rooms=["hamlet"]))
        await asyncio.sleep(0.05)
        replica.store.unavailable = None
        await until(lambda: replica.stored("hamlet") == 0)


async def test_a_drain_ends_the_watches_of_new_rooms_too(replica: Replica) -> None:
    async with replica.running(started()):
        replica.rooms.end_streams()
        replica.rooms.apply(Message(version=2, rooms=[room("hamlet")]))
        await replica.runs("hamlet", 1)
        assert all(watchers.draining for watchers in replica.rooms.watchers.values())


async def test_a_payment_ends_the_admission_of_any_room(replica: Replica) -> None:
    """The replica that gets the event may not have heard of the room."""
    replica.store.define("hamlet", Definition(1, 1, 10))
    other = Replica(replica.store.new_replica())
    async with replica.running(started(room("hamlet"))):
        await replica.runs("hamlet", 1)
        places = await replica.enter("hamlet", 1, 2)
        await other.service.end_admissions("hamlet", places[:1])
        assert await replica.states(places) == [PlaceState.ENDED, PlaceState.ADMITTED]
    await other.service.end_admissions("unknown", places)
    assert "unknown" not in replica.store.copy_rooms()


async def test_the_draw_of_a_room_runs_with_it_and_takes_each_definition(replica: Replica) -> None:
    main, hamlet, changed = room("main"), room("hamlet"), room("main", version=2)
    async with replica.running(started(main, hamlet)):
        await replica.runs("hamlet", 1)
        assert [replica.draws[name].definitions for name in ("main", "hamlet")] == [
            [main],
            [hamlet],
        ]
        gone = replica.draws["hamlet"]
        await until(lambda: replica.draws["main"].runs and gone.runs)
        replica.rooms.apply(Message(version=2, rooms=[changed]))
        replica.rooms.apply(Message(version=3, removed_rooms=["main", "hamlet"]))
        await until(lambda: not gone.runs)
        assert replica.draws["main"].definitions == [main, changed, None]
        assert replica.draws["main"].runs
    assert not replica.draws["main"].runs


async def test_the_draw_takes_a_definition_that_the_store_has_too(replica: Replica) -> None:
    async with replica.running(started(room("hamlet"))):
        await replica.runs("hamlet", 1)
    new = Replica(replica.store)
    async with new.running():
        await until(lambda: "hamlet" in new.rooms.watchers)
        assert new.draws["hamlet"].definitions == []
        new.rooms.apply(started(room("hamlet")))
        await until(lambda: new.draws["hamlet"].definitions == [room("hamlet")])
