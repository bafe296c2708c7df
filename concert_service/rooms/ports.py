"""What rooms and draws need from their store."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from concert_service.rooms.rules import Decide, StoredRoom


class Part(NamedTuple):
    """A part of a cohort: numbers of 8 bytes each, big-endian, from the position `offset` on."""

    attempt: str
    offset: int
    numbers: bytes
    is_last: bool


class RoomStore(Protocol):
    """The store of rooms."""

    async def rooms(self) -> Sequence[StoredRoom]:
        """Lists the rooms that are not removed, by name."""

    async def room(self, name: str) -> StoredRoom | None:
        """Returns a room, also one that was removed."""

    async def change(self, name: str, decide: Decide) -> StoredRoom | None:
        """Stores what `decide` returns for this room, in one transaction and under a new version of
        the catalogue. Returns the room afterwards."""

    async def put_part(
        self, name: str, part: Part, check: Callable[[StoredRoom | None], None]
    ) -> StoredRoom:
        """Stores a part of a cohort and, after the last one, that the cohort is complete; nothing
        if it is already. `check` raises if the room takes none. Returns the room afterwards.
        Raises InvalidRequest for a part that does not continue the parts before it."""

    async def cohort_numbers(self, room: StoredRoom, offset: int) -> bytes:
        """Returns the numbers of the part of a complete cohort that has this position, from there
        on; nothing behind the end."""
