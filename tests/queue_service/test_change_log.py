"""The log of changes of a room, for the fake and the real store."""

import asyncio
from dataclasses import replace

import pytest

from queue_service import change_log, room_copy
from queue_service.change_log import STEP_PLACES
from queue_service.domain import Limits, RoomMemory
from room_view.view import Admission, Gap
from servicekit.errors import Unavailable
from tests.queue_service.conftest import MakeRoom
from tests.queue_service.follower import Follower


async def test_a_copy_follows_the_room(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    follower = Follower(room.store, room.room)
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


async def test_several_ends_and_those_who_follow_are_one_entry(make_room: MakeRoom) -> None:
    room = make_room(capacity=3)
    places = await room.enter(*range(11, 21))
    follower = Follower(room.store, room.room)
    view = await follower.start()
    # Two who shop, one in line, one of another user, and one who has ended by then.
    leaving = [places[0], places[2], places[5], replace(places[1], user_id=99), places[0]]
    seen = await room.store.leave_all(room.room, leaving)
    (changes,) = await follower.catch_up()
    assert changes.seq == seen.seq == view.seq
    assert set(view.admitted) == {places[n].number for n in (1, 3, 4)}
    assert [view.order(places[n].number) for n in (6, 7, 8, 9)] == [1, 2, 3, 4]
    assert (seen.admitted, seen.waiting) == (3, 4)


async def test_what_changes_nothing_has_no_entry(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    places = await room.enter(11, 12)
    follower = Follower(room.store, room.room)
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
    follower = Follower(room.store, room.room)
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


async def test_old_entries_are_deleted(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, log_ms=200)
    follower = Follower(room.store, room.room)
    await follower.start()
    for user in range(5):
        await room.enter(11 + user)
    await room.sleep(300)
    await room.enter(21)
    await room.tick()
    ((_, newest),) = await room.store.changes(room.room, "0", 0)
    assert newest.changes[0].number == (await room.enter(21))[0].number
    with pytest.raises(Gap):
        await follower.catch_up()


async def test_the_newest_entry_stays(make_room: MakeRoom) -> None:
    """So that a copy that has missed it notices it, even if nothing ever changes afterwards."""
    room = make_room(capacity=1, log_ms=100)
    follower = Follower(room.store, room.room)
    await follower.start()
    await room.enter(11, 12)
    await room.enter(13)
    await room.sleep(200)
    seen = await room.tick()
    ((_, newest),) = await room.store.changes(room.room, "0", 0)
    assert newest.seq == seen.seq
    with pytest.raises(Gap):
        await follower.catch_up()
    assert (await follower.start()).order((await room.enter(13))[0].number) == 2


async def test_a_log_is_bounded_by_its_bytes(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, max_waiting=1_000, log_bytes=2_000)
    for user in range(100):
        await room.enter(11 + user)
    seen = await room.tick()
    kept = await room.store.changes(room.room, "0", 0)
    assert 2 <= len(kept) <= 60
    assert [changes.seq for _, changes in kept] == list(
        range(seen.seq - len(kept) + 1, seen.seq + 1)
    )
    for user in range(111, 140):
        await room.enter(user)
        await room.tick()
        assert len(await room.store.changes(room.room, "0", 0)) <= 60


async def test_a_reader_waits_for_a_change(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    follower = Follower(room.store, room.room)
    await follower.start()
    assert await room.store.changes(room.room, follower.after_id, 20) == []
    reader = asyncio.create_task(room.store.changes(room.room, follower.after_id, 2_000))
    await asyncio.sleep(0.02)
    assert not reader.done()
    (place,) = await room.enter(11)
    ((_, changes),) = await reader
    assert [change.number for change in changes.changes] == [place.number]


async def test_a_snapshot_ends_with_its_epoch(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    await room.enter(11, 12)
    snapshot = await room.store.snapshot(room.room)
    await room.forget()
    with pytest.raises(Unavailable):
        [part async for part in snapshot.parts]


async def test_a_read_of_many_changes_is_taken_in_steps() -> None:
    entries = [
        (b"%d-0" % n, {b"e": b"7", b"s": b"%d" % n, b"t": b"0", b"c": b" ".join([b"E5"] * 256)})
        for n in range(1, 257)
    ]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(others())
    found = [(entry_id.decode(), c) async for entry_id, c in change_log.decode_all(entries)]
    running.cancel()
    assert [changes.seq for _, changes in found] == list(range(1, 257))
    assert turns >= 15
    steps = list(room_copy._steps(found))
    assert [entry for step in steps for entry in step] == found
    assert max(sum(len(c.changes) for _, c in step) for step in steps) <= STEP_PLACES + 256
