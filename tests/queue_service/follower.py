"""A copy of a room that is built from a snapshot and fed with the log."""

from collections.abc import AsyncIterator, Awaitable, Callable

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.ports import QueueStore
from room_view.view import RoomView

RULES = queue_pb2.RoomRules()


async def nothing() -> None:
    """Happens between two parts of a snapshot."""


class Follower:
    """Keeps `view` up to date."""

    def __init__(self, store: QueueStore, room: str) -> None:
        self.store = store
        self.room = room
        self.after_id = "0-0"

    async def start(self, meanwhile: Callable[[], Awaitable[None]] = nothing) -> RoomView:
        """Takes a snapshot, with `meanwhile` before each of its parts, and what completes it."""
        snapshot = await self.store.snapshot(self.room)
        self.after_id = snapshot.after_id
        self.view, complete_at_seq = await self._build(snapshot.parts, meanwhile)
        await self.catch_up()
        assert self.view.seq >= complete_at_seq
        return self.view

    async def _build(
        self,
        parts: AsyncIterator[queue_pb2.RoomSnapshot],
        meanwhile: Callable[[], Awaitable[None]],
    ) -> tuple[RoomView, int]:
        view: RoomView | None = None
        await meanwhile()
        async for part in parts:
            if part.is_first:
                view = RoomView(part.epoch, part.seq, RULES, part.fields)
            assert view is not None
            view.add(part)
            if part.is_last:
                return view, part.complete_at_seq
            await meanwhile()
        raise AssertionError("The snapshot has no last part.")

    async def catch_up(self) -> list[queue_pb2.RoomChanges]:
        """Applies all changes; returns them. Raises Gap if one is missing."""
        applied = []
        while found := await self.store.changes(self.room, self.after_id, 0):
            for self.after_id, changes in found:
                if self.view.apply(changes):
                    applied.append(changes)
        return applied
