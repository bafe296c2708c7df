"""WatchRoom, as a gateway meets it: over gRPC, with the fake and the real store behind it."""

from queue_service.domain import Room
from room_view.view import RoomView
from tests.queue_service.conftest import MakeRoom
from tests.queue_service.watching import mirror, replica


def is_copy(view: RoomView | None, room: Room) -> bool:
    return (
        view is not None
        and (view.epoch, view.seq, view.last) == (room.epoch, room.seq, room.last)
        and (len(view.line), len(view.admitted)) == (room.waiting, room.admitted)
        and view.fields == room.fields()
    )


async def test_a_snapshot_then_every_change(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    first, second, third = await room.enter(1, 2, 3)
    async with replica(room.store, room.room) as service, mirror(service.address, room.room) as m:
        assert m.view is not None
        assert sorted(m.view.admitted) == [first.number, second.number]
        assert m.view.order(third.number) == 1
        (fourth,) = await room.enter(4)
        await room.leave(first)
        view = m.view
        await m.until(lambda: view.order(fourth.number) == 1)
        assert sorted(m.view.admitted) == [second.number, third.number]
        assert m.snapshots == 1
        await m.beat()
        assert is_copy(m.view, await room.tick())
