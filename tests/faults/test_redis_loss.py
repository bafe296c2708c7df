"""Redis forgets everything, or dies, in the middle of a queue: all get in, in their order."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest
import redis.asyncio

from harness.local.stack import Stack
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from tests.e2e.conftest import in_thread
from tests.e2e.crowd import Crowd
from tests.e2e.shop import Shop
from tests.faults.conftest import LINE

CAPACITY = 10


@pytest.fixture
async def line(stack: Stack) -> str:
    """The name of a gateway to a room of 10."""
    async with grpc.aio.insecure_channel(stack.address("queue_service")) as channel:
        admin = queue_pb2_grpc.QueueAdminServiceStub(channel)
        await admin.UpdateRoom(queue_pb2.UpdateRoomRequest(room=LINE, capacity=CAPACITY), timeout=5)
    gateway = stack.add_replica("gateway", {"GATEWAY_ROOM": LINE})
    await in_thread(gateway.start)
    return gateway.name


async def flush(stack: Stack) -> None:
    async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
        await client.flushall()


async def kill_and_restart(stack: Stack) -> None:
    await in_thread(stack.redis.kill)
    await in_thread(stack.redis.start)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [150, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("loss", [flush, kill_and_restart], ids=lambda loss: loss.__name__)
async def test_everybody_gets_in_in_the_original_order(
    shop: Shop, stack: Stack, line: str, loss: Callable[[Stack], Awaitable[None]], size: int
) -> None:
    crowd = Crowd(shop, line)
    await crowd.join(size)
    began = time.monotonic()
    going = asyncio.create_task(crowd.go_through())
    # Redis loses its data when a third of them have passed.
    while crowd.through < size // 3:
        assert not going.done()
        await asyncio.sleep(0.01)
    loss_began = time.monotonic()
    await loss(stack)
    loss_ended = time.monotonic()
    await going
    refused = sum(visitor.refused for visitor in crowd.visitors)
    print(f"\nthrough in {time.monotonic() - began:.1f} s, {refused} answers 503")
    assert crowd.through == size
    crowd.assert_nobody_was_overtaken(loss=(loss_began, loss_ended))
    crowd.assert_no_order_grew()
