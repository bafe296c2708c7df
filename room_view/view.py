"""A room as far as its changes have been applied, and where a place stands in it."""

from dataclasses import dataclass, field

from protos.frontrow.queue.v1 import queue_pb2
from room_view.draw import Draw
from room_view.line import Line
from room_view.phase import is_ordered
from room_view.position import PlaceState, Standing
from room_view.ranks import Ranks

UNRECORDED_MS = 60_000
"""For how long no view is used after a change that has no entry in the log."""


class Gap(Exception):
    """A change is missing between a view and the next one: only a new snapshot helps."""


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted place. `claimed`: its owner has polled since."""

    user_id: int
    until_ms: int
    claimed: bool


@dataclass(slots=True)
class RoomView:
    """A copy of a room, exact as of change `seq` of `epoch` (docs/adr/0040-room-view.md).

    `last` is the greatest place number that it has seen. `line` has the numbers of those who wait;
    `ranks` orders them differently as far as a draw decides.
    """

    epoch: int
    seq: int
    rules: queue_pb2.RoomRules
    fields: queue_pb2.RoomFields
    last: int = 0
    line: Line = field(default_factory=Line)
    admitted: dict[int, Admission] = field(default_factory=dict)
    ranks: Ranks | None = None
    # The greatest number whose order a draw decides; 0: none.
    _cohort_last: int = 0
    # Whether `is_ordered` holds at any time: polls ask often.
    _is_always_ordered: bool = True

    def __post_init__(self) -> None:
        self._cohort_last = self.fields.cohort_last
        self._is_always_ordered = is_ordered(self.fields, 0)

    def use(self, draw: Draw | None) -> None:
        """Takes the draw of the room; None: it has none. Its ranks are missing until `advance` has
        brought them all. No-op if the view has the draw already."""
        if draw is None:
            self.ranks = None
        elif self.ranks is None or self.ranks.draw is not draw:
            self.ranks = Ranks(draw, self.line, self._cohort_last)

    def is_behind(self) -> bool:
        """Whether ranks that the room has given are missing here, and `advance` brings them."""
        return self.ranks is not None and not self.ranks.has(self.fields.drawn)

    def advance(self) -> bool:
        """Takes missing ranks, in some milliseconds; returns whether there are more."""
        return self.ranks is not None and self.ranks.advance(self.fields.drawn)

    def order(self, number: int) -> int:
        """Returns the position in line, from 1; 0 if the place does not wait here, or if a draw
        decides its position and has not done so yet, as far as is known here."""
        if number > self._cohort_last:
            return self.line.rank(number)
        if number not in self.line or self.ranks is None:
            return 0
        return self.ranks.order(number)

    def misses_changes(self, now_ms: int) -> bool:
        """Returns whether a queue_service of the version before, which records no changes, may have
        changed the room in the last minute: the view is not to be used then."""
        unrecorded_at = self.fields.unrecorded_at_ms
        return unrecorded_at > 0 and now_ms - unrecorded_at < UNRECORDED_MS

    def standing(self, number: int, user_id: int, now_ms: int) -> Standing | None:
        """Returns where a user's place stands at `now_ms` of the room's clock.

        None: this view does not know the place, or its admission has run out. That is no proof that
        it has ended.
        """
        if number <= self._cohort_last:
            if number in self.line:
                return self._drawn(number, now_ms)
        elif order := self.line.rank(number):
            if not self._is_always_ordered and not is_ordered(self.fields, now_ms):
                order = len(self.line)
            return Standing(PlaceState.WAITING, order)
        admission = self.admitted.get(number)
        # User 0: handed back after a loss, and its owner has not polled since.
        if admission is None or admission.user_id not in (0, user_id):
            return None
        if admission.until_ms <= now_ms:
            return None
        return Standing(PlaceState.ADMITTED, 0, admission.until_ms, admission.claimed)

    def _drawn(self, number: int, now_ms: int) -> Standing | None:
        """Where a place stands that waits and whose order a draw decides."""
        if not is_ordered(self.fields, now_ms):
            return Standing(PlaceState.WAITING, len(self.line))
        if order := self.order(number):
            return Standing(PlaceState.WAITING, order)
        if self.ranks is None or self.is_behind():
            return None
        # No order will be greater, and those who come later do not make it grow.
        order = self.line.count_to(self._cohort_last)
        return Standing(PlaceState.WAITING, order, is_drawn=False)

    @classmethod
    def begin(cls, first: queue_pb2.RoomSnapshot, rules: queue_pb2.RoomRules) -> "RoomView":
        """Returns an empty view for the parts of a snapshot, of which `first` is the first."""
        return cls(first.epoch, first.seq, rules, first.fields, first.last)

    def add(self, part: queue_pb2.RoomSnapshot) -> None:
        """Adds the places of a part of a snapshot, the first one too. Parts come in their order."""
        if part.waiting and part.waiting[0] > self.line.last:
            self.line.extend(part.waiting)
        else:
            # The store has some of a draw in the order of their ranks.
            for number in part.waiting:
                self.line.add(number)
        self.admitted.update(
            (place.number, Admission(place.user_id, place.admitted_until_ms, place.claimed))
            for place in part.admitted
        )
        self.last = max(self.last, part.last)

    def apply(self, changes: queue_pb2.RoomChanges) -> bool:
        """Applies what one call to the store changed. Returns False for a change that it has
        already. Raises Gap if an earlier one is missing or the epoch is a later one."""
        if changes.epoch < self.epoch or (changes.epoch == self.epoch and changes.seq <= self.seq):
            return False
        if changes.epoch != self.epoch or changes.seq != self.seq + 1:
            raise Gap
        for change in changes.changes:
            self._apply(change)
        self.seq = changes.seq
        return True

    def _apply(self, change: queue_pb2.RoomChange) -> None:
        number = change.number
        if change.kind == queue_pb2.RoomChange.KIND_WAITING:
            self.admitted.pop(number, None)
            self.line.add(number)
            self.last = max(self.last, number)
            if number <= self._cohort_last and self.ranks is not None:
                self.ranks.added(number)
        elif change.kind == queue_pb2.RoomChange.KIND_FIELDS:
            self._take(change.fields)
        elif change.kind == queue_pb2.RoomChange.KIND_ENDED:
            self._discard(number)
            self.admitted.pop(number, None)
        else:
            self._discard(number)
            self.last = max(self.last, number)
            self.admitted[number] = Admission(
                change.user_id,
                change.admitted_until_ms,
                change.kind == queue_pb2.RoomChange.KIND_CLAIMED,
            )

    def _take(self, fields: queue_pb2.RoomFields) -> None:
        self.fields = fields
        self._is_always_ordered = is_ordered(fields, 0)
        if fields.cohort_last != self._cohort_last:
            # Before anything is drawn.
            self._cohort_last = fields.cohort_last
            if self.ranks is not None:
                self.ranks = Ranks(self.ranks.draw, self.line, self._cohort_last)
        if self.is_behind():
            # One step of the store at once. A view that is further behind is brought up to date
            # between other work.
            self.advance()

    def _discard(self, number: int) -> None:
        self.line.discard(number)
        if number <= self._cohort_last and self.ranks is not None:
            self.ranks.discarded(number)
