"""What is answered from the copy of the room, and what only queue_service can answer."""

import enum
import time
from collections.abc import Sequence
from struct import Struct

from prometheus_client import Counter

from gateway.recent import Recent
from gateway.room.copy import RoomCopy
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from room_view.phase import is_ordered
from room_view.position import Pacing, PlaceState, Standing, given_at_ms
from room_view.view import RoomView

ANSWERS = Counter("room_view_answers", "Requests answered from the room view.", ["what"])
ASKED = Counter(
    "room_view_asked",
    "Requests that led to a call, because the room view could not answer.",
    ["why"],
)

_ANSWERS = {what: ANSWERS.labels(what) for what in ("order", "admission", "outage", "healing")}
_ASKED = {
    why: ASKED.labels(why)
    for why in ("no_view", "stale", "young", "unclaimed", "unknown", "newer_answer", "over_aged")
}

_REPLY = Struct("<dQ")  # when, order
_REPLY_SECONDS = 120.0
_MAX_REPLIES = 20_000  # 3 MB
_MUST_ASK = 2**64 - 1
_NO_ORDER = 2**64 - 2
_BEFORE_OPENING = frozenset({queue_pb2.ROOM_PHASE_GATHERING, queue_pb2.ROOM_PHASE_DRAWING})

# A hand-back that takes longer has failed, or has begun with the admissions and is at the line.
# Then calls restore places by their tokens, for the rest of the grace of 75 s.
_HAND_BACK_SECONDS = 10.0


class RoomViewState(enum.StrEnum):
    """Why the room view answers or does not, as readiness says it."""

    CURRENT = "current"
    # queue_service does not answer, and the last view answers instead.
    OUTAGE = "outage"
    # The room has lost data, and the view of before answers for what has not returned.
    HEALING = "healing"
    # The last heartbeat has no answer, or there is no stream.
    STALE = "stale"
    # No snapshot has arrived yet, or the room has lost data and the next one has not.
    MISSING = "missing"
    # A queue_service of the version before has changed the room, a minute ago at most.
    UNRECORDED = "unrecorded"
    UNSUPPORTED = "unsupported"
    OFF = "off"


