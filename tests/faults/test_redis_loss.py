"""Redis forgets everything, or dies, in the middle of a queue: all get in, in their order."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import redis.asyncio

from harness.local.stack import Stack
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials
from tests.e2e.conftest import in_thread
from tests.e2e.crowd import Crowd, Visitor
from tests.e2e.shop import Shop, eventually
from tests.faults.conftest import LINE

CAPACITY = 10


@pytest.fixture
async def line(stack: Stack) -> str:
    """The name of a gateway to a room of 10."""
    async with grpc.aio.insecure_channel(stack.address("queue_service")) as channel:
        admin = queue_pb2_grpc.QueueAdminServiceStub(channel)
        await admin.UpdateRoom(
            queue_pb2.UpdateRoomRequest(room=LINE, capacity=CAPACITY),
            timeout=5,
            metadata=credentials(stack.secrets.admin_token),
        )
    gateway = stack.add_replica("gateway", {"GATEWAY_ROOM": LINE})
    await in_thread(gateway.start)
    return gateway.name


async def flush(stack: Stack) -> None:
    async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
        await client.flushall()


async def kill_and_restart(stack: Stack) -> None:
    await in_thread(stack.redis.kill)
    await in_thread(stack.redis.start)


async def written(stack: Stack) -> int:
    """Bytes of the append-only file once it contains all writes so far."""
    async with redis.asyncio.Redis.from_url(stack.redis_url) as client:

        async def nothing_waits() -> None:
            assert (await client.info("persistence"))["aof_buffer_length"] == 0

        await eventually(nothing_waits)
    return log_of(stack).stat().st_size


def log_of(stack: Stack) -> Path:
    (log,) = (stack.root / "data" / "redis" / "appendonlydir").glob("*.incr.aof")
    return log


async def until_nobody_waits(shop: Shop, line: str) -> None:
    """Returns when the room admits at once: the test before may have left it in its grace."""
    fan = shop.fan(line)
    await fan.enter()

    async def admitted() -> None:
        assert (await fan.order()).body.order == 0

    await eventually(admitted, within=20)
    await fan.leave()


async def buy_and_enter_again(shop: Shop, visitors: list[Visitor]) -> list[Visitor]:
    """Each buys a seat, and enters again when the payment has ended the admission."""
    seats = shop.new_schedule(len(visitors), room=LINE).seats
    for visitor, seat in zip(visitors, seats, strict=True):
        reservation = await visitor.fan.hold(seat)
        assert (await visitor.fan.pay_to_the_end(reservation)).status_code == 200
    again = []
    for visitor in visitors:
        await visitor.fan.until_out()
        reply = await visitor.fan.enter()
        assert reply.status_code == 201, reply.text
        again.append(Visitor(visitor.fan, 0, [(reply.body.order, False)]))
    return again


@pytest.mark.timeout(180)
async def test_a_cut_log_loses_nobody_who_bought_and_entered_again(
    shop: Shop, stack: Stack, line: str
) -> None:
    await until_nobody_waits(shop, line)
    crowd = Crowd(shop, line)
    await crowd.join(50)
    durable = await written(stack)
    # Redis loses these payments' ends of admissions, those who got in instead, and the new places.
    again = await buy_and_enter_again(shop, crowd.visitors[:5])
    crowd.visitors = crowd.visitors[5:] + again
    for number, visitor in enumerate(crowd.visitors):
        visitor.number = number
    loss_began = time.monotonic()
    await in_thread(stack.redis.kill)
    os.truncate(log_of(stack), durable)
    await in_thread(stack.redis.start)
    loss_ended = time.monotonic()
    await crowd.go_through()
    assert crowd.through == 50
    assert crowd.most_inside <= CAPACITY
    crowd.assert_nobody_was_overtaken(loss=(loss_began, loss_ended))
    crowd.assert_no_order_grew()


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
