"""The door of the shop, and how long it remembers a face."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from gateway.admissions import Admissions
from gateway.errors import StillWaiting, TokenExpired
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher

PLACE = queue_pb2.Place(room="main", number=7, user_id=42, epoch=1)
WAITING = queue_pb2.Position(
    state=queue_pb2.PLACE_STATE_WAITING, order=3, poll_after_ms=1_001, estimated_wait_ms=9
)
ENDED = queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED)


def admitted(seconds: float = 600) -> queue_pb2.Position:
    return queue_pb2.Position(
        state=queue_pb2.PLACE_STATE_ADMITTED, admitted_until_ms=int((time.time() + seconds) * 1000)
    )


class Room:
    """Answers with the position it is given, and counts."""

    def __init__(self) -> None:
        self.position = admitted()
        self.asked = 0

    async def __call__(self, places: Sequence[queue_pb2.Place]) -> Sequence[queue_pb2.Position]:
        self.asked += len(places)
        return [self.position for _ in places]


@pytest.fixture
def room() -> Room:
    return Room()


def door(room: Room, ttl_seconds: float = 1) -> Admissions:
    return Admissions(Batcher(room, budget=1, max_batch=256), ttl_seconds)


async def test_who_is_admitted_is_remembered_for_the_time_to_live(room: Room) -> None:
    admissions = door(room)
    await admissions.check(PLACE)
    await admissions.check(PLACE)
    assert room.asked == 1


async def test_who_is_admitted_is_not_remembered_for_longer(room: Room) -> None:
    admissions = door(room, ttl_seconds=0.02)
    await admissions.check(PLACE)
    await asyncio.sleep(0.03)
    await admissions.check(PLACE)
    assert room.asked == 2


async def test_who_is_admitted_is_not_remembered_beyond_the_admission(room: Room) -> None:
    room.position = admitted(seconds=0.03)
    admissions = door(room)
    await admissions.check(PLACE)
    await asyncio.sleep(0.04)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.check(PLACE)


async def test_a_clock_behind_the_room_remembers_nothing(room: Room) -> None:
    room.position = admitted(seconds=-5)
    admissions = door(room)
    await admissions.check(PLACE)
    await admissions.check(PLACE)
    assert room.asked == 2


async def test_one_face_is_not_another(room: Room) -> None:
    admissions = door(room)
    await admissions.check(PLACE)
    room.position = WAITING
    with pytest.raises(StillWaiting):
        await admissions.check(queue_pb2.Place(room="main", number=8, user_id=42, epoch=1))


@pytest.mark.parametrize("position", [WAITING, ENDED])
async def test_who_is_not_admitted_is_not_remembered(
    room: Room, position: queue_pb2.Position
) -> None:
    admissions = door(room)
    room.position = position
    with pytest.raises((StillWaiting, TokenExpired)):
        await admissions.check(PLACE)
    room.position = admitted()
    await admissions.check(PLACE)


async def test_who_waits_is_told_where_and_how_long(room: Room) -> None:
    room.position = WAITING
    with pytest.raises(StillWaiting) as waiting:
        await door(room).check(PLACE)
    assert (waiting.value.order, waiting.value.retry_after) == (3, 2)


async def test_who_has_no_time_told_waits_a_second(room: Room) -> None:
    room.position = queue_pb2.Position(state=queue_pb2.PLACE_STATE_WAITING, order=1)
    with pytest.raises(StillWaiting) as waiting:
        await door(room).check(PLACE)
    assert waiting.value.retry_after == 1


async def test_forgetting_asks_again(room: Room) -> None:
    admissions = door(room)
    await admissions.check(PLACE)
    admissions.forget(PLACE)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.check(PLACE)
    admissions.forget(PLACE)  # nothing to forget is no error


async def test_the_position_is_always_asked(room: Room) -> None:
    admissions = door(room)
    await admissions.check(PLACE)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.position(PLACE)


async def test_it_remembers_so_many_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admissions._MAX_CACHED", 2)
    admissions = door(room)
    places = [queue_pb2.Place(number=number) for number in (1, 2, 3)]
    for place in places:
        await admissions.check(place)
    await admissions.check(places[2])
    assert room.asked == 3
    await admissions.check(places[0])
    assert room.asked == 4