class RoomAnswers:
    """Answers for places that wait, and for admitted ones whose owner knows, while the copy is
    fresh. "Not admitted" and "unknown" are never answered from it.

    No answer contradicts a later one that this process got by a call: an order is at most that one,
    and a place that was about to end is asked for, until the copy is newer.
    """

    def __init__(self, copy: RoomCopy, signs: SignsOfLife, outage: QueueOutage) -> None:
        self._copy = copy
        self._signs = signs
        self._outage = outage
        self._pacing = Pacing(queue_pb2.RoomRules())
        self._replies = Recent[int, bytes](_REPLY_SECONDS, _MAX_REPLIES)
        copy.on_rules = self._use

    def usable(self) -> RoomView | None:
        """Returns the view if it may answer now."""
        view = self._copy.view
        if view is None or not self._copy.freshness.is_fresh():
            return None
        self._outage.end()
        return view if self._is_recorded(view) else None

    def state(self) -> RoomViewState:
        """Returns whether the view answers, as far as that is known without a heartbeat."""
        view = self._copy.view
        if view is not None and self.in_outage:
            return RoomViewState.OUTAGE
        if self._copy.lost and self._lost_view_speaks():
            return RoomViewState.HEALING
        if view is None:
            return RoomViewState.MISSING
        if self._copy.freshness.is_overdue:
            return RoomViewState.STALE
        return RoomViewState.CURRENT if self._is_recorded(view) else RoomViewState.UNRECORDED

    async def becomes_usable(self) -> bool:
        """Waits for a heartbeat, if that helps, and returns whether the view may answer then."""
        if self._copy.view is None or self._outage.is_on:
            return False
        return await self._copy.freshness.becomes_fresh() and self.usable() is not None

    def count_call(self, place: queue_pb2.Place) -> None:
        """Counts a request that leads to a call for the place, by why the view does not answer."""
        _ASKED[self._why_asked(place)].inc()

    def position(self, place: queue_pb2.Place) -> queue_pb2.Position | None:
        """Returns the position of the place; None if it must be asked for."""
        if self._copy.lost and (lost := self._position_at_loss(place)):
            return lost
        view = self.usable()
        if view is None:
            return self._position_in_outage(place)
        now_ms = self._copy.freshness.now_ms()
        standing = self._standing(view, place, now_ms)
        if isinstance(standing, str):
            return None
        if standing.state is PlaceState.WAITING:
            self._signs.note(place)
        _ANSWERS["order"].inc()
        return self._message(view, place, standing, now_ms)

    def is_admitted(self, place: queue_pb2.Place) -> bool:
        """Returns whether the place is admitted for certain; False if it must be asked for."""
        if self._copy.lost and (lost := self._position_at_loss(place)):
            return lost.state == queue_pb2.PLACE_STATE_ADMITTED
        view = self.usable()
        if view is None:
            position = self._position_in_outage(place)
            return position is not None and position.state == queue_pb2.PLACE_STATE_ADMITTED
        standing = self._standing(view, place, self._copy.freshness.now_ms())
        if isinstance(standing, str) or standing.state is not PlaceState.ADMITTED:
            return False
        _ANSWERS["admission"].inc()
        return True

    def believed(
        self, places: Sequence[queue_pb2.Place], response: queue_pb2.GetPositionsResponse
    ) -> list[queue_pb2.Position] | None:
        """Returns what a call said about the places, corrected where the room has lost an admission
        or a place in line. None if it is of an epoch that is over: to be asked again."""
        if 0 < response.epoch < self._copy.epoch:
            return None
        if response.epoch > self._copy.epoch:
            self._copy.freshness.ask()  # the stream tells of the loss then, and healing begins
        return [
            self._believed(place, position, response.epoch, response.seq)
            for place, position in zip(places, response.positions, strict=True)
        ]

    def note_reply(self, place: queue_pb2.Place, position: queue_pb2.Position) -> None:
        """Notes what a call said about the place."""
        ended = position.state == queue_pb2.PLACE_STATE_ENDED
        if ended:
            self._copy.lost.note_end(place.number)
        # The number of people who gather is no bound for the order after the opening. A room may be
        # paused before it.
        view = self._copy.view
        is_bound = position.phase not in _BEFORE_OPENING and (
            view is None or is_ordered(view.fields, self._copy.freshness.now_ms())
        )
        order = position.order if is_bound else _NO_ORDER
        self._note(place, _MUST_ASK if ended else order)

    def forget(self, place: queue_pb2.Place) -> None:
        """Makes the place be asked for until the copy is newer: it may be about to end."""
        self._note(place, _MUST_ASK)

    def left(self, place: queue_pb2.Place) -> None:
        """Notes that the place has ended: its owner has paid or left."""
        self._copy.lost.end(place)

    @property
    def in_outage(self) -> bool:
        """Whether the last view speaks, because queue_service does not answer."""
        return self._outage.is_on

    async def call_failed(self) -> bool:
        """Notes that queue_service did not answer; returns whether that begins an outage, in which
        the last view speaks. A view that becomes fresh shows that another replica answers."""
        view, freshness = self._copy.view, self._copy.freshness
        if view is None or not self._is_recorded(view) or await freshness.becomes_fresh():
            return False
        began = self._outage.is_on
        return self._outage.begin(freshness.followed_until) and not began

    def call_succeeded(self) -> None:
        """Notes that queue_service answered."""
        self._outage.end()

    def _use(self, rules: queue_pb2.RoomRules) -> None:
        self._pacing = Pacing(rules)
        self._signs.use(rules)
        self._outage.use(rules)

    def _note(self, place: queue_pb2.Place, order: int) -> None:
        self._replies.put(place.number, _REPLY.pack(time.monotonic(), order))

    def _is_recorded(self, view: RoomView) -> bool:
        # Nearly always 0: a poll should not have to look at the clock for it.
        if not view.fields.unrecorded_at_ms:
            return True
        return not view.misses_changes(self._copy.freshness.now_ms())

    def _why_asked(self, place: queue_pb2.Place) -> str:
        if self._copy.view is None:
            return "no_view"
        view = self.usable()
        if view is None:
            return "stale"
        standing = self._standing(view, place, self._copy.freshness.now_ms())
        # Where the view knows the place, the call is for a fresh token.
        return standing if isinstance(standing, str) else "over_aged"

    def _standing(self, view: RoomView, place: queue_pb2.Place, now_ms: int) -> Standing | str:
        """Returns where the place stands, as of at least the last call for it; or why it must be
        asked for, as in `room_view_asked`."""
        number = place.number
        replied = self._order_since(number)
        if replied == _MUST_ASK:
            return "newer_answer"
        standing = view.standing(number, place.user_id, now_ms)
        if standing is None:
            return "unknown"
        if not standing.claimed:
            return "unclaimed"
        if standing.state is not PlaceState.WAITING:
            return standing
        if replied == 0:  # admitted since
            return "newer_answer"
        if self._is_young(number, now_ms):
            return "young"
        if replied is not None and replied < standing.order and now_ms >= view.fields.settled_at_ms:
            return Standing(PlaceState.WAITING, replied)
        return standing

    def _order_since(self, number: int) -> int | None:
        """Returns what a call that is newer than the view said about the place."""
        packed = self._replies.get(number)
        if packed is None:
            return None
        at, order = _REPLY.unpack(packed)
        return order if at > self._copy.freshness.as_of else None

    def _is_young(self, number: int, now_ms: int) -> bool:
        """Whether the view may be older than the place."""
        freshness = self._copy.freshness
        age_ms = now_ms - freshness.uncertainty_ms - given_at_ms(number)
        return age_ms < freshness.seconds * 1000

    def _believed(
        self, place: queue_pb2.Place, said: queue_pb2.Position, epoch: int, seq: int
    ) -> queue_pb2.Position:
        """A place that was admitted or further in front at a loss waits again for a moment: by its
        token, until it is handed back. An end is a fact in every epoch."""
        if said.state != queue_pb2.PLACE_STATE_WAITING:
            return said
        position = self._position_at_loss(place) if self._copy.lost else None
        if position is None:
            position = self._position_of_view(place, epoch, seq)
        if position is None:
            return said
        position.access_token = said.access_token
        return position

    def _position_of_view(
        self, place: queue_pb2.Place, epoch: int, seq: int
    ) -> queue_pb2.Position | None:
        """Returns where a place stands that waits according to an answer as of change `seq` of
        `epoch`; None if the answer knows better than the view."""
        view, freshness = self._copy.view, self._copy.freshness
        if view is None:
            return None
        # The stream has not told of the loss yet.
        is_lost = epoch > self._copy.epoch
        if is_lost and not self._may_speak(view):
            return None
        # An answer that arrives after a hand-back, or after an admission.
        is_late = epoch == view.epoch and seq <= view.seq
        if not (is_lost or is_late):
            return None
        now_ms = freshness.now_ms()
        standing = view.standing(place.number, place.user_id, now_ms)
        if standing is None or (is_late and standing.state is not PlaceState.ADMITTED):
            return None
        position = self._message(view, place, standing, now_ms)
        if is_lost:
            _ANSWERS["healing"].inc()
            position.recovering = True
        return position

    def _may_speak(self, view: RoomView) -> bool:
        """Whether a view that is not fresh is complete, and young enough to speak."""
        until = self._copy.freshness.followed_until + self._outage.seconds
        return self._is_recorded(view) and time.monotonic() < until

    def _position_in_outage(self, place: queue_pb2.Place) -> queue_pb2.Position | None:
        view = self._copy.view
        if view is None or not self._outage.is_on or not self._is_recorded(view):
            return None
        now_ms = self._copy.freshness.now_ms()
        standing = self._standing(view, place, now_ms)
        if isinstance(standing, str):
            return None
        if standing.state is PlaceState.WAITING:
            self._signs.note(place)
        _ANSWERS["outage"].inc()
        position = self._message(view, place, standing, now_ms)
        position.recovering = True
        return position

    def _position_at_loss(self, place: queue_pb2.Place) -> queue_pb2.Position | None:
        """Returns where a place stood that the room has lost and not got back yet: a call would
        restore it by its token, in line."""
        lost = self._copy.lost
        if not self._lost_view_speaks():
            return None
        now_ms = self._copy.freshness.now_ms()
        standing = lost.standing(place.number, place.user_id, now_ms, self._copy.view)
        if standing is None:
            return None
        if standing.state is PlaceState.WAITING:
            if not lost.is_whole:
                return None
            # Restores the place in line, if nobody gives it back.
            self._signs.note(place)
        _ANSWERS["healing"].inc()
        position = self._message(lost.views[0], place, standing, now_ms)
        position.recovering = True
        return position

    def _lost_view_speaks(self) -> bool:
        lost = self._copy.lost
        now = time.monotonic()
        if not lost.is_recorded or now >= lost.lost_at + self._outage.seconds:
            return False
        return self._outage.is_on or now < lost.granted_at + _HAND_BACK_SECONDS

    def _message(
        self, view: RoomView, place: queue_pb2.Place, standing: Standing, now_ms: int
    ) -> queue_pb2.Position:
        position = self._pacing.position(standing, place.number, view.fields, now_ms)
        return position.message()
