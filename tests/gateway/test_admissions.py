"""Admission checks and their cache."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from gateway.admissions import Admissions
from gateway.errors import StillWaiting, TokenExpired
from gateway.pace import Pace
from gateway.room.answers import RoomAnswers
from gateway.room.copy import RoomCopy
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
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
    """A waiting room that answers every place with `position` and counts the places."""

    def __init__(self) -> None:
        self.position = admitted()
        self.asked = 0
        self.seconds = 0.0

    async def __call__(self, places: Sequence[queue_pb2.Place]) -> Sequence[queue_pb2.Position]:
        self.asked += len(places)
        await asyncio.sleep(self.seconds)
        return [self.position for _ in places]


@pytest.fixture
def room() -> Room:
    return Room()


def admissions_of(room: Room, ttl_seconds: float = 1, *, pace: bool = False) -> Admissions:
    no_view = RoomAnswers(RoomCopy(0.3), SignsOfLife(), QueueOutage(60, "main"))
    positions = Batcher(room, budget=1, max_batch=256)
    return Admissions(positions, ttl_seconds, Pace(enforced=pace), no_view)


async def test_an_admission_is_cached(room: Room) -> None:
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    await admissions.check(PLACE)
    assert room.asked == 1


async def test_the_time_to_live_starts_with_the_question(room: Room) -> None:
    """The place may end while a slow answer is on its way."""
    admissions = admissions_of(room, ttl_seconds=0.1)
    room.seconds = 0.15
    for _ in range(2):
        await admissions.check(PLACE)
    assert room.asked == 2


async def test_the_cache_ends_after_its_time_to_live(room: Room) -> None:
    admissions = admissions_of(room, ttl_seconds=0.02)
    await admissions.check(PLACE)
    await asyncio.sleep(0.03)
    await admissions.check(PLACE)
    assert room.asked == 2


async def test_the_cache_ends_with_the_admission(room: Room) -> None:
    room.position = admitted(seconds=0.03)
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    await asyncio.sleep(0.04)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.check(PLACE)


async def test_an_admission_that_has_ended_by_our_clock_is_not_cached(room: Room) -> None:
    room.position = admitted(seconds=-5)
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    await admissions.check(PLACE)
    assert room.asked == 2


async def test_places_are_cached_separately(room: Room) -> None:
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    room.position = WAITING
    with pytest.raises(StillWaiting):
        await admissions.check(queue_pb2.Place(room="main", number=8, user_id=42, epoch=1))


@pytest.mark.parametrize("position", [WAITING, ENDED])
async def test_other_states_are_not_cached(room: Room, position: queue_pb2.Position) -> None:
    admissions = admissions_of(room)
    room.position = position
    with pytest.raises((StillWaiting, TokenExpired)):
        await admissions.check(PLACE)
    room.position = admitted()
    await admissions.check(PLACE)


async def test_a_waiting_place_gets_its_order_and_the_time_of_the_next_poll(room: Room) -> None:
    room.position = WAITING
    with pytest.raises(StillWaiting) as waiting:
        await admissions_of(room).check(PLACE)
    assert (waiting.value.order, waiting.value.retry_after) == (3, 2)


async def test_the_next_poll_is_at_least_one_second_later(room: Room) -> None:
    room.position = queue_pb2.Position(state=queue_pb2.PLACE_STATE_WAITING, order=1)
    with pytest.raises(StillWaiting) as waiting:
        await admissions_of(room).check(PLACE)
    assert waiting.value.retry_after == 1


async def test_forget_makes_the_next_check_ask_again(room: Room) -> None:
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    admissions.forget(PLACE)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.check(PLACE)
    admissions.forget(PLACE)  # no-op without an entry


async def test_an_admission_that_a_payment_ended_is_refused_before_its_event(room: Room) -> None:
    admissions = admissions_of(room)
    await admissions.check_unpaid(PLACE)
    admissions.end(PLACE)
    for _ in range(2):
        with pytest.raises(TokenExpired):
            await admissions.check_unpaid(PLACE)
    assert room.asked == 1
    await admissions.check_unpaid(queue_pb2.Place(number=8))


async def test_positions_are_never_cached(room: Room) -> None:
    admissions = admissions_of(room)
    await admissions.check(PLACE)
    room.position = ENDED
    with pytest.raises(TokenExpired):
        await admissions.position(PLACE)


async def test_the_size_is_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admissions._MAX_CACHED", 2)
    admissions = admissions_of(room)
    places = [queue_pb2.Place(number=number) for number in (1, 2, 3)]
    for place in places:
        await admissions.check(place)
    await admissions.check(places[2])
    assert room.asked == 3
    await admissions.check(places[0])
    assert room.asked == 4
