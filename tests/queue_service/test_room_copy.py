"""Snapshots that a replica makes of its own copy."""

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.room_copy import PART_ADMISSIONS, PART_PLACES, RoomCopy
from room_view.line import Line
from room_view.view import Admission, RoomView
from tests.queue_service.watching import RULES, Store


def copy_of(waiting: int, admitted: int) -> RoomCopy:
    copy = RoomCopy(Store(), "main", RULES)
    view = RoomView(7, 100, RULES, queue_pb2.RoomFields(capacity=9), last=2_000_000)
    view.line = Line(range(1_000_001, 1_000_001 + waiting))
    view.admitted = {number: Admission(number, 5, True) for number in range(1, admitted + 1)}
    copy.view = view
    return copy


def test_parts_are_small_and_complete() -> None:
    copy = copy_of(2 * PART_PLACES + 1, 2 * PART_ADMISSIONS)
    parts = list(copy.snapshot())
    assert [len(part.waiting) for part in parts] == [PART_PLACES, PART_PLACES, 1, 0]
    assert [len(part.admitted) for part in parts] == [0, 0, PART_ADMISSIONS, PART_ADMISSIONS]
    assert [part.is_first for part in parts] == [True, False, False, False]
    assert [part.is_last for part in parts] == [False, False, False, True]
    first, last = parts[0], parts[-1]
    assert (first.epoch, first.seq, first.last, first.fields.capacity) == (7, 100, 2_000_000, 9)
    assert (first.rules, last.complete_at_seq) == (RULES, 100)
    numbers = [number for part in parts for number in part.waiting]
    assert numbers == list(range(1_000_001, 1_000_002 + 2 * PART_PLACES))
    admitted = [place.number for part in parts for place in part.admitted]
    assert admitted == list(range(1, 2 * PART_ADMISSIONS + 1))


def test_an_empty_room_has_one_part() -> None:
    (part,) = copy_of(0, 0).snapshot()
    assert (part.is_first, part.is_last, part.complete_at_seq) == (True, True, 100)


def test_changes_do_not_touch_a_snapshot_that_is_being_sent() -> None:
    copy = copy_of(PART_PLACES + 1, 1)
    parts = copy.snapshot()
    next(parts)
    assert copy.view is not None
    ends = [1, 1_000_001, 1_000_001 + PART_PLACES]
    for seq, number in enumerate(ends, 101):
        change = queue_pb2.RoomChange(kind=queue_pb2.RoomChange.KIND_ENDED, number=number)
        copy.view.apply(queue_pb2.RoomChanges(epoch=7, seq=seq, changes=[change]))
    (part,) = parts
    assert (list(part.waiting), len(part.admitted)) == ([1_000_001 + PART_PLACES], 1)
    assert part.complete_at_seq == 100
