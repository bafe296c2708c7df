"""Rooms with a definition: times, modes and a limit per minute, for the fake and the real store."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Definition, Mode
from queue_service.domain import Limits, Place, Refusal
from queue_service.errors import RoomIsDefined
from room_view.phase import phase_of
from room_view.position import PlaceState
from tests.queue_service.conftest import MakeRoom, RoomHandle, entries
from tests.queue_service.follower import Follower

ROOM = Definition(version=1, capacity=2, max_waiting=100)
STEP_MS = 150


async def now_of(room: RoomHandle) -> int:
    return (await room.tick()).now


async def define(room: RoomHandle, **changes: int) -> Definition:
    """Gives the room a definition whose times count from now, in ms."""
    now = await now_of(room)
    times = {name: now + value for name, value in changes.items() if name.endswith("_ms")}
    definition = replace(ROOM, **{**changes, **times})  # type: ignore[arg-type]
    room.store.define(room.room, definition)
    return definition


async def admitted_of(room: RoomHandle, places: Sequence[Place]) -> list[bool]:
    return [s.state is PlaceState.ADMITTED for s in await room.standings(places)]


async def test_a_room_gathers_and_opens(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, gather_from_ms=60_000, opens_at_ms=120_000)
    assert await room.try_enter(10) is Refusal.QUEUE_NOT_OPEN
    await define(room, version=2, gather_from_ms=-1, opens_at_ms=60_000)
    places = await room.enter(11, 12, 13)
    # Everybody's order is how many wait, and may grow.
    assert await room.orders(places) == [3, 3, 3]
    places += await room.enter(14)
    assert await room.orders(places) == [4, 4, 4, 4]
    seen = await room.tick()
    assert (seen.admitted, seen.waiting) == (0, 4)
    await define(room, version=3, gather_from_ms=-2, opens_at_ms=-1)
    seen = await room.tick()
    assert (seen.admitted, seen.waiting, seen.admissions) == (2, 2, 2)
    assert await room.orders(places) == [0, 0, 1, 2]
    # Later ones follow.
    assert await room.orders(await room.enter(15)) == [3]


async def test_a_tick_is_due_exactly_at_the_opening(make_room: MakeRoom) -> None:
    room = make_room()
    definition = await define(room, opens_at_ms=STEP_MS)
    await room.enter(11, 12, 13)
    while (seen := await room.tick()).now < definition.opens_at_ms:
        assert seen.admitted == 0
        assert seen.due_in == definition.opens_at_ms - seen.now
        await room.sleep(seen.due_in)
    assert seen.admitted == 2


async def test_nobody_is_admitted_before_the_opening_by_any_call(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await define(room, opens_at_ms=60_000, capacity=5)
    first, second = await room.enter(11, 12)
    await room.standings([first, second])
    await room.leave(second)
    seen = await room.store.heartbeat(room.room, [first], polled=True)
    assert (seen.admitted, seen.waiting) == (0, 1)


async def test_a_closed_room_admits_nobody(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, capacity=1, closes_at_ms=60_000)
    first, second = await room.enter(11, 12)
    await define(room, version=2, capacity=1, closes_at_ms=-1)
    assert await room.try_enter(13) is Refusal.QUEUE_PAUSED
    await room.leave(first)
    assert await room.orders([second]) == [1]


@pytest.mark.parametrize("mode", [Mode.PAUSED, Mode.DRAINING])
async def test_who_is_in_finishes_and_nobody_follows(make_room: MakeRoom, mode: Mode) -> None:
    room = make_room()
    await define(room, capacity=1)
    first, second = await room.enter(11, 12)
    await define(room, version=2, capacity=1, mode=mode)
    assert await room.try_enter(13) is Refusal.QUEUE_PAUSED
    assert await admitted_of(room, [first]) == [True]
    await room.leave(first)
    assert await room.orders([second]) == [1]
    # Reopened.
    await define(room, version=3, capacity=1)
    assert await room.orders([second]) == [0]


async def test_a_bypass_admits_everybody(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, capacity=0, max_waiting=400, opens_at_ms=60_000)
    places = await room.enter(*range(1, 251)) + await room.enter(*range(251, 401))
    await define(room, version=2, capacity=0, max_waiting=0, mode=Mode.BYPASSED)
    seen = await room.tick()
    assert seen.admitted >= 256  # a step of the real store
    await room.tick()
    assert all(await admitted_of(room, places[:200]))
    assert await room.orders(await room.enter(500)) == [0]
    # Over: nobody is evicted.
    await define(room, version=3, capacity=10)
    seen = await room.tick()
    assert (seen.admitted, seen.waiting) == (401, 0)


async def test_an_opening_is_postponed(make_room: MakeRoom) -> None:
    room = make_room()
    definition = await define(room, opens_at_ms=STEP_MS)
    await define(room, version=2, opens_at_ms=60_000)
    (place,) = await room.enter(11)
    while (seen := await room.tick()).now <= definition.opens_at_ms:
        await room.sleep(STEP_MS)
    assert seen.admitted == 0
    await define(room, version=3, opens_at_ms=-1)
    assert await room.orders([place]) == [0]


async def test_only_a_newer_definition_counts(make_room: MakeRoom) -> None:
    room = make_room()
    new = await define(room, version=3, capacity=3)
    await room.tick()
    other = room.at_new_replica()
    other.store.define(room.room, replace(new, version=2, capacity=2))
    seen = await other.tick()
    assert seen.defined is not None
    assert (seen.defined.definition, seen.limits.capacity) == (new, 3)
    # A replica that knows none has it, too.
    assert (await room.at_new_replica().tick()).defined == seen.defined


@pytest.mark.parametrize("when", ["gathering", "at the opening"])
async def test_the_phase_survives_the_loss_of_the_store(make_room: MakeRoom, when: str) -> None:
    room = make_room(capacity=5)
    opens_at = 60_000 if when == "gathering" else -1
    definition = await define(room, capacity=1, opens_at_ms=opens_at)
    places = await room.enter(11, 12)
    await room.forget()
    seen = await room.tick()
    assert seen.defined is not None
    assert seen.defined.definition == definition
    assert seen.limits == Limits(1, 100)
    phase = phase_of(seen.fields(), seen.now)
    if when == "gathering":
        assert phase == queue_pb2.ROOM_PHASE_GATHERING
        assert await room.orders(places) == [2, 2]
        await room.enter(13)
        assert (await room.tick()).admitted == 0
    else:
        assert phase == queue_pb2.ROOM_PHASE_OPEN
        assert await room.orders(places) == [1, 2]  # in the grace period


async def test_the_limits_of_a_definition_are_not_changed_otherwise(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, capacity=1)
    with pytest.raises(RoomIsDefined):
        await room.update(capacity=5)
    assert (await room.tick()).limits.capacity == 1
    # Nor by a replica that remembers other ones after a loss.
    memory = replace((await room.tick()).memory, limits=Limits(9, 9))
    await room.forget()
    await room.tick()
    room.store.remember(room.room, replace(memory, last=memory.last + 1))
    assert (await room.tick()).limits == Limits(1, 100)


async def test_copies_see_the_definition(make_room: MakeRoom) -> None:
    room = make_room()
    follower = Follower(room.store, room.room)
    view = await follower.start()
    assert view.fields.definition_version == 0
    await define(room, gather_from_ms=-1, opens_at_ms=60_000, admissions_per_minute=7)
    (place,) = await room.enter(11)
    seen = await room.tick()
    await follower.catch_up()
    assert view.fields == seen.fields()
    assert view.fields.admissions_per_minute == 7
    assert view.standing(place.number, 11, seen.now) == (await room.standings([place]))[0]
    assert (await Follower(room.store, room.room).start()).fields == view.fields


async def test_admissions_of_a_minute_are_spread_evenly(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, capacity=100, admissions_per_minute=1_200)  # one in 50 ms
    began = await now_of(room)
    seen, _ = await room.store.enter(room.room, entries(range(1, 51)))
    assert seen.admissions == 1
    for _ in range(6):
        seen = await room.tick()
        assert seen.due_in <= 50
        await room.sleep(seen.due_in + 4)  # the fake takes whole ms, four times
    seen = await room.tick()
    assert 6 <= seen.admitted <= 1 + (seen.now - began) // 50


async def test_two_replicas_share_the_admissions_of_a_minute(make_room: MakeRoom) -> None:
    room = make_room()
    definition = await define(room, capacity=100, admissions_per_minute=600)
    other = room.at_new_replica()
    other.store.define(room.room, definition)
    began = await now_of(room)
    for n in range(8):
        await asyncio.gather(room.enter(10 + n), other.enter(50 + n))
        await room.sleep(40)
    await asyncio.gather(room.tick(), other.tick())
    seen = await room.tick()
    assert 3 <= seen.admitted <= 1 + (seen.now - began) // 100


async def test_an_idle_minute_is_not_made_up_for(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, capacity=100, admissions_per_minute=600)
    await room.enter(1)
    await room.sleep(500)
    seen, _ = await room.store.enter(room.room, entries(range(2, 20)))
    assert seen.admissions == 1


async def test_what_was_not_admitted_before_the_opening_is_not_made_up_for(
    make_room: MakeRoom,
) -> None:
    room = make_room()
    await define(room, capacity=100, admissions_per_minute=600, opens_at_ms=60_000)
    await room.enter(*range(1, 31))
    await room.sleep(250)
    definition = await define(
        room, version=2, capacity=100, admissions_per_minute=600, opens_at_ms=1
    )
    await room.sleep(4)
    seen = await room.tick()
    assert 1 <= seen.admitted <= 1 + (seen.now - definition.opens_at_ms) // 100


async def test_a_removed_room_ends_with_its_places(make_room: MakeRoom) -> None:
    room = make_room()
    definition = await define(room, capacity=1)
    places = await room.enter(11, 12)
    assert (await room.store.definitions())[room.room] == definition
    await room.store.end_room(room.room, 1, None)
    assert room.room not in await room.store.definitions()
    # A replica that has not heard of it yet does not bring the room back.
    assert await room.orders(places) == [None, None]
    assert await room.try_enter(13) is Refusal.QUEUE_FULL
    # Defined again, it begins empty, and old tokens restore nothing.
    await define(room, version=2, capacity=1)
    assert await room.orders(places) == [None, None]
    assert await room.orders(await room.enter(14, 15)) == [0, 1]
    assert await room.orders(places) == [None, None]


async def test_a_newer_definition_is_not_removed(make_room: MakeRoom) -> None:
    room = make_room()
    await define(room, version=2, capacity=1)
    places = await room.enter(11, 12)
    await room.store.end_room(room.room, 1, None)
    assert await room.orders(places) == [0, 1]


async def test_a_room_of_the_settings_goes_on_by_them(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await define(room, capacity=1)
    places = await room.enter(11, 12)
    follower = Follower(room.store, room.room)
    await follower.start()
    room.store.undefine(room.room)
    await room.store.end_room(room.room, 1, Limits(2, 3))
    assert await room.orders(places) == [None, None]
    seen = await room.update(capacity=1)
    assert (seen.defined, seen.limits) == (None, Limits(1, 3))
    assert await room.orders(await room.enter(11, 12)) == [0, 1]
    view = await follower.start()
    assert view.fields == (await room.tick()).fields()
    assert len(view.line) == 1
