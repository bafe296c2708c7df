"""The newest changes: how far back they reach, and how many go into one message."""

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from queue_service import recent_changes
from queue_service.recent_changes import KEEP_SECONDS, RecentChanges

Kind = queue_pb2.RoomChange.Kind
WAITING = queue_pb2.RoomChange.KIND_WAITING


def changes(seq: int, kind: "Kind.ValueType" = WAITING, count: int = 1) -> queue_pb2.RoomChanges:
    return queue_pb2.RoomChanges(
        epoch=7, seq=seq, changes=[queue_pb2.RoomChange(kind=kind, number=2**52)] * count
    )


def seqs(message: queue_pb2.WatchRoomResponse) -> list[int]:
    return [changes.seq for changes in message.changes]


def test_all_after_one_in_order() -> None:
    recent = RecentChanges(7, 10)
    assert recent.reach_back_to(10)
    assert not recent.reach_back_to(9)
    assert not recent.reach_back_to(11)
    for seq in range(11, 15):
        recent.append(changes(seq), now=0)
    assert seqs(recent.after(10, 10_000, 10_000)) == [11, 12, 13, 14]
    assert seqs(recent.after(13, 10_000, 10_000)) == [14]
    assert seqs(recent.after(14, 10_000, 10_000)) == []
    assert recent.seq == 14


def test_old_ones_are_dropped() -> None:
    recent = RecentChanges(7, 0)
    for seq in range(1, 4):
        recent.append(changes(seq), now=seq)
    recent.append(changes(4), now=2.5 + KEEP_SECONDS)
    assert not recent.reach_back_to(1)
    assert recent.reach_back_to(2)
    assert seqs(recent.after(2, 10_000, 10_000)) == [3, 4]
    # After a long silence, the newest is still there.
    recent.append(changes(5), now=10 * KEEP_SECONDS)
    assert seqs(recent.after(4, 10_000, 10_000)) == [5]


def test_their_bytes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_changes, "_OVERHEAD", 7)
    size = changes(100).ByteSize() + 7
    monkeypatch.setattr(recent_changes, "MAX_BYTES", 5 * size)
    recent = RecentChanges(7, 100)
    for seq in range(101, 121):
        recent.append(changes(seq), now=0)
    assert [seq for seq in range(100, 122) if recent.reach_back_to(seq)] == list(range(115, 121))


def test_a_message_takes_what_its_limit_allows_and_one_at_least() -> None:
    recent = RecentChanges(7, 0)
    for seq in range(1, 6):
        recent.append(changes(seq, count=100), now=0)
    size = changes(1, count=100).ByteSize()
    assert seqs(recent.after(0, 2 * size, 10_000)) == [1, 2]
    assert seqs(recent.after(2, 2 * size - 1, 10_000)) == [3]
    assert seqs(recent.after(3, 0, 10_000)) == [4]
    assert seqs(recent.after(0, 10**6, 399)) == [1, 2, 3]
    assert seqs(recent.after(0, 10**6, 200)) == [1, 2]
    assert seqs(recent.after(3, 10**6, 0)) == [4]


@pytest.mark.parametrize(
    ("kind", "urgent"),
    [
        (queue_pb2.RoomChange.KIND_WAITING, False),
        (queue_pb2.RoomChange.KIND_CLAIMED, False),
        (queue_pb2.RoomChange.KIND_ADMITTED, True),
        (queue_pb2.RoomChange.KIND_ENDED, True),
        (queue_pb2.RoomChange.KIND_FIELDS, True),
    ],
)
def test_what_shuts_or_opens_the_shop_is_urgent(kind: "Kind.ValueType", urgent: bool) -> None:
    recent = RecentChanges(7, 0)
    recent.append(changes(1, kind), now=0)
    assert recent.urgent_seq == (1 if urgent else 0)
    recent.append(changes(2), now=0)
    assert recent.urgent_seq == (1 if urgent else 0)
