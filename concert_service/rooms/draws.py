"""The use cases of draws: keeping the list of those who are drawn, and what the public may know."""

import sys
from array import array
from collections.abc import Callable, Sequence
from operator import ge

from concert_service.rooms.errors import DrawNotClosed, RoomNotFound
from concert_service.rooms.ports import Part, RoomStore
from concert_service.rooms.repository import NUMBER_BYTES
from concert_service.rooms.rules import LAST_MOMENT_MS, StoredRoom, has_opened, milliseconds
from concert_service.rooms.service import now_ms
from servicekit.errors import InvalidRequest

MAX_NUMBERS = 100_000
"""Of one part of a cohort: 0.8 MB, while gRPC's limit of a message is 4 MB."""

MAX_ATTEMPT = 64


class DrawService:
    """Keeps cohorts in the store. `clock` returns the Unix time in milliseconds."""

    def __init__(self, store: RoomStore, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._clock = clock

    async def put_cohort(
        self, name: str, attempt: str, offset: int, numbers: Sequence[int], is_last: bool
    ) -> StoredRoom:
        """Stores a part of a cohort; returns the room, whose cohort is complete after the last part
        of anybody. A repeated part is a no-op. Raises InvalidRequest, RoomNotFound and
        DrawNotClosed (before gathering closes, two seconds for clocks that differ)."""
        if not (0 < len(attempt) <= MAX_ATTEMPT and attempt.isascii() and attempt.isprintable()):
            raise InvalidRequest(f"attempt must be 1 to {MAX_ATTEMPT} printable characters.")
        if offset < 0 or len(numbers) > MAX_NUMBERS:
            raise InvalidRequest(f"A part has at most {MAX_NUMBERS} numbers, from 0 on.")
        if any(map(ge, numbers, numbers[1:])):
            raise InvalidRequest("The numbers of a cohort ascend.")
        now = self._clock()

        def check(room: StoredRoom | None) -> None:
            if room is None or room.is_removed:
                raise RoomNotFound
            if not room.is_draw:
                raise InvalidRequest("The line of this room is no draw.")
            until = milliseconds(room.definition, "gather_until")
            assert until is not None
            if now + LAST_MOMENT_MS < until:
                raise DrawNotClosed

        part = Part(attempt, offset, pack_numbers(numbers), is_last)
        return await self._store.put_part(name, part, check)

    async def get_cohort(self, name: str, offset: int) -> tuple[Sequence[int], StoredRoom]:
        """Returns at most 100,000 numbers of a complete cohort from the position `offset` on, and
        the room. Raises InvalidRequest, RoomNotFound and DrawNotClosed."""
        if offset < 0:
            raise InvalidRequest("offset must not be below 0.")
        room = await self.get_draw(name)
        if room.cohort_sha256 is None:
            raise DrawNotClosed
        return unpack_numbers(await self._store.cohort_numbers(room, offset)), room

    async def get_draw(self, name: str) -> StoredRoom:
        """Returns a room whose line is a draw. Raises RoomNotFound."""
        room = await self._store.room(name)
        if room is None or room.is_removed or not room.is_draw:
            raise RoomNotFound("There is no such room, or its line is no draw.")
        return room

    def public_seed(self, room: StoredRoom) -> bytes:
        """Returns the seed once nothing that the order depends on can change any more: after the
        opening, with the list and, if a source of one is announced, the public value. Empty
        before."""
        fixed = room.cohort_sha256 is not None and (
            bool(room.public_value) or not room.definition.public_value_source
        )
        if room.seed is None or not fixed or not has_opened(room.definition, self._clock()):
            return b""
        return room.seed


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Returns the numbers as 8 bytes each, big-endian."""
    packed = array("Q", numbers)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def unpack_numbers(packed: bytes) -> Sequence[int]:
    """Reverses `pack_numbers`."""
    numbers = array("Q", packed)
    assert numbers.itemsize == NUMBER_BYTES
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
