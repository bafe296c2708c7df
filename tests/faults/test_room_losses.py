"""Redis loses everything, or the end of its log, while people wait and shop behind two gateways.
Those give back what they know: nobody notices, also nobody who does not poll."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import redis.asyncio

from harness.local.stack import Stack
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop, eventually
from tests.faults.room import People, Person, Room
from tests.faults.test_redis_loss import log_of, written

# Bids for 1.5 s, and a few calls. By their tokens, people would return within the 6 s of the grace.
HEALING_SECONDS = 4.5


async def flush(stack: Stack, durable: int) -> None:
    async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
        await client.flushall()


async def cut(stack: Stack, durable: int) -> None:
    await in_thread(stack.redis.kill)
    os.truncate(log_of(stack), durable)
    await in_thread(stack.redis.start)


@pytest.fixture
async def fans(stack: Stack) -> AsyncIterator[Shop]:
    shop = Shop(stack)
    yield shop
    await shop.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("loss", [flush, cut], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize(
    ("shopping", "waiting"), [(10, 45), pytest.param(50, 500, marks=pytest.mark.long)]
)
async def test_nobody_notices_a_loss(
    stack: Stack,
    room: Room,
    fans: Shop,
    loss: Callable[[Stack, int], Awaitable[None]],
    shopping: int,
    waiting: int,
) -> None:
    people = await room.fill(fans, shopping=shopping, waiting=waiting)
    durable = await written(stack)
    # What Redis will lose: two leave, and one comes in, who does not know it.
    left = [people.shopping.pop(0), people.waiting.pop(5)]
    for person in left:
        assert (await person.ask("DELETE", "/queues/order")).status == 204
    came_in = people.waiting.pop(0)
    busy = People(people.shopping, people.waiting[::2], people.date)
    async with room.samples() as samples, busy.busy(pause=0.4):
        began = time.monotonic()
        await loss(stack, durable)
        newcomer = room.person(fans)
        await eventually(lambda: enters(newcomer), within=5)
        await eventually(lambda: is_healed(room), within=HEALING_SECONDS)
    busy.assert_nobody_noticed(since=began)
    assert samples.most_admitted <= shopping
    await eventually(lambda: are_out(left), within=2)
    assert (await came_in.poll()).order == 0
    people.shopping.append(came_in)
    people.waiting.append(newcomer)
    await people.assert_all_stand_as_before()
    people.assert_no_order_grew()
    await people.leave()


async def enters(person: Person) -> None:
    assert (await person.enter()).status == 201


async def are_out(people: Sequence[Person]) -> None:
    assert [(await person.poll()).status for person in people] == [401] * len(people)


async def is_healed(room: Room) -> None:
    """All was given back, and the grace has ended."""
    async with redis.asyncio.Redis.from_url(room.redis_url) as client:
        state = await client.hgetall(room.key("state"))
    assert b"healed" in state, state
    assert state[b"healed"] == state[b"epoch"]
    assert int(state[b"grace_until"]) <= time.time() * 1000
