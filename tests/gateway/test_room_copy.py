"""The copy of the room: what it applies, what it refuses, and how fresh it is."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from gateway.room.copy import RoomCopy
from protos.frontrow.queue.v1 import queue_pb2
from room_view.view import Gap

BOUND = 0.3
WAITING = queue_pb2.RoomChange.KIND_WAITING
ADMITTED = queue_pb2.RoomChange.KIND_ADMITTED
CLAIMED = queue_pb2.RoomChange.KIND_CLAIMED
ENDED = queue_pb2.RoomChange.KIND_ENDED
RULES = queue_pb2.RoomRules(
    poll_min_ms=1_000,
    poll_max_ms=60_000,
    admission_ttl_ms=600_000,
    claim_window_ms=150_000,
    absent_after_ms=300_000,
)


def snapshot(
    epoch: int = 1,
    seq: int = 0,
    waiting: Sequence[int] = (),
    admitted: Sequence[queue_pb2.AdmittedPlace] = (),
    *,
    complete_at: int | None = None,
    is_first: bool = True,
    is_last: bool = True,
) -> queue_pb2.WatchRoomResponse:
    return queue_pb2.WatchRoomResponse(
        snapshot=queue_pb2.RoomSnapshot(
            epoch=epoch,
            seq=seq,
            fields=queue_pb2.RoomFields(capacity=10, max_waiting=100),
            rules=RULES,
            waiting=waiting,
            admitted=admitted,
            last=max(waiting, default=0),
            complete_at_seq=seq if complete_at is None else complete_at,
            is_first=is_first,
            is_last=is_last,
        )
    )


def change(
    seq: int, kind: queue_pb2.RoomChange.Kind.ValueType, number: int, epoch: int = 1
) -> queue_pb2.WatchRoomResponse:
    return queue_pb2.WatchRoomResponse(
        changes=[
            queue_pb2.RoomChanges(
                epoch=epoch, seq=seq, changes=[queue_pb2.RoomChange(kind=kind, number=number)]
            )
        ]
    )


def heartbeat(heartbeat_id: int, seq: int, epoch: int = 1) -> queue_pb2.WatchRoomResponse:
    return queue_pb2.WatchRoomResponse(
        heartbeat=queue_pb2.Heartbeat(
            id=heartbeat_id, epoch=epoch, seq=seq, now_ms=time.time_ns() // 1_000_000
        )
    )


@pytest.fixture
def copy() -> RoomCopy:
    copy = RoomCopy(BOUND)
    copy.freshness.ask = lambda: bool(copy.freshness.asked())
    return copy


def order(copy: RoomCopy, number: int) -> int:
    assert copy.view is not None
    return copy.view.order(number)


class TestSnapshots:
    def test_one_in_parts_with_the_changes_that_follow(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=7, waiting=[1, 2], complete_at=0, is_last=False))
        copy.apply(change(8, WAITING, 5))
        assert copy.view is None
        copy.apply(snapshot(waiting=[3, 4], complete_at=9, is_first=False))
        assert copy.view is None  # complete at 9
        copy.apply(change(9, ENDED, 1))
        assert [order(copy, number) for number in (1, 2, 3, 4, 5)] == [0, 1, 2, 3, 4]

    def test_one_of_a_replica_that_is_behind_waits(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=5, waiting=[2, 3]))
        copy.apply(snapshot(seq=4, waiting=[1, 2, 3]))
        assert order(copy, 3) == 2
        copy.apply(change(5, ENDED, 1))
        copy.apply(change(6, ENDED, 2))
        assert order(copy, 3) == 1

    def test_one_of_an_earlier_epoch_is_of_no_use(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(epoch=2, seq=1, waiting=[3]))
        copy.apply(snapshot(epoch=1, seq=9, waiting=[1, 2, 3]))
        assert order(copy, 3) == 1

    def test_a_part_without_the_first_is_a_gap(self, copy: RoomCopy) -> None:
        with pytest.raises(Gap):
            copy.apply(snapshot(waiting=[1], is_first=False))

    def test_an_incomplete_one_ends_with_its_stream(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(waiting=[1], is_last=False))
        copy.disconnected()
        with pytest.raises(Gap):
            copy.apply(snapshot(waiting=[2], is_first=False))
        assert copy.view is None


class TestChanges:
    def test_a_missing_one_is_a_gap_and_a_repeated_one_is_not(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=1, waiting=[1]))
        copy.apply(change(2, WAITING, 2))
        copy.apply(change(2, WAITING, 2))
        with pytest.raises(Gap):
            copy.apply(change(4, ENDED, 1))
        assert order(copy, 2) == 2

    def test_one_of_a_later_epoch_is_a_loss(self, copy: RoomCopy) -> None:
        lost = []
        copy.on_loss = lambda: lost.append(copy.lost.newest)
        copy.apply(snapshot(seq=1, waiting=[1]))
        view = copy.view
        with pytest.raises(Gap):
            copy.apply(change(1, WAITING, 9, epoch=2))
        assert copy.view is None
        assert lost == [view]
        copy.apply(snapshot(epoch=2, seq=1, waiting=[9]))
        assert order(copy, 9) == 1
        assert copy.lost.newest is view
        copy.healed()
        assert copy.lost.newest is None


class TestFreshness:
    def test_nothing_is_fresh_without_a_heartbeat(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(waiting=[1]))
        assert not copy.freshness.is_fresh()

    def test_it_counts_from_the_question_once_its_change_is_applied(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=1, waiting=[1]))
        before = time.monotonic()
        asked = copy.freshness.asked()
        after = time.monotonic()
        copy.apply(heartbeat(asked, seq=2))
        assert not copy.freshness.is_fresh()
        copy.apply(change(2, WAITING, 2))
        assert copy.freshness.is_fresh()
        assert before <= copy.freshness.as_of <= after

    def test_one_of_another_epoch_proves_nothing(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(epoch=2, seq=5, waiting=[1]))
        copy.apply(heartbeat(copy.freshness.asked(), seq=1, epoch=1))
        assert not copy.freshness.is_fresh()

    def test_one_of_a_later_epoch_is_a_loss_and_counts_for_that_epoch(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(epoch=1, seq=5, waiting=[1]))
        copy.apply(heartbeat(copy.freshness.asked(), seq=5))
        assert copy.freshness.is_fresh()
        copy.apply(heartbeat(copy.freshness.asked(), seq=2, epoch=2))
        assert copy.view is None
        assert not copy.freshness.is_fresh()
        copy.apply(snapshot(epoch=2, seq=1, waiting=[1], complete_at=1))
        assert not copy.freshness.is_fresh()
        copy.apply(change(2, WAITING, 7, epoch=2))
        assert copy.freshness.is_fresh()

    def test_one_that_nobody_asked_for_proves_nothing(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=1, waiting=[1]))
        copy.apply(heartbeat(copy.freshness.asked() + 1, seq=1))
        assert not copy.freshness.is_fresh()

    async def test_requests_share_one_heartbeat_and_wait_no_longer_than_the_bound(
        self, copy: RoomCopy
    ) -> None:
        copy.apply(snapshot(seq=1, waiting=[1]))
        waiting = [asyncio.create_task(copy.freshness.becomes_fresh()) for _ in range(3)]
        await asyncio.sleep(0)
        copy.apply(heartbeat(1, seq=1))
        assert await asyncio.gather(*waiting) == [True] * 3
        await asyncio.sleep(BOUND)
        started = time.monotonic()
        assert not await copy.freshness.becomes_fresh()
        assert BOUND - 0.01 <= time.monotonic() - started < 3 * BOUND
        # The heartbeat is overdue: nobody else waits for it.
        started = time.monotonic()
        assert not await copy.freshness.becomes_fresh()
        assert time.monotonic() - started < BOUND / 2

    async def test_nobody_waits_for_a_stream_that_ends(self, copy: RoomCopy) -> None:
        copy.apply(snapshot(seq=1, waiting=[1]))
        waiting = asyncio.create_task(copy.freshness.becomes_fresh())
        await asyncio.sleep(0)
        copy.disconnected()
        async with asyncio.timeout(BOUND / 2):
            assert not await waiting

    def test_the_bound_is_at_most_the_shortest_advised_pause(self, copy: RoomCopy) -> None:
        message = snapshot()
        message.snapshot.rules.poll_min_ms = 100
        copy.apply(message)
        assert copy.freshness.seconds == 0.1
