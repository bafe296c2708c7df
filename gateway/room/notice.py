"""What the answers of a room say beside the place: phase, opening, message, seats that are left."""

import time
from collections.abc import Callable

from pydantic_core import to_json

from gateway.responses import instant
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2

MAX_MESSAGE = 280
"""Characters of an operator's message; concert_service refuses longer ones."""

COUNT_SECONDS = 2.0
"""How old a number of seats may be."""

# How often a room that is polled says so.
_WANTED_SECONDS = 1.0

_PREFIX = "ROOM_PHASE_"
_PHASES: dict[int, bytes] = {
    number: b',"phase":"%b"' % name.removeprefix(_PREFIX).encode()
    for name, number in queue_pb2.RoomPhase.items()
    if number != queue_pb2.ROOM_PHASE_UNSPECIFIED
}
_SOLD_OUT = b',"phase":"SOLD_OUT"'
_BEFORE_OPENING = frozenset(
    {queue_pb2.ROOM_PHASE_NOT_OPEN, queue_pb2.ROOM_PHASE_GATHERING, queue_pb2.ROOM_PHASE_DRAWING}
)
# In these, people wait for seats. An operator who has closed a room has said so.
_SELLING = frozenset(
    {queue_pb2.ROOM_PHASE_OPEN, queue_pb2.ROOM_PHASE_BYPASSED, queue_pb2.ROOM_PHASE_PAUSED}
)


class Notice:
    """The members that an answer about an order has in this room, as JSON that is encoded once for
    each phase."""

    def __init__(self) -> None:
        self.on_wanted: Callable[[], None] = lambda: None
        """Called when somebody asks, at most once a second."""
        self.wanted_at = float("-inf")
        """When somebody asked, to a second, by time.monotonic()."""
        self.opens_at = ""
        """The opening, RFC 3339; empty if the room has none."""
        self._message = b""
        self._left: int | None = None
        self._is_sold_out = False
        self._counted_until = float("inf")
        # When something else than `_members` is to be looked at: a poll compares once.
        self._stands_until = float("-inf")
        self._members: dict[int, bytes] = {}

    def define(self, definition: rooms_pb2.Room | None) -> None:
        """Takes the definition of the room; None: it has none."""
        self.opens_at, self._message = "", b""
        if definition is not None:
            if definition.HasField("opens_at"):
                self.opens_at = instant(definition.opens_at)
            if definition.message:
                self._message = b',"message":%b' % to_json(definition.message[:MAX_MESSAGE])
        self._members = {}

    def count(self, left: int, for_sale: int, as_of: float) -> None:
        """Takes how many of so many seats are not sold, as of `as_of` by time.monotonic()."""
        rounded, is_sold_out = rounded_down(left), for_sale > 0 and left == 0
        if (rounded, is_sold_out) != (self._left, self._is_sold_out):
            self._left, self._is_sold_out = rounded, is_sold_out
            self._members = {}
        self._counted_until = as_of + COUNT_SECONDS
        self._stands_until = min(self._stands_until, self._counted_until)

    def members(self, phase: int) -> bytes:
        """Returns the members, each after a comma."""
        if time.monotonic() >= self._stands_until:
            self._look()
        members = self._members.get(phase)
        if members is None:
            members = self._members[phase] = self._encoded(phase)
        return members

    def _look(self) -> None:
        """Says that somebody asks, and forgets a number that is too old."""
        now = time.monotonic()
        if now >= self.wanted_at + _WANTED_SECONDS:
            self.wanted_at = now
            self.on_wanted()
        if now >= self._counted_until:
            self._left, self._is_sold_out, self._counted_until = None, False, float("inf")
            self._members = {}
        self._stands_until = min(self.wanted_at + _WANTED_SECONDS, self._counted_until)

    def _encoded(self, phase: int) -> bytes:
        is_sold_out = self._is_sold_out and phase in _SELLING
        # A queue_service of the version before names no phase.
        members = _SOLD_OUT if is_sold_out else _PHASES.get(phase, b"")
        if self.opens_at and phase in _BEFORE_OPENING:
            members += b',"opensAt":"%b"' % self.opens_at.encode()
        members += self._message
        if self._left is not None:
            members += b',"seatsLeft":%d' % self._left
        return members


def rounded_down(seats: int) -> int:
    """Returns the number with zeros behind its first two digits: 57, 120, 19000."""
    unit = 1
    while seats >= 100 * unit:
        unit *= 10
    return seats // unit * unit
