"""Places, where they stand, and when to ask again. No I/O."""

import enum
from dataclasses import dataclass

from servicekit.errors import InvalidRequest, NotFound

MAX_ITEMS = 256
"""Items of one call: about a millisecond of Redis, which serves nobody else meanwhile."""

MAX_USER_ID = 2**63 - 1
MAX_NUMBER = 2**53
"""Place numbers are exact in Redis up to here."""

_NUMBERS_PER_MS = 4096
_YEAR_2026 = 1_767_225_600_000


class TooManyItems(InvalidRequest):
    """One call asked for more than MAX_ITEMS."""


class MixedRooms(InvalidRequest):
    """The places of one call are of several rooms."""


class BadLimit(InvalidRequest):
    """A limit of a room would be below zero or beyond what Redis counts exactly."""


class RoomNotFound(NotFound):
    """No such room is run here."""

    code = "ROOM_NOT_FOUND"


class Refusal(enum.StrEnum):
    """Why a user got no place; a code per item, since one never spoils the others."""

    QUEUE_FULL = "QUEUE_FULL"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    INVALID_REQUEST = "INVALID_REQUEST"


class PlaceState(enum.Enum):
    WAITING = 1
    ADMITTED = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A place in line: given once, to one user, and never again."""

    room: str
    number: int
    user_id: int
    epoch: int

    @property
    def given_at(self) -> int:
        """When it was given, Unix time in seconds: the number begins with it."""
        return (self.number // _NUMBERS_PER_MS + _YEAR_2026) // 1000

    @property
    def possible(self) -> bool:
        """False for what no waiting room has ever given."""
        return 0 < self.number < MAX_NUMBER and 0 < self.user_id <= MAX_USER_ID and self.epoch >= 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the store sees a place. `order` counts while waiting, `admitted_until_ms` (Unix
    time) while admitted; otherwise they are 0."""

    state: PlaceState
    order: int = 0
    admitted_until_ms: int = 0


ENDED = Standing(PlaceState.ENDED)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator sets at run time."""

    capacity: int
    max_waiting: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """A room at one instant. Times are Unix time in milliseconds, of the store's clock."""

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
    """How many the call that saw this admitted."""

    @property
    def recovering(self) -> bool:
        """In the grace after a loss: nobody is admitted who may stand behind a lost place."""
        return self.now < self.grace_until

    @property
    def settling(self) -> bool:
        """Places still come back after a loss, so that orders may grow."""
        return self.now < self.settled_at


@dataclass(frozen=True, slots=True)
class Position:
    """A Standing with what the fan is told beside it; durations in milliseconds."""

    standing: Standing
    poll_after_ms: int
    estimated_wait_ms: int
    recovering: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """The times that the store goes by, in milliseconds; what they mean is in `settings`."""

    grace_ms: int
    claim_window_ms: int
    admission_ttl_ms: int
    absent_after_ms: int
    heal_within_ms: int

    @property
    def seen_resolution_ms(self) -> int:
        """A sign of life is written down only if the last one is older than this, so that a poll
        mostly reads."""
        return min(5_000, self.absent_after_ms // 4)


@dataclass(frozen=True, slots=True)
class Pacing:
    """How often to ask and how long it may take; in milliseconds."""

    poll_min_ms: int
    poll_max_ms: int
    admission_ttl_ms: int

    def position(self, standing: Standing, room: Room) -> Position:
        """Where somebody stands, and when it is worth asking again."""
        if standing.state is not PlaceState.WAITING:
            return Position(standing, self.poll_max_ms, 0, room.settling)
        wait = self._expected_wait(standing.order, room)
        # Half-way, so that an estimate that is off is noticed; and the first hundred often
        # whatever the estimate, since a free slot idles until its owner asks. Those hundred are
        # 25 to 30 polls a second together.
        poll = min(wait // 2, self.poll_min_ms + 100 * standing.order, self.poll_max_ms)
        poll = max(self.poll_min_ms, poll - self._earlier(standing.order, poll))
        return Position(standing, poll, wait, room.settling)

    @staticmethod
    def _earlier(order: int, poll: int) -> int:
        # Who came in the same second and was told the same would ask in the same second for ever.
        # Up to a quarter earlier, another part of it for each order: Knuth's multiplicative hash
        # sends neighbours far apart. Never later: grace and absence count on poll_max.
        return poll // 4 * (order * 2_654_435_769 % 2**32) >> 32

    def _expected_wait(self, order: int, room: Room) -> int:
        # The recent pace; or that of a full shop where everybody takes all the time there is.
        window = 60_000 + max(0, room.now - room.pace_at)
        recent = (room.pace_before + room.pace_now) / window
        slowest = max(1, room.limits.capacity) / self.admission_ttl_ms
        return int(order / max(recent, slowest)) + max(0, room.grace_until - room.now)
