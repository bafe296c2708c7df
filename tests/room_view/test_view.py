"""Where a place stands in a view."""

from protos.frontrow.queue.v1 import queue_pb2
from room_view.position import PlaceState, Standing
from room_view.view import RoomView

Change = queue_pb2.RoomChange


def changes(seq: int, *changes: queue_pb2.RoomChange, epoch: int = 1) -> queue_pb2.RoomChanges:
    return queue_pb2.RoomChanges(epoch=epoch, seq=seq, changes=changes)


def waits(number: int) -> queue_pb2.RoomChange:
    return Change(kind=Change.KIND_WAITING, number=number)


def admitted(number: int, user_id: int, until: int, *, claimed: bool) -> queue_pb2.RoomChange:
    kind = Change.KIND_CLAIMED if claimed else Change.KIND_ADMITTED
    return Change(kind=kind, number=number, user_id=user_id, admitted_until_ms=until)


def empty() -> RoomView:
    return RoomView(1, 0, queue_pb2.RoomRules(), queue_pb2.RoomFields())


def test_a_place_waits_is_admitted_and_claimed_and_ends() -> None:
    view = empty()
    view.apply(changes(1, waits(10), waits(20)))
    assert view.standing(20, 2, 0) == Standing(PlaceState.WAITING, 2)
    view.apply(changes(2, admitted(10, 1, 500, claimed=False)))
    assert view.standing(20, 2, 0) == Standing(PlaceState.WAITING, 1)
    assert view.standing(10, 1, 0) == Standing(PlaceState.ADMITTED, 0, 500, claimed=False)
    view.apply(changes(3, admitted(10, 1, 900, claimed=True)))
    assert view.standing(10, 1, 500) == Standing(PlaceState.ADMITTED, 0, 900, claimed=True)
    view.apply(changes(4, Change(kind=Change.KIND_ENDED, number=10)))
    assert view.standing(10, 1, 0) is None


def test_an_admission_that_has_run_out_is_unknown() -> None:
    view = empty()
    view.apply(changes(1, admitted(10, 1, 500, claimed=True)))
    assert view.standing(10, 1, 499) is not None
    assert view.standing(10, 1, 500) is None


def test_an_admission_of_another_user_is_unknown() -> None:
    view = empty()
    view.apply(changes(1, admitted(10, 1, 500, claimed=True)))
    assert view.standing(10, 2, 0) is None
