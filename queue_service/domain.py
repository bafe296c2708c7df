"""Places, where they stand, and when their owners should poll. No I/O."""

import enum
from dataclasses import dataclass

from servicekit.errors import InvalidRequest, NotFound

MAX_ITEMS = 256
"""Items of one call. They take Redis about a millisecond, in which it serves no other call."""

MAX_USER_ID = 2**63 - 1
MAX_NUMBER = 2**53
"""Redis stores place numbers below this exactly."""

_NUMBERS_PER_MS = 4096
# The places near the front poll every 10 s or more often, whatever the longest pause is.
_NEAR = 100
_NEAR_POLL_MAX_MS = 10_000
# Behind them the pause grows by this for each place. While a line moves by less than 100 places per
# second, nobody pauses longer than the way to the front plus 9 s, although the pace of a line that
# has just begun to move is not known yet. All of them up to 60 s make 200 polls per second.
_FAR_POLL_MS_EACH = 10
_YEAR_2026 = 1_767_225_600_000


class TooManyItems(InvalidRequest):
    """One call asked for more than MAX_ITEMS."""


class MixedRooms(InvalidRequest):
    """The places of one call belong to several rooms."""


class BadLimit(InvalidRequest):
    """A limit of a room would be negative or too large for Redis to count exactly."""


class RoomNotFound(NotFound):
    """This service runs no room of that name."""

    code = "ROOM_NOT_FOUND"


class Refusal(enum.StrEnum):
    """Why a user got no place: a code per item, so that one item does not fail the others."""

    QUEUE_FULL = "QUEUE_FULL"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    INVALID_REQUEST = "INVALID_REQUEST"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    CHALLENGE_REQUIRED = "CHALLENGE_REQUIRED"
    NOT_YOURS = "NOT_YOURS"


@dataclass(frozen=True, slots=True)
class Entry:
    """A user who enters.

    A new place uses the allowance of `source` (empty: nobody's) and spends the solution of a
    challenge, if one was solved. `only_live_place`: one was required, but not solved. These matter
    only for a new place.

    `needs_proof`: a live place is handed out again only if it is `proven_place`, or if `attempt`
    (letters and digits; empty: none) is the attempt to enter that it was given to.
    """

    user_id: int
    source: str = ""
    solution: str = ""
    solution_expires_ms: int = 0
    only_live_place: bool = False
    needs_proof: bool = False
    proven_place: int = 0
    attempt: str = ""


class PlaceState(enum.Enum):
    """WAITING -> ADMITTED -> ENDED. A place may also end while it waits."""

    WAITING = 1
    ADMITTED = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A place in line. Its number is given to one user, once.

    `issued_at` is when the token that states it was issued, Unix time in seconds; 0: when the place
    was given.
    """

    room: str
    number: int
    user_id: int
    epoch: int
    issued_at: int = 0

    @property
    def given_at(self) -> int:
        """When it was given, Unix time in seconds; the number contains it."""
        return (self.number // _NUMBERS_PER_MS + _YEAR_2026) // 1000

    @property
    def possible(self) -> bool:
        """Whether a waiting room can have given this place."""
        return 0 < self.number < MAX_NUMBER and 0 < self.user_id <= MAX_USER_ID and self.epoch >= 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a place stands. `order` is its position in line while it waits, `admitted_until_ms`
    (Unix time) the end of its admission while it is admitted; otherwise they are 0."""

    state: PlaceState
    order: int = 0
    admitted_until_ms: int = 0


ENDED = Standing(PlaceState.ENDED)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that an operator sets at run time."""

    capacity: int
    max_waiting: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """A room at one instant. Times are Unix time in milliseconds by the clock of the store."""

    limits: Limits
    waiting: int
    admitted: int
    epoch: int
    now: int
    grace_until: int
    settled_at: int
    pace_at: int
    pace_now: int
    pace_before: int
    admissions: int
    """How many places the call that returned this room admitted."""

    @property
    def recovering(self) -> bool:
        """In the grace after a loss: no place that may stand behind a lost one is admitted."""
        return self.now < self.grace_until

    @property
    def settling(self) -> bool:
        """Whether lost places still return, so that orders may grow."""
        return self.now < self.settled_at


@dataclass(frozen=True, slots=True)
class Position:
    """A Standing with what else the fan sees; durations in milliseconds. `access_token` is a fresh
    token of the place, or empty."""

    standing: Standing
    poll_after_ms: int
    estimated_wait_ms: int
    recovering: bool
    access_token: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The times that the store uses, in milliseconds; `settings` explains them."""

    grace_ms: int
    claim_window_ms: int
    admission_ttl_ms: int
    absent_after_ms: int
    heal_within_ms: int
    entries_per_source: int = 0
    source_window_ms: int = 60_000

    @property
    def source_interval_ms(self) -> int:
        """The time that restores one place of a source's allowance; 0: no limit."""
        if not self.entries_per_source:
            return 0
        return max(1, self.source_window_ms // self.entries_per_source)

    @property
    def seen_resolution_ms(self) -> int:
        """A poll is recorded only if the last recorded one is older than this, so that most
        polls only read."""
        return min(5_000, self.absent_after_ms // 4)


@dataclass(frozen=True, slots=True)
class Pacing:
    """How often to poll and how long the wait may be, in milliseconds."""

    poll_min_ms: int
    poll_max_ms: int
    admission_ttl_ms: int

    def position(self, standing: Standing, room: Room) -> Position:
        """Returns a standing with the time of the next poll and the expected wait."""
        if standing.state is not PlaceState.WAITING:
            return Position(standing, self.poll_max_ms, 0, room.settling)
        wait = self._expected_wait(standing.order, room)
        # After half of the wait, so that a wrong estimate is corrected. The first hundred poll
        # often whatever the estimate, because a free slot idles until its owner polls; together
        # they make 25 to 30 polls per second.
        near = min(self.poll_min_ms + 100 * standing.order, _NEAR_POLL_MAX_MS)
        far = _FAR_POLL_MS_EACH * max(0, standing.order - _NEAR)
        poll = min(wait // 2, near + far, self.poll_max_ms)
        poll = max(self.poll_min_ms, poll - self._earlier(standing.order, poll))
        return Position(standing, poll, wait, room.settling)

    @staticmethod
    def _earlier(order: int, poll: int) -> int:
        # Fans who enter in the same second would otherwise always poll in the same second. So each
        # order polls up to a quarter earlier, and Knuth's multiplicative hash gives neighbours
        # different shares of it. Never later: grace and absence rely on poll_max.
        return poll // 4 * (order * 2_654_435_769 % 2**32) >> 32

    def _expected_wait(self, order: int, room: Room) -> int:
        # The recent pace, or at least that of a full shop in which every admission lasts its
        # whole time.
        window = 60_000 + max(0, room.now - room.pace_at)
        recent = (room.pace_before + room.pace_now) / window
        slowest = max(1, room.limits.capacity) / self.admission_ttl_ms
        return int(order / max(recent, slowest)) + max(0, room.grace_until - room.now)
