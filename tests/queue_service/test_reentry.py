"""A live place that needs a proof is handed out to its owner only, over the fake and over Redis."""

import pytest

from queue_service.domain import Entry, Place, Refusal
from room_view.position import Standing
from tests.queue_service.conftest import MakeRoom, RoomHandle

NOT_YOURS = Refusal.NOT_YOURS


async def enter(room: RoomHandle, user_id: int, proven: int = 0, attempt: str = "") -> object:
    """The order of the place that the user gets, or the refusal."""
    answer = await room.try_enter(user_id, needs_proof=True, proven_place=proven, attempt=attempt)
    return answer.order if isinstance(answer, Standing) else answer


async def test_only_its_number_hands_a_place_out_again(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    admitted, waiting = await room.enter(11, 12)
    for proven in (
        0,
        1,
        -1,
        -(2**63),
        2**63 - 1,
        admitted.number,
        waiting.number - 1,
        waiting.number + 1,
    ):
        assert await enter(room, 12, proven) is NOT_YOURS
    assert await enter(room, 12, waiting.number) == 1
    assert await enter(room, 11) is NOT_YOURS
    assert await enter(room, 11, admitted.number) == 0
    assert await room.orders([admitted, waiting]) == [0, 1]


async def test_without_a_live_place_no_proof_is_needed(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    assert await enter(room, 11) == 0
    (first,) = await room.enter(11)
    await room.leave(first)
    assert await enter(room, 11) == 0
    assert await enter(room, 11, first.number) is NOT_YOURS, "the proof of an ended place"


async def test_a_refused_entry_is_no_sign_of_life(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, absent_after_ms=600)
    first, second, third = await room.enter(11, 12, 13)
    for _ in range(3):
        await room.sleep(240, keep=[third])
        assert await enter(room, 12) is NOT_YOURS
    await room.leave(first)
    assert await room.orders([third, second]) == [0, None]


async def test_a_refused_entry_claims_no_admission(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, claim_window_ms=300)
    first, second, third = await room.enter(11, 12, 13)
    await room.leave(first)
    assert await enter(room, 12) is NOT_YOURS
    await room.sleep(340, keep=[third])
    assert await room.orders([third, second]) == [0, None]


async def test_a_repeated_attempt_gets_its_place(make_room: MakeRoom) -> None:
    """As gRPC and redis-py repeat a call whose reply was lost."""
    room = make_room(capacity=0)
    for attempt in ("a1", "a1", "a1"):
        assert await enter(room, 11, attempt=attempt) == 1
    for attempt in ("a2", "", "a"):
        assert await enter(room, 11, attempt=attempt) is NOT_YOURS
    assert await enter(room, 12, attempt="a1") == 2, "the attempt of another user"
    # It names the place, not the user.
    (place,) = await room.enter(11)
    await room.leave(place)
    assert await enter(room, 11) == 2
    assert await enter(room, 11, attempt="a1") is NOT_YOURS


@pytest.mark.parametrize("attempts", [("", ""), ("a1", "a2")])
async def test_two_at_once_are_one_owner(make_room: MakeRoom, attempts: tuple[str, str]) -> None:
    room = make_room(capacity=0)
    entries = [Entry(11, needs_proof=True, attempt=attempt) for attempt in attempts]
    _, answers = await room.store.enter(room.room, entries)
    assert isinstance(answers[0], tuple)
    assert answers[1] is NOT_YOURS
    assert (await room.tick()).waiting == 1


async def test_a_restored_place_needs_its_number(make_room: MakeRoom) -> None:
    room = make_room(capacity=0)
    (place,) = await room.enter(11)
    await room.forget()
    assert await room.orders([place]) == [1]
    assert await enter(room, 11) is NOT_YOURS
    assert await enter(room, 11, place.number) == 1
    stolen = Place(room.room, place.number, 12, place.epoch)
    assert await room.orders([stolen]) == [None]
