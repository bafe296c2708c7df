"""The copy of the room that this process keeps, from the messages of one stream."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.room.freshness import Freshness
from gateway.room.lost import LostRoom
from protos.frontrow.queue.v1 import queue_pb2
from room_view.draw import Draw
from room_view.view import Gap, RoomView


@dataclass(slots=True)
class _Snapshot:
    """A snapshot that has not replaced the view yet."""

    view: RoomView
    complete_at_seq: int | None = None  # None until its last part has arrived
    changes: list[queue_pb2.RoomChanges] = field(default_factory=list)


class RoomCopy:
    """The view of the room, the view of the epoch before while that one heals, and their freshness.

    Later is decided by (epoch, seq): a snapshot of a replica that is behind does not replace a view
    that has come further.
    """

    def __init__(self, fresh_seconds: float) -> None:
        """`fresh_seconds`: see GATEWAY_ROOM_FRESH_SECONDS."""
        self.view: RoomView | None = None
        """Exact as of `freshness.as_of`. None before the first snapshot, and after a loss until the
        snapshot of the new epoch."""
        self.lost = LostRoom()
        """What was known of the epoch that was lost, while it heals."""
        self.on_loss: Callable[[], None] = lambda: None
        """Called at each loss, once `lost` has the view; a new `view` may not be there yet."""
        self.on_rules: Callable[[queue_pb2.RoomRules], None] = lambda _: None
        """Called with the rules of each snapshot that becomes the view."""
        self.on_behind: Callable[[], None] = lambda: None
        """Called when ranks of a draw are missing in the view."""
        self.freshness = Freshness(fresh_seconds)
        self._longest_fresh_seconds = fresh_seconds
        self.epoch = 0
        """The latest that the streams have told."""
        self._next: _Snapshot | None = None
        self._draw: Draw | None = None

    def use_draw(self, draw: Draw | None) -> None:
        """Takes the draw of the room, for this view and later ones; None: it has none. The view
        may lack ranks of it then."""
        self._draw = draw
        if self.view is not None:
            self.view.use(draw)

    def apply(self, message: queue_pb2.WatchRoomResponse) -> None:
        """Applies a message. Raises Gap if a change is missing: watch anew then."""
        if message.HasField("snapshot"):
            self._take(message.snapshot)
        for changes in message.changes:
            self._change(changes)
        if message.HasField("heartbeat"):
            self._begin_epoch(message.heartbeat.epoch)
            self.freshness.answered(message.heartbeat)
        self._adopt()
        if self.view is not None:
            self.freshness.prove(self.view)
            if self.view.is_behind():
                self.on_behind()

    def disconnected(self) -> None:
        """Notes the end of a stream: an incomplete snapshot is of no use. The view stays."""
        self._next = None
        self.freshness.disconnected()

    def healed(self) -> None:
        """Drops the view of the lost epoch: its places have returned, or will not."""
        self.lost.clear()

    def memory(self) -> queue_pb2.RoomMemory:
        """Returns what is known of the room, for the case that the store has lost it."""
        view = self.view or self.lost.newest
        if view is None:
            return queue_pb2.RoomMemory()
        return queue_pb2.RoomMemory(
            epoch=view.epoch,
            seq=view.seq,
            last=view.last,
            capacity=view.fields.capacity,
            max_waiting=view.fields.max_waiting,
            paused=view.fields.paused,
        )

    def _take(self, part: queue_pb2.RoomSnapshot) -> None:
        if part.is_first:
            self._begin_epoch(part.epoch)
            self._next = _Snapshot(RoomView.begin(part, part.rules))
        snapshot = self._next
        if snapshot is None or snapshot.complete_at_seq is not None:
            raise Gap  # a later part without the first
        snapshot.view.add(part)
        if part.is_last:
            snapshot.complete_at_seq = part.complete_at_seq
            for changes in snapshot.changes:
                snapshot.view.apply(changes)
            snapshot.changes = []

    def _change(self, changes: queue_pb2.RoomChanges) -> None:
        snapshot, view = self._next, self.view
        if snapshot is not None and snapshot.complete_at_seq is None:
            snapshot.changes.append(changes)
        elif snapshot is not None:
            snapshot.view.apply(changes)
        self._begin_epoch(changes.epoch)
        self.lost.note(changes)
        if view is None or view is not self.view:
            if snapshot is None:
                raise Gap
        elif snapshot is None or (changes.epoch, changes.seq) == (view.epoch, view.seq + 1):
            view.apply(changes)

    def _begin_epoch(self, epoch: int) -> None:
        """Notices that the store has lost places: their epoch is over."""
        if epoch <= self.epoch:
            return
        self.epoch = epoch
        if self.view is None:
            return
        self.lost.add(self.view, self.freshness.now_ms())
        self.view = None
        self.freshness.reset()
        self.on_loss()

    def _adopt(self) -> None:
        """Replaces the view by the snapshot, once it is complete and has come as far."""
        snapshot, view = self._next, self.view
        if snapshot is None or snapshot.complete_at_seq is None:
            return
        new = snapshot.view
        if new.seq < snapshot.complete_at_seq or new.epoch < self.epoch:
            return
        if view is not None and new.seq < view.seq:
            return
        self.view = new
        new.use(self._draw)
        self._next = None
        self.on_rules(new.rules)
        self.freshness.seconds = min(self._longest_fresh_seconds, new.rules.poll_min_ms / 1000)
