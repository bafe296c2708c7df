"""A store of rooms in memory."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from concert_service.rooms.ports import Part
from concert_service.rooms.rules import Decide, Found, StoredRoom
from servicekit.errors import InvalidRequest


class FakeRoomStore:
    """Implements concert_service.rooms.ports.RoomStore."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredRoom] = {}
        self.published: dict[str, tuple[int, ...]] = {}
        # Room and attempt → the numbers so far.
        self.parts: dict[tuple[str, str], list[Part]] = {}

    async def publish(self, concert_id: int, room: str) -> None:
        """A published concert needs this room."""
        self.published[room] = (*self.published.get(room, ()), concert_id)

    async def rooms(self) -> Sequence[StoredRoom]:
        return [self.stored[n] for n in sorted(self.stored) if not self.stored[n].is_removed]

    async def room(self, name: str) -> StoredRoom | None:
        return self.stored.get(name)

    async def change(self, name: str, decide: Decide) -> StoredRoom | None:
        before = self.stored.get(name)
        live = len(await self.rooms())
        after = decide(Found(before, live, self.published.get(name, ())))
        if after is None:
            return before
        if not after.cohort_attempt:
            self.parts = {key: parts for key, parts in self.parts.items() if key[0] != name}
        self.stored[name] = after
        return after

    async def put_part(
        self, name: str, part: Part, check: Callable[[StoredRoom | None], None]
    ) -> StoredRoom:
        room = self.stored.get(name)
        check(room)
        assert room is not None
        if room.cohort_sha256 is not None:
            return room
        parts = self.parts.setdefault((name, part.attempt), [])
        if all(part.offset != known.offset for known in parts):
            whole = b"".join(known.numbers for known in parts)
            if part.offset * 8 != len(whole):
                raise InvalidRequest("a gap")
            if part.numbers and whole and whole[-8:] >= part.numbers[:8]:
                raise InvalidRequest("not ascending")
            if part.numbers:
                parts.append(part)
        elif part not in [known._replace(is_last=part.is_last) for known in parts]:
            raise InvalidRequest("other numbers")
        if not part.is_last:
            return room
        whole = b"".join(known.numbers for known in parts)
        self.stored[name] = replace(
            room,
            version=room.version + 1,
            cohort_attempt=part.attempt,
            cohort_size=len(whole) // 8,
            cohort_sha256=hashlib.sha256(whole).digest(),
        )
        return self.stored[name]

    async def cohort_numbers(self, room: StoredRoom, offset: int) -> bytes:
        for part in reversed(self.parts.get((room.name, room.cohort_attempt), [])):
            if part.offset <= offset:
                return part.numbers[(offset - part.offset) * 8 :]
        return b""
