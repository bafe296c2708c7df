"""Where a place stands, when its owner should poll, and how long the wait may be."""

import enum
from typing import NamedTuple

from protos.frontrow.queue.v1 import queue_pb2
from room_view.phase import Phase, is_ordered, is_over, phase_of

# The places near the front poll every 10 s or more often, whatever the longest pause is.
_NEAR = 100
_NEAR_POLL_MAX_MS = 10_000
# Behind them the pause grows by this for each place. While a line moves by less than 100 places per
# second, nobody pauses longer than the way to the front plus 9 s, although the pace of a line that
# has just begun to move is not known yet. All of them up to 60 s make 200 polls per second.
_FAR_POLL_MS_EACH = 10
# The first polls after an opening are spread over this for each place that waits, and over two
# seconds at least: 5,000 polls per second, and more beyond 300,000 places, whose polls the longest
# pause brings earlier.
_OPENING_MS_EACH = 0.2
_OPENING_MS = 2_000

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


class Standing(NamedTuple):
    """Where a place stands. `order` is its position in line while it waits, `admitted_until_ms`
    (Unix time) the end of its admission while it is admitted; otherwise they are 0. `claimed` is
    False while its owner has not polled since the admission, which then ends earlier. `is_drawn`
    is False while a draw has begun and has not reached the place: `order` is then the number of
    places that wait and may be drawn."""

    state: PlaceState
    order: int = 0
    admitted_until_ms: int = 0
    claimed: bool = True
    is_drawn: bool = True


ENDED = Standing(PlaceState.ENDED)


class Position(NamedTuple):
    """A Standing with what else the fan sees; durations in milliseconds. `phase` is the room's.
    `access_token` is a fresh token of the place, or empty."""

    standing: Standing
    poll_after_ms: int
    estimated_wait_ms: int
    recovering: bool
    phase: Phase = queue_pb2.ROOM_PHASE_UNSPECIFIED
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
            phase=self.phase,
            access_token=self.access_token,
        )


class Pacing:
    """How often to poll and how long the wait may be, by the rules of a room."""

    def __init__(self, rules: queue_pb2.RoomRules) -> None:
        self._poll_min_ms = rules.poll_min_ms
        self._poll_max_ms = rules.poll_max_ms
        self._admission_ttl_ms = rules.admission_ttl_ms

    def position(
        self, standing: Standing, number: int, fields: queue_pb2.RoomFields, now_ms: int
    ) -> Position:
        """Returns the standing of the place `number` with the time of the next poll and the
        expected wait. `now_ms` is Unix time by the clock of the store."""
        phase = phase_of(fields, now_ms)
        # Without a definition there is no opening, and a poll should not have to ask for it.
        is_defined = fields.definition_version > 0
        if not standing.is_drawn and phase == queue_pb2.ROOM_PHASE_OPEN:
            phase = queue_pb2.ROOM_PHASE_DRAWING
        # While lost places still return, orders may grow.
        settling = now_ms < fields.settled_at_ms
        if standing.state is not PlaceState.WAITING:
            return Position(standing, self._poll_max_ms, 0, settling, phase)
        has_order = not is_defined or is_ordered(fields, now_ms)
        if has_order:
            wait = self._expected_wait(standing.order, fields, now_ms)
        else:
            # Nobody has a position yet, and the room has no pace: only the opening is certain.
            wait = fields.opens_at_ms - now_ms
        if is_defined and (not has_order or is_over(phase)):
            poll = self._poll_of_still_line(standing.order, number, fields, now_ms)
            return Position(standing, poll, wait, settling, phase)
        # After half of the wait, so that a wrong estimate is corrected. The first hundred poll
        # often whatever the estimate, because a free slot idles until its owner polls; together
        # they make 25 to 30 polls per second.
        near = min(self._poll_min_ms + 100 * standing.order, _NEAR_POLL_MAX_MS)
        far = _FAR_POLL_MS_EACH * max(0, standing.order - _NEAR)
        poll = min(wait // 2, near + far, self._poll_max_ms)
        poll = max(self._poll_min_ms, poll - _earlier(standing.order, poll))
        return Position(standing, poll, wait, settling, phase)

    def _poll_of_still_line(
        self, waiting: int, number: int, fields: queue_pb2.RoomFields, now_ms: int
    ) -> int:
        """Returns when to poll before the opening, and after the end: as late as is allowed, and at
        the opening at a moment of one's own. All who gather have the same order, so the number of
        the place decides."""
        latest = self._poll_max_ms - _earlier(number, self._poll_max_ms)
        if now_ms >= fields.opens_at_ms:
            return max(self._poll_min_ms, latest)
        spread = min(self._poll_max_ms, max(_OPENING_MS, int(_OPENING_MS_EACH * waiting)))
        own = fields.opens_at_ms - now_ms + (spread * _share(number) >> 32)
        return max(self._poll_min_ms, own if own <= self._poll_max_ms else latest)

    def _expected_wait(self, order: int, fields: queue_pb2.RoomFields, now_ms: int) -> int:
        # The recent pace, or at least that of a full shop in which every admission lasts its
        # whole time.
        window = 60_000 + max(0, now_ms - fields.pace_at_ms)
        recent = (fields.pace_before + fields.pace_now) / window
        slowest = max(1, fields.capacity) / self._admission_ttl_ms
        pace = max(recent, slowest)
        if fields.admissions_per_minute:
            pace = min(pace, fields.admissions_per_minute / 60_000)
        begins_at = max(fields.grace_until_ms, fields.opens_at_ms)
        return int(order / pace) + max(0, begins_at - now_ms)


def _earlier(number: int, poll: int) -> int:
    # Fans who enter in the same second would otherwise always poll in the same second. So each
    # polls up to a quarter earlier. Never later: grace and absence rely on poll_max.
    return poll // 4 * _share(number) >> 32


def _share(number: int) -> int:
    """Knuth's multiplicative hash, below 2^32: neighbours get very different ones."""
    return number * 2_654_435_769 % 2**32
