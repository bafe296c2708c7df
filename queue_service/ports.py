"""What queue_service needs from its store."""

from collections.abc import Sequence
from typing import Protocol

from queue_service.domain import Entry, HandBack, HandBackReply, Place, Refusal, Room
from room_view.position import Standing


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
        """Changes the limits that are not None."""

    async def tick(self, room: str) -> Room:
        """Changes nothing but what is due."""

    async def hand_back(self, room: str, hand_back: HandBack) -> tuple[Room, HandBackReply]:
        """Takes back the ends, and the lives if this copy is the one that has come furthest. At
        most MAX_ITEMS places with numbers and users in range. No place that has ended lives again,
        and no more are admitted than the capacity."""
