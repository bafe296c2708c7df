"""A room as far as its changes have been applied, and where a place stands in it."""

from dataclasses import dataclass, field

from protos.frontrow.queue.v1 import queue_pb2
from room_view.line import Line
from room_view.phase import is_ordered
from room_view.position import PlaceState, Standing

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

    `last` is the greatest place number that it has seen. Score and number of a place are apart:
    only `score` knows how one leads to the other.
    """

    epoch: int
    seq: int
    rules: queue_pb2.RoomRules
    fields: queue_pb2.RoomFields
    last: int = 0
    line: Line = field(default_factory=Line)
    admitted: dict[int, Admission] = field(default_factory=dict)

    def score(self, number: int) -> int:
        """Returns the score that orders the line."""
        return number

    def order(self, number: int) -> int:
        """Returns the position in line, from 1; 0 if the place does not wait here."""
        return self.line.rank(self.score(number))

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
        if order := self.order(number):
            if not is_ordered(self.fields, now_ms):
                order = len(self.line)
            return Standing(PlaceState.WAITING, order)
        admission = self.admitted.get(number)
        # User 0: handed back after a loss, and its owner has not polled since.
        if admission is None or admission.user_id not in (0, user_id):
            return None
        if admission.until_ms <= now_ms:
            return None
        return Standing(PlaceState.ADMITTED, 0, admission.until_ms, admission.claimed)

    @classmethod
    def begin(cls, first: queue_pb2.RoomSnapshot, rules: queue_pb2.RoomRules) -> "RoomView":
        """Returns an empty view for the parts of a snapshot, of which `first` is the first."""
        return cls(first.epoch, first.seq, rules, first.fields, first.last)

    def add(self, part: queue_pb2.RoomSnapshot) -> None:
        """Adds the places of a part of a snapshot, the first one too. Parts come in their order."""
        self.line.extend(part.waiting)
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
            self.line.add(self.score(number))
            self.last = max(self.last, number)
        elif change.kind == queue_pb2.RoomChange.KIND_FIELDS:
            self.fields = change.fields
        elif change.kind == queue_pb2.RoomChange.KIND_ENDED:
            self.line.discard(self.score(number))
            self.admitted.pop(number, None)
        else:
            self.line.discard(self.score(number))
            self.last = max(self.last, number)
            self.admitted[number] = Admission(
                change.user_id,
                change.admitted_until_ms,
                change.kind == queue_pb2.RoomChange.KIND_CLAIMED,
            )
