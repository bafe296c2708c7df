"""Error table, 403 STILL_WAITING, 429 and 503 QUEUE_PAUSED: it is not the fan's turn."""

import time
from collections.abc import AsyncIterator

import grpc
import pytest

from harness.local.stack import Stack
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials
from tests.e2e.conftest import DOOR
from tests.e2e.refusals import assert_refused_for_now, routes_for_admitted_users
from tests.e2e.shop import Shop, assert_problem, eventually


@pytest.fixture(scope="module")
def door(stack: Stack) -> str:
    """The name of a gateway to the room DOOR, with the usual limit of requests per second."""
    gateway = stack.add_replica(
        "gateway", {"GATEWAY_ROOM": DOOR, "GATEWAY_REQUESTS_PER_SECOND": "20"}
    )
    gateway.start()
    return gateway.name


class Room:
    """The room DOOR in an operator's hand."""

    def __init__(self, address: str, admin_token: str) -> None:
        self._address = address
        self._credential = credentials(admin_token)

    async def set(self, **limits: int | bool) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = queue_pb2_grpc.QueueAdminServiceStub(channel)
            await stub.UpdateRoom(
                queue_pb2.UpdateRoomRequest(room=DOOR, **limits),  # type: ignore[arg-type]
                timeout=5,
                metadata=self._credential,
            )


@pytest.fixture
async def room(stack: Stack, shop: Shop, door: str) -> AsyncIterator[Room]:
    room = Room(stack.address("queue_service"), stack.secrets.admin_token)
    await room.set(capacity=1000, max_waiting=1000, paused=False)
    yield room
    await room.set(capacity=1000, max_waiting=1000, paused=False)
    await shop.empty(door)


# 403 STILL_WAITING.


async def test_who_still_waits(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=1)
    first = await shop.admitted(door)
    waiting = [shop.fan(door) for _ in range(3)]
    for order, fan in enumerate(waiting, start=1):
        entered = await fan.enter()
        assert (entered.status_code, entered.json()["order"]) == (201, order)
        assert entered.json()["admittedUntil"] is None
        assert int(entered.headers["Retry-After"]) >= 1
    for order, fan in enumerate(waiting, start=1):
        for reply in await routes_for_admitted_users(fan):
            problem = assert_problem(reply, 403, "STILL_WAITING")
            assert problem.order == order
        reply = await fan.order()
        body = reply.json()
        assert (reply.status_code, body["order"]) == (200, order)
        assert int(reply.headers["Retry-After"]) >= 1
        assert body["pollAfterSeconds"] > 0
        assert body["estimatedWaitSeconds"] > 0
    # The next in line gets in as soon as the first leaves. An answer is at most 0.3 s old.
    await first.leave()

    async def is_next() -> None:
        assert (await waiting[0].order()).json()["order"] == 0

    await eventually(is_next, within=2)
    assert (await waiting[0].concerts()).status_code == 200
    for fan in waiting:
        await fan.leave()


# 429 QUEUE_FULL, 503 QUEUE_PAUSED.


async def test_the_waiting_room_is_full(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=0, max_waiting=1)
    waiting = shop.fan(door)
    assert (await waiting.enter()).json()["order"] == 1
    assert_refused_for_now(await shop.fan(door).enter(), 429, "QUEUE_FULL")
    # Who has a place keeps it.
    assert (await waiting.enter()).json()["order"] == 1
    await waiting.leave()


async def test_the_waiting_room_is_paused(shop: Shop, door: str, room: Room) -> None:
    await room.set(capacity=2)
    inside = await shop.admitted(door)
    await room.set(paused=True)
    assert_refused_for_now(await shop.fan(door).enter(), 503, "QUEUE_PAUSED")
    # Who is inside goes on.
    assert (await inside.enter()).json()["order"] == 0
    assert (await inside.concerts()).status_code == 200


# 429 TOO_MANY_REQUESTS.


async def test_a_client_asks_too_often(shop: Shop, door: str, room: Room) -> None:
    fan = await shop.admitted(door)
    other = await shop.admitted(door)
    began = time.monotonic()
    replies = [await fan.order() for _ in range(60)]
    seconds_of_the_clock = int(time.monotonic() - began) + 2
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 20 <= len(replies) - len(refused) <= 20 * seconds_of_the_clock
    assert refused
    for reply in refused:
        assert_refused_for_now(reply, 429, "TOO_MANY_REQUESTS")
    # The others do not pay for it.
    assert (await other.order()).status_code == 200

    async def forgiven() -> None:
        assert (await fan.order()).status_code == 200

    await eventually(forgiven, every=0.3)
