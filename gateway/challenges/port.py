"""What the check at entry needs from a kind of challenge."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Solved(NamedTuple):
    """A right solution: what makes it unique, and from when on it is rejected anyway (Unix time in
    milliseconds)."""

    id: str
    expires_ms: int


class Challenge(Protocol):
    """A kind of challenge."""

    def new(self, user_id: int, room: str) -> Mapping[str, object]:
        """Returns what this user must solve to enter this room, as JSON."""

    async def verify(
        self, solution: str, user_id: int, room: str, address: str | None
    ) -> Solved | None:
        """Returns None for a wrong or expired solution, and for one for another user or room.
        `address` is the client's, if known.

        Raises Unavailable if the solution cannot be verified now."""
