"""Where a place stands, when its owner should poll, and how long the wait may be."""

import enum
from dataclasses import dataclass

from protos.frontrow.queue.v1 import queue_pb2

# The places near the front poll every 10 s or more often, whatever the longest pause is.
_NEAR = 100
_NEAR_POLL_MAX_MS = 10_000
# Behind them the pause grows by this for each place. While a line moves by less than 100 places per
# second, nobody pauses longer than the way to the front plus 9 s, although the pace of a line that
# has just begun to move is not known yet. All of them up to 60 s make 200 polls per second.
_FAR_POLL_MS_EACH = 10

# Place numbers of one millisecond, counted since 2026 (queue_service/lua).
_NUMBERS_PER_MS = 4096
_YEAR_2026_MS = 1_767_225_600_000


def given_at_ms(number: int) -> int:
    """Returns when a place was given, Unix time in milliseconds: its number contains it."""
    return number // _NUMBERS_PER_MS + _YEAR_2026_MS


class PlaceState(enum.Enum):
    """WAITING -> ADMITTED -> ENDED. A place may also end while it waits."""

    WAITING = 1
    ADMITTED = 2
    ENDED = 3


_STATES = {
    PlaceState.WAITING: queue_pb2.PLACE_STATE_WAITING,
    PlaceState.ADMITTED: queue_pb2.PLACE_STATE_ADMITTED,
    PlaceState.ENDED: queue_pb2.PLACE_STATE_ENDED,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a place stands. `order` is its position in line while it waits, `admitted_until_ms`
    (Unix time) the end of its admission while it is admitted; otherwise they are 0. `claimed` is
    False while its owner has not polled since the admission, which then ends earlier."""

    state: PlaceState
    order: int = 0
    admitted_until_ms: int = 0
    claimed: bool = True


ENDED = Standing(PlaceState.ENDED)


@dataclass(frozen=True, slots=True)
class Position:
    """A Standing with what else the fan sees; durations in milliseconds. `access_token` is a fresh
    token of the place, or empty."""

    standing: Standing
    poll_after_ms: int
    estimated_wait_ms: int
    recovering: bool
    access_token: str = ""

    def message(self) -> queue_pb2.Position:
        """Returns it as a message."""
        return queue_pb2.Position(
            state=_STATES[self.standing.state],
            order=self.standing.order,
            poll_after_ms=self.poll_after_ms,
            estimated_wait_ms=self.estimated_wait_ms,
            admitted_until_ms=self.standing.admitted_until_ms,
            recovering=self.recovering,
            access_token=self.access_token,
        )


class Pacing:
    """How often to poll and how long the wait may be, by the rules of a room."""

    def __init__(self, rules: queue_pb2.RoomRules) -> None:
        self._poll_min_ms = rules.poll_min_ms
        self._poll_max_ms = rules.poll_max_ms
        self._admission_ttl_ms = rules.admission_ttl_ms

    def position(self, standing: Standing, fields: queue_pb2.RoomFields, now_ms: int) -> Position:
        """Returns a standing with the time of the next poll and the expected wait. `now_ms` is
        Unix time by the clock of the store."""
        # While lost places still return, orders may grow.
        settling = now_ms < fields.settled_at_ms
        if standing.state is not PlaceState.WAITING:
            return Position(standing, self._poll_max_ms, 0, settling)
        wait = self._expected_wait(standing.order, fields, now_ms)
        # After half of the wait, so that a wrong estimate is corrected. The first hundred poll
        # often whatever the estimate, because a free slot idles until its owner polls; together
        # they make 25 to 30 polls per second.
        near = min(self._poll_min_ms + 100 * standing.order, _NEAR_POLL_MAX_MS)
        far = _FAR_POLL_MS_EACH * max(0, standing.order - _NEAR)
        poll = min(wait // 2, near + far, self._poll_max_ms)
        poll = max(self._poll_min_ms, poll - self._earlier(standing.order, poll))
        return Position(standing, poll, wait, settling)

    @staticmethod
    def _earlier(order: int, poll: int) -> int:
        # Fans who enter in the same second would otherwise always poll in the same second. So each
        # order polls up to a quarter earlier, and Knuth's multiplicative hash gives neighbours
        # different shares of it. Never later: grace and absence rely on poll_max.
        return poll // 4 * (order * 2_654_435_769 % 2**32) >> 32

    def _expected_wait(self, order: int, fields: queue_pb2.RoomFields, now_ms: int) -> int:
        # The recent pace, or at least that of a full shop in which every admission lasts its
        # whole time.
        window = 60_000 + max(0, now_ms - fields.pace_at_ms)
        recent = (fields.pace_before + fields.pace_now) / window
        slowest = max(1, fields.capacity) / self._admission_ttl_ms
        return int(order / max(recent, slowest)) + max(0, fields.grace_until_ms - now_ms)
