"""The newest changes of a room, for those who watch it."""

from dataclasses import dataclass

from protos.frontrow.queue.v1 import queue_pb2

KEEP_SECONDS = 30.0
"""How long a change is kept at most. A caller that watches again within that time needs no
snapshot: a stream that was cut is opened again within a second."""

MAX_BYTES = 16 * 1024 * 1024
"""Memory for the changes of a room: 15 s of 4,500 calls a second that change one place each. A
watcher that is further behind is dropped."""

# What an entry takes beside its bytes. As a message, a change would take a kilobyte.
_OVERHEAD = 200

# The others can wait: the gateway that made a place join, or claimed an admission, has its answer.
_URGENT = {
    queue_pb2.RoomChange.KIND_ADMITTED,
    queue_pb2.RoomChange.KIND_ENDED,
    queue_pb2.RoomChange.KIND_FIELDS,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    changes: bytes
    count: int
    read_at: float


class RecentChanges:
    """Changes of one epoch, without a gap. All watchers of a room share them: a watcher is only a
    number, how far it has come."""

    def __init__(self, epoch: int, seq: int) -> None:
        """Begins after change `seq`."""
        self.epoch = epoch
        self.seq = seq
        """The newest change."""
        self.urgent_seq = 0
        """The newest change that should reach the watchers at once."""
        self._entries: dict[int, _Entry] = {}
        self._oldest = seq + 1
        self._bytes = 0

    def append(self, changes: queue_pb2.RoomChanges, now: float) -> None:
        """Adds the next change and drops the oldest. `now` is the time of the loop."""
        entry = _Entry(changes.SerializeToString(), len(changes.changes), now)
        self.seq = changes.seq
        self._entries[self.seq] = entry
        self._bytes += len(entry.changes) + _OVERHEAD
        if any(change.kind in _URGENT for change in changes.changes):
            self.urgent_seq = self.seq
        while self._bytes > MAX_BYTES or self._entries[self._oldest].read_at < now - KEEP_SECONDS:
            self._bytes -= len(self._entries.pop(self._oldest).changes) + _OVERHEAD
            self._oldest += 1

    def reach_back_to(self, seq: int) -> bool:
        """Whether all changes after change `seq` are here."""
        return self._oldest - 1 <= seq <= self.seq

    def after(self, seq: int, max_bytes: int, max_places: int) -> queue_pb2.WatchRoomResponse:
        """Returns a message with the changes after change `seq`: as many as have at most
        `max_bytes` and change `max_places` places, but one at least, if there is one. Needs
        `reach_back_to(seq)`."""
        message = queue_pb2.WatchRoomResponse()
        size = places = 0
        for number in range(seq + 1, self.seq + 1):
            entry = self._entries[number]
            size += len(entry.changes)
            places += entry.count
            if message.changes and (size > max_bytes or places > max_places):
                break
            message.changes.add().MergeFromString(entry.changes)
        return message
