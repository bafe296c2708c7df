"""Places, rooms, and what they refuse. No I/O."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Defined
from room_view.position import given_at_ms

MAX_USER_ID = 2**63 - 1
MAX_NUMBER = 2**53
"""Redis stores place numbers below this exactly."""

MAX_NAME = 64
"""Characters of the name of a copy of a room."""


class Refusal(enum.StrEnum):
    """Why a user got no place: a code per item, so that one item does not fail the others."""

    QUEUE_FULL = "QUEUE_FULL"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    QUEUE_NOT_OPEN = "QUEUE_NOT_OPEN"
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
        return given_at_ms(self.number) // 1000

    @property
    def possible(self) -> bool:
        """Whether a waiting room can have given this place."""
        return 0 < self.number < MAX_NUMBER and 0 < self.user_id <= MAX_USER_ID and self.epoch >= 0


def _is_number(number: int) -> bool:
    return 0 < number < MAX_NUMBER


@dataclass(frozen=True, slots=True)
class LostAdmission:
    """An admission of a lost epoch. `claimed`: its owner had polled since. `user_id` is 0 if the
    place had been handed back after an earlier loss and its owner has not polled since."""

    number: int
    user_id: int
    until_ms: int
    claimed: bool


@dataclass(frozen=True, slots=True)
class HandBack:
    """What a copy of a room, `bidder`, knows of a lost epoch: all up to change `seq` of `epoch`,
    and place numbers up to `last`. Without any places it is a bid.

    `ended` may have places of user 0, which ended by the rules of the room rather than by their
    owners. `done`: everything was given back. `settled`: places of earlier epochs had had their
    time to return, so that the copy knows all numbers up to `last`.
    """

    bidder: str
    epoch: int
    seq: int
    last: int
    ended: Sequence[Place] = ()
    admitted: Sequence[LostAdmission] = ()
    waiting: Sequence[int] = ()
    done: bool = False
    settled: bool = False

    @property
    def size(self) -> int:
        """How many places it has."""
        return len(self.ended) + len(self.admitted) + len(self.waiting)

    def possible(self) -> "HandBack":
        """Returns it with those places that a waiting room can have given."""
        return replace(
            self,
            ended=[p for p in self.ended if _is_number(p.number) and 0 <= p.user_id <= MAX_USER_ID],
            admitted=[
                p
                for p in self.admitted
                if _is_number(p.number)
                and 0 <= p.user_id <= MAX_USER_ID
                and 0 <= p.until_ms < MAX_NUMBER
            ],
            waiting=[number for number in self.waiting if _is_number(number)],
        )


@dataclass(frozen=True, slots=True)
class HandBackReply:
    """`granted`: the lives were taken, and more may follow. `done`: everything was given back by a
    copy that has come as far. Otherwise bid again in `retry_after_ms`."""

    granted: bool
    done: bool
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that an operator sets at run time."""

    capacity: int
    max_waiting: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class RoomMemory:
    """What somebody last saw of a room, in case the store loses it: change `seq` of `epoch`, the
    greatest place number, and the limits."""

    epoch: int
    seq: int
    last: int
    limits: Limits

    @property
    def possible(self) -> bool:
        """Whether a waiting room can have been like that."""
        numbers = (
            self.epoch, self.seq, self.last, self.limits.capacity, self.limits.max_waiting
        )  # fmt: skip
        return all(0 <= number < MAX_NUMBER for number in numbers) and 0 < self.epoch <= self.last

    def is_after(self, other: "RoomMemory") -> bool:
        """Whether it is the newer one."""
        return (self.epoch, self.seq, self.last) > (other.epoch, other.seq, other.last)


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
    seq: int
    """The number of the last change in this epoch."""
    last: int
    """The greatest place number assigned."""
    unrecorded_at: int
    """When a change without an entry in the log was last found, made by a replica of the version
    before; 0: never."""
    due_in: int
    """How long no tick is needed, in ms, as far as the call knows that made this: only a tick knows
    when the next admission ends."""
    defined: Defined | None = None
    """None: the room runs by the settings."""

    @property
    def recovering(self) -> bool:
        """In the grace after a loss: no place that may stand behind a lost one is admitted."""
        return self.now < self.grace_until

    @property
    def settling(self) -> bool:
        """Whether lost places still return, so that orders may grow."""
        return self.now < self.settled_at

    @property
    def memory(self) -> RoomMemory:
        """What there is to remember of it."""
        return RoomMemory(self.epoch, self.seq, self.last, self.limits)

    def fields(self) -> queue_pb2.RoomFields:
        """Returns what a copy of the room knows of it beside the places."""
        fields = queue_pb2.RoomFields(
            capacity=self.limits.capacity,
            max_waiting=self.limits.max_waiting,
            paused=self.limits.paused,
            grace_until_ms=self.grace_until,
            settled_at_ms=self.settled_at,
            pace_at_ms=self.pace_at,
            pace_now=self.pace_now,
            pace_before=self.pace_before,
            unrecorded_at_ms=self.unrecorded_at,
        )
        if self.defined is not None:
            self.defined.fill(fields)
        return fields


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
    # After a loss, copies of the room bid for `bidding_ms` before one is granted: longer than a
    # gateway takes to reconnect. One that is silent for `lease_ms` loses its grant.
    bidding_ms: int = 1_500
    lease_ms: int = 3_000
    log_ms: int = 15_000
    """How long a change stays in the log: a copy that is further behind takes a new snapshot. At
    least 10 s, for a replica that has lost its connection to the store."""
    log_bytes: int = 16 * 2**20
    """The most memory that the log takes, roughly: 15 s of 10,000 people a second who join one by
    one."""

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
