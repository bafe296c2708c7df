"""What this process knows of a lost epoch, until the room has it back."""

import time
from collections import deque

from gateway.recent import Recent
from protos.frontrow.queue.v1 import queue_pb2
from room_view.position import Standing
from room_view.view import RoomView

# A loss during the healing of the one before. A million places take 8 MB in each.
_MOST_VIEWS = 2
# As many as happen in the seconds that a store may lose, as in queue_service.
_MAX_ENDS = 1_000
# Ends that replies of calls named: those of the last seconds may be missing in the view. 0.5 MB.
_END_SECONDS = 120.0
_MAX_NAMED_ENDS = 5_000


class LostRoom:
    """The last views of lost epochs, which do not change, and the ends that came after them.

    What they know may be answered: it is known of a person who shopped that the admission goes on,
    and of one who waited that the order is at most so large.
    """

    def __init__(self) -> None:
        self.views: list[RoomView] = []
        """The newest first; none if nothing was lost, or all was given back."""
        self.lost_at = 0.0
        """When the last loss was noticed, by time.monotonic()."""
        self.granted_at = 0.0
        """When this process was last let give something back, else when the loss was noticed."""
        self.is_recorded = False
        """Whether these views have every change of their time."""
        self.is_whole = False
        """Whether these views have all that lived before the loss, as far as known: no grace of an
        epoch before went on, or its view is here too; and all changes were recorded."""
        self.is_settled = False
        """Whether places of epochs before had had their time to return."""
        self.ends: deque[queue_pb2.Place] = deque(maxlen=_MAX_ENDS)
        """The newest ends that this process was acknowledged, before a loss or after it."""
        self._named_ends = Recent[int, bool](_END_SECONDS, _MAX_NAMED_ENDS)
        self._ended: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.views)

    @property
    def newest(self) -> RoomView | None:
        """The last view of the last epoch that was lost."""
        return self.views[0] if self.views else None

    def add(self, view: RoomView, now_ms: int) -> None:
        """Notes that the epoch of this view was lost. `now_ms`: by the clock of the store."""
        had_all, had_changes = view.fields.grace_until_ms <= now_ms, True
        if self.views:
            had_all, had_changes = self.is_whole, self.is_recorded
        self.is_recorded = had_changes and not view.misses_changes(now_ms)
        self.is_whole = had_all and self.is_recorded
        self.is_settled = view.fields.settled_at_ms <= now_ms
        # The view may be older than these.
        self._ended.update(place.number for place in self.ends)
        self.views = [view, *self.views][:_MOST_VIEWS]
        self.lost_at = self.granted_at = time.monotonic()

    def granted(self) -> None:
        """Notes that this process may give back."""
        self.granted_at = time.monotonic()

    def clear(self) -> None:
        """Forgets everything: the room has it back, or never will."""
        self.views = []
        self._ended.clear()

    def note(self, changes: queue_pb2.RoomChanges) -> None:
        """Notes who has ended since the loss."""
        if self.views:
            self._ended.update(
                change.number
                for change in changes.changes
                if change.kind == queue_pb2.RoomChange.KIND_ENDED
            )

    def end(self, place: queue_pb2.Place) -> None:
        """Notes that the owner of a place has paid or left."""
        self.ends.append(place)
        self.note_end(place.number)

    def note_end(self, number: int) -> None:
        """Notes that a place has ended. The next loss may be of an epoch that never told it."""
        self._named_ends.put(number, True)
        if self.views:
            self._ended.add(number)

    def has_ended(self, number: int) -> bool:
        """Returns whether it is known that a place has ended, although it was live at the loss."""
        return number in self._ended or self._named_ends.get(number) is not None

    def lives(self, number: int) -> bool:
        """Returns whether a place was live at the loss."""
        return any(number in view.line or number in view.admitted for view in self.views)

    def standing(
        self, number: int, user_id: int, now_ms: int, room: RoomView | None
    ) -> Standing | None:
        """Returns where a place stood at the loss. None if that is not known, or if it has ended
        or is admitted in `room`, the view of the new epoch."""
        if self.has_ended(number) or (room is not None and number in room.admitted):
            return None
        for view in self.views:
            standing = view.standing(number, user_id, now_ms)
            if standing is not None:
                return standing
        return None
