"""The log of changes of a room, for the fake and the real store."""

from collections.abc import AsyncIterator

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import Limits, RoomMemory
from queue_service.ports import Snapshot
from room_view.view import Admission, Gap, RoomView
from tests.queue_service.conftest import MakeRoom, RoomHandle

FIELDS = queue_pb2.RoomFields()
RULES = queue_pb2.RoomRules()


async def read(snapshot: Snapshot) -> tuple[RoomView, int]:
    """Builds a copy of a room; returns it with the change that completes it."""
    return await read_on(snapshot.parts, None)


async def read_on(
    parts: AsyncIterator[queue_pb2.RoomSnapshot], view: RoomView | None
) -> tuple[RoomView, int]:
    async for part in parts:
        if part.is_first:
            assert view is None
            view = RoomView(part.epoch, part.seq, RULES, part.fields, part.last)
        assert view is not None
        view.line.extend(part.waiting)
        for place in part.admitted:
            view.admitted[place.number] = Admission(
                place.user_id, place.admitted_until_ms, place.claimed
            )
        view.last = max(view.last, part.last)
        if part.is_last:
            return view, part.complete_at_seq
    raise AssertionError("a snapshot without a last part")


class Follower:
    """A copy of a room that is fed with its log."""

    def __init__(self, room: RoomHandle) -> None:
        self.room = room

    async def start(self) -> RoomView:
        snapshot = await self.room.store.snapshot(self.room.room)
        self.after_id = snapshot.after_id
        self.view, complete_at_seq = await read(snapshot)
        await self.catch_up()
        assert self.view.seq >= complete_at_seq
        return self.view

    async def catch_up(self) -> list[queue_pb2.RoomChanges]:
        """Applies all changes; returns them."""
        applied = []
        while found := await self.room.store.changes(self.room.room, self.after_id, 0):
            for self.after_id, changes in found:
                if self.view.apply(changes):
                    applied.append(changes)
        return applied


async def test_a_copy_follows_the_room(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    follower = Follower(room)
    view = await follower.start()
    first, second, third, fourth = await room.enter(11, 12, 13, 14)
    (changes,) = await follower.catch_up()
    assert changes.seq == view.seq
    assert view.order(third.number) == 1
    assert view.order(fourth.number) == 2
    assert {n: (a.user_id, a.claimed) for n, a in view.admitted.items()} == {
        first.number: (11, True),
        second.number: (12, True),
    }
    await room.leave(first)
    await follower.catch_up()
    assert view.order(fourth.number) == 1
    assert not view.admitted[third.number].claimed
    (standing,) = await room.standings([third])
    await follower.catch_up()
    assert view.admitted[third.number] == Admission(13, standing.admitted_until_ms, claimed=True)
    assert first.number not in view.admitted
    seen = await room.update(capacity=5, paused=True)
    await follower.catch_up()
    assert (view.epoch, view.seq, view.last) == (seen.epoch, seen.seq, seen.last)
    assert view.fields == seen.fields()
    assert view.fields.paused


async def test_what_changes_nothing_has_no_entry(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    places = await room.enter(11, 12)
    follower = Follower(room)
    seq = (await follower.start()).seq
    await room.enter(11, 12)
    await room.standings(places)
    await room.update(capacity=1)
    await room.tick()
    seen = await room.store.heartbeat(room.room, places)
    assert seen.seq == seq
    assert await follower.catch_up() == []


async def test_a_new_epoch_counts_anew(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    await room.enter(11, 12)
    follower = Follower(room)
    await follower.start()
    before = await room.tick()
    await room.forget()
    seen = await room.store.heartbeat(room.room, ())
    assert seen.epoch > before.epoch
    assert seen.seq == 1
    with pytest.raises(Gap):
        await follower.catch_up()
    assert (await follower.start()).epoch == seen.epoch


async def test_what_others_remember_counts(make_room: MakeRoom) -> None:
    """The first change of a replica that has just started, to a room that lost everything."""
    room = make_room(capacity=5, grace_ms=1_000)
    await room.update(capacity=1)
    await room.enter(11, 12)
    memory = (await room.tick()).memory
    await room.forget()
    new = room.at_new_replica()
    new.store.remember(room.room, memory)
    seen = await new.tick()
    assert seen.recovering
    assert seen.limits.capacity == 1
    assert seen.epoch > memory.last


async def test_a_guess_is_corrected_by_what_others_remember(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await room.update(capacity=1)
    await room.enter(11, 12)
    memory = (await room.tick()).memory
    await room.forget()
    new = room.at_new_replica()
    assert not (await new.tick()).recovering
    new.store.remember(room.room, memory)
    seen = await new.tick()
    assert seen.recovering
    assert seen.limits.capacity == 1


async def test_an_older_memory_changes_nothing(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await room.enter(11)
    old = (await room.tick()).memory
    seen = await room.update(capacity=3)
    room.store.remember(room.room, old)
    assert (await room.tick()).memory == seen.memory


async def test_a_later_memory_begins_an_epoch(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await room.enter(11)
    seen = await room.tick()
    room.store.remember(room.room, RoomMemory(seen.epoch, seen.seq + 1, seen.last, Limits(5, 100)))
    after = await room.tick()
    assert after.epoch > seen.epoch
    assert after.seq == 1
    assert (await room.tick()).epoch == after.epoch


async def test_a_reader_waits_for_a_change(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    after_id = (await room.store.snapshot(room.room)).after_id
    assert await room.store.changes(room.room, after_id, 20) != []  # the first one
    follower = Follower(room)
    await follower.start()
    assert await room.store.changes(room.room, follower.after_id, 20) == []
