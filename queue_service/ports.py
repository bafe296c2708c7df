"""What queue_service needs from its store."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Definition
from queue_service.domain import (
    Entry,
    HandBack,
    HandBackReply,
    Limits,
    Place,
    Refusal,
    Room,
    RoomMemory,
)
from room_view.draw import Draw
from room_view.position import Standing

MAX_BLOCK_MS = 2_000
"""The longest time that `QueueStore.changes` waits: also how long a connection that is dead without
a sign stays unnoticed, beside the time-out of one command."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a room, in parts. The changes after `after_id` complete it."""

    after_id: str
    parts: AsyncIterator[queue_pb2.RoomSnapshot]


class QueueStore(Protocol):
    """The store of rooms, shared by all replicas.

    Every method is idempotent, first expires and admits what is due, and returns the room as it
    is then. All raise Unavailable while the store is unavailable.
    """

    async def enter(
        self, room: str, entries: Sequence[Entry]
    ) -> tuple[Room, list[tuple[Place, Standing] | Refusal]]:
        """Gives each user a place, or returns the one it has. At most MAX_ITEMS positive ids.

        Only a new place uses an allowance or spends a solution."""

    async def positions(self, room: str, places: Sequence[Place]) -> tuple[Room, list[Standing]]:
        """Returns where each place stands; at most MAX_ITEMS `possible` places of this room.
        Starts the admission of a place that was just admitted, and restores lost places whose token
        was issued within the time of the rules."""

    async def leave(self, room: str, number: int, user_id: int, epoch: int) -> Room:
        """Ends a `possible` place, and an older one of which it proves that it had ended. No-op for
        a place of another user. `epoch` is 0 if it is unknown."""

    async def leave_all(self, room: str, places: Sequence[Place]) -> Room:
        """Does what `leave` does for at most MAX_ITEMS places."""

    async def update(
        self, room: str, *, capacity: int | None, max_waiting: int | None, paused: bool | None
    ) -> Room:
        """Changes the limits that are not None. Raises RoomIsDefined."""

    async def tick(self, room: str) -> Room:
        """Changes nothing but what is due."""

    async def hand_back(self, room: str, hand_back: HandBack) -> tuple[Room, HandBackReply]:
        """Takes back the ends, and the lives if this copy is the one that has come furthest. At
        most MAX_ITEMS places with numbers and users in range. No place that has ended lives again,
        and no more are admitted than the capacity."""

    async def heartbeat(self, room: str, seen: Sequence[Place], *, polled: bool = False) -> Room:
        """Notes that the owners of at most MAX_ITEMS `possible` places have polled, and were
        answered without the store; `polled`: that somebody has, perhaps none of them. A room that
        hears of no poll takes the connection for broken, and admits nobody.

        A copy that has change `seq` of the result is as new as this call. A store that was replaced
        by another one raises Unavailable."""

    async def snapshot(self, room: str) -> Snapshot:
        """Reads a room while it changes. The copy is right once it has all changes up to
        `complete_at_seq` of the last part. `rules` is empty. The parts raise Unavailable, too, also
        if the room begins a new epoch meanwhile; one at a time is read, when it is asked for."""

    async def changes(
        self, room: str, after_id: str, block_ms: int
    ) -> list[tuple[str, queue_pb2.RoomChanges]]:
        """Returns the next changes after an id of the log, each with its id, the oldest first. If
        there are none, waits for one at most `block_ms`, which is at most MAX_BLOCK_MS.

        Ids order the log and prove nothing: entries may have been deleted, and the store may have
        lost some. `RoomView.apply` notices."""

    def define(self, room: str, definition: Definition) -> None:
        """Lets the next calls bring this definition of a room: it applies if it is newer than the
        one that the store has, and after the store has lost that."""

    def undefine(self, room: str) -> None:
        """Forgets the definition and what was remembered of a room."""

    async def definitions(self) -> dict[str, Definition]:
        """Returns the rooms of which the store has a definition."""

    async def has(self, room: str) -> bool:
        """Returns whether the store knows the room."""

    async def end_room(self, room: str, version: int, limits: Limits | None) -> None:
        """Ends all places of a room whose definition was removed, in one step. No-op if the store
        has a definition that is newer than `version`, or none. The room goes on with these limits;
        None: it does not, and gives no places until it is defined again."""

    def remember(self, room: str, memory: RoomMemory) -> None:
        """Takes note of what others have seen of a room, for the next calls: a store that has less
        than that begins a new epoch, with these limits if it has lost them."""


class DrawStore(Protocol):
    """What a draw needs of the store of rooms, beside what others do with it. Like `QueueStore`."""

    async def tick(self, room: str) -> Room:
        """See QueueStore."""

    def use_draw(self, room: str, draw: Draw | None) -> None:
        """Lets the next calls bring the ranks of a draw, so that a place that was lost returns at
        its rank. Without it, `positions` and `hand_back` raise Unavailable for such a place once
        ranks have been given."""

    async def give_ranks(self, room: str, first: int, numbers: Sequence[int]) -> Room:
        """Gives these places the ranks from `first` on, as far as they wait. Needs the draw. At
        most STEP places; those before have their ranks, or nothing happens. Admits nobody: the next
        tick does. No place without a rank is admitted until all have theirs."""

    async def lease(self, room: str, holder: str, lease_ms: int) -> bool:
        """Returns whether nobody else has held the draw of a room within the last `lease_ms`. It
        spares work, and nothing depends on it."""

    async def gathered(self, room: str, above: int, last: int) -> Sequence[int]:
        """Returns the numbers of the next places that wait and have no rank, above one and up to
        another number, ascending; none if there are no more. Reads only."""
