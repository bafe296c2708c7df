"""The registry of rooms, with a queue_service that does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from catalogue_view.cohorts import Cohorts
from gateway.errors import TokenExpired
from gateway.rooms import Rooms
from gateway.settings import Settings
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.concert.v1.rooms_pb2_grpc import DrawServiceStub
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceStub
from servicekit.errors import ServiceError, Unavailable
from tests.gateway.fakes import KEYS

LONG_AGO = int(time.time()) - 3_600


def place(room: str, issued_at: int = LONG_AGO) -> queue_pb2.Place:
    return queue_pb2.Place(room=room, number=7, user_id=42, epoch=1, issued_at=issued_at)


def named(name: str) -> rooms_pb2.Room:
    return rooms_pb2.Room(name=name, version=1)


@pytest.fixture
async def rooms(unused_address: str) -> AsyncIterator[Rooms]:
    async with grpc.aio.insecure_channel(unused_address) as channel:
        settings = Settings(token_keys=KEYS, room="main")
        rooms = Rooms(QueueServiceStub(channel), settings, Cohorts(DrawServiceStub(channel)))
        yield rooms
        await rooms.close()


async def test_the_room_of_the_settings_exists_from_the_start(rooms: Rooms) -> None:
    assert rooms.of(place("main")) is rooms.main
    rooms.remove("main")
    rooms.keep_only([named("vip")])
    assert rooms.of(place("main")) is rooms.main


async def test_a_place_of_a_removed_room_has_expired(rooms: Rooms) -> None:
    rooms.keep_only([named("vip")])
    assert rooms.of(place("vip")).name == "vip"
    rooms.remove("vip")
    with pytest.raises(TokenExpired):
        rooms.of(place("vip"))


async def test_before_the_catalogue_is_known_any_room_may_exist(rooms: Rooms) -> None:
    with pytest.raises(Unavailable):
        rooms.of(place("vip"))


async def test_a_new_token_may_be_of_a_room_that_is_not_known_here_yet(rooms: Rooms) -> None:
    """Another gateway process has known it for a moment."""
    rooms.keep_only([])
    with pytest.raises(Unavailable):
        rooms.of(place("vip", issued_at=int(time.time())))


async def test_adding_a_room_again_keeps_it(rooms: Rooms) -> None:
    vip = rooms.add("vip")
    rooms.keep_only([named("vip"), named("club")])
    assert rooms.add("vip") is vip
    assert {room.name for room in rooms} == {"main", "vip", "club"}


async def test_a_removed_room_watches_no_more(rooms: Rooms) -> None:
    before = asyncio.all_tasks()
    rooms.add("vip")
    assert len(asyncio.all_tasks()) > len(before)
    rooms.remove("vip")
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_rooms_share_nothing(rooms: Rooms) -> None:
    """What is noted about a place is not noted about the one with its number in another room."""
    vip = rooms.add("vip")
    vip.admissions.end(place("vip"))
    with pytest.raises(TokenExpired):
        await vip.admissions.check_unpaid(place("vip"))
    with pytest.raises(ServiceError, match="did not answer"):  # asks queue_service
        await rooms.main.admissions.check_unpaid(place("main"))
