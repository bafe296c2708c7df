"""Redis fails over to a replica that is behind, while people wait and shop: nobody is lost, nobody
is thrown out, nobody is back who had left, and the line keeps its order.

Each loss happens once, and every test looks at one side of it. Lost with it: somebody leaves,
somebody pays, two are admitted instead, somebody gives up a place in line, and newcomers enter.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from harness.local.stack import Stack
from tests.e2e.shop import Shop, eventually
from tests.faults.conftest import HALL
from tests.faults.primary import RedisPair
from tests.faults.room import Answer, People, Person, Room, Samples, two_of_each

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

# A hand-back takes about two seconds; without it, nobody new is admitted for QUEUE_GRACE_SECONDS
# after the loss, which is 6 here.
HEALED_SECONDS = 4.0
NEWCOMERS = 5

Lose = Callable[[], Coroutine[Any, Any, None]]


async def fail_over(pair: RedisPair) -> Lose:
    """The primary dies, and a replica that is behind is promoted."""
    await pair.copy()
    return pair.fail_over


async def there_and_back(pair: RedisPair) -> Lose:
    """The first primary comes back as it was when a replica took its place."""
    await pair.copy()
    pair.address.move(pair.second.address)

    async def lose() -> None:
        pair.address.move(pair.first.address)

    return lose


@dataclass
class Aftermath:
    """Who was there, what they saw, and what Redis had, from the loss on."""

    room: Room
    people: People
    #: Their places have ended, and they know.
    left: list[Person]
    lost_at: float
    samples: Samples
    capacity: int
    #: Whether a slot that became free before the grace was over went to the first in line.
    next_was_admitted: bool


@dataclass(frozen=True)
class Case:
    #: Called before that happens which is lost; returns what loses it.
    loss: Callable[[RedisPair], Coroutine[Any, Any, Lose]]
    shopping: int = 10
    waiting: int = 60


CASES = {
    "a fail-over": Case(fail_over),
    "a fail-over and back": Case(there_and_back),
    "a fail-over, of many": Case(fail_over, 50, 500),
    "a fail-over and back, of many": Case(there_and_back, 50, 500),
}


@pytest.fixture(scope="module")
async def pair(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisPair]:
    pair = RedisPair(stack.redis, tmp_path_factory.mktemp("second"))
    async with pair.address.serving():
        yield pair


@pytest.fixture(scope="module")
async def room(stack: Stack, pair: RedisPair) -> AsyncIterator[Room]:
    """As the usual one, but on the address of the pair."""
    async with two_of_each(stack, HALL, pair.url) as room:
        yield room


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, id=name) for name, case in CASES.items()],
)
async def aftermath(
    request: pytest.FixtureRequest, stack: Stack, room: Room, pair: RedisPair
) -> AsyncIterator[Aftermath]:
    case: Case = request.param
    async with AsyncExitStack() as after:
        shop = Shop(stack)
        after.push_async_callback(shop.close)
        people = await room.fill(shop, shopping=case.shopping, waiting=case.waiting)
        after.push_async_callback(pair.reset)
        after.push_async_callback(people.leave)
        lose = await case.loss(pair)
        left = await much_happens(shop, room, people)
        # Half of those who wait do not poll before the room has healed.
        quiet, people.waiting = people.waiting[1::2], people.waiting[::2]
        async with room.samples(in_order=False) as samples, people.busy(0.5):
            lost_at = time.monotonic()
            await lose()
            await asyncio.sleep(HEALED_SECONDS)
            next_was_admitted = await one_follows_another(people)
        people.waiting = sorted([*people.waiting, *quiet], key=lambda person: person.place)
        yield Aftermath(room, people, left, lost_at, samples, case.shopping, next_was_admitted)


async def much_happens(shop: Shop, room: Room, people: People) -> list[Person]:
    """Returns those whose places have ended."""
    leaver, buyer = people.shopping[:2]
    admitted = people.waiting[:2]
    held = await buyer.fan.hold(people.date.seats[0])
    assert (await buyer.fan.pay_to_the_end(held)).status_code == 200
    await buyer.fan.until_out()
    assert (await leaver.ask("DELETE", "/queues/order")).status == 204

    async def come_in() -> None:
        for person in admitted:
            assert (await person.poll()).order == 0

    await eventually(come_in)
    impatient = people.waiting[10]
    assert (await impatient.ask("DELETE", "/queues/order")).status == 204
    newcomers = [room.person(shop) for _ in range(NEWCOMERS)]
    for person in newcomers:
        assert (await person.enter()).status == 201
    people.shopping = [*people.shopping[2:], *admitted]
    people.waiting = [*people.waiting[2:10], *people.waiting[11:], *newcomers]
    return [leaver, buyer, impatient]


async def one_follows_another(people: People) -> bool:
    """Lets one of those who shop leave; returns whether the first in line is admitted instead,
    within a second."""
    assert (await people.shopping.pop().ask("DELETE", "/queues/order")).status == 204
    first = people.waiting.pop(0)
    people.shopping.append(first)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if (await first.poll()).order == 0:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_nobody_is_refused(aftermath: Aftermath) -> None:
    aftermath.people.assert_nobody_noticed(since=aftermath.lost_at)


async def test_no_order_grows(aftermath: Aftermath) -> None:
    aftermath.people.assert_no_order_grew()


async def test_all_stand_as_before(aftermath: Aftermath) -> None:
    # Orders stay marked for QUEUE_GRACE_SECONDS, although none of them changes any more.
    await aftermath.people.assert_all_stand_as_before(marked=True)


async def test_nobody_is_back_who_had_left(aftermath: Aftermath) -> None:
    room = aftermath.room
    for person in aftermath.left:
        answers: list[Answer] = [await person.poll(url) for url in room.urls]
        assert [(each.status, each.code) for each in answers] == [(401, "TOKEN_EXPIRED")] * 2
    async with redis.asyncio.Redis.from_url(room.redis_url) as redis_, redis_.pipeline() as both:
        both.zrange(room.key("admitted"), 0, -1)
        both.zrange(room.key("waiting"), 0, -1)
        admitted, waiting = await both.execute()
    assert sorted(int(number) for number in [*admitted, *waiting]) == sorted(
        person.place for person in aftermath.people.all
    )


async def test_the_capacity_is_kept(aftermath: Aftermath) -> None:
    assert aftermath.samples.count > 50
    assert aftermath.samples.most_admitted <= aftermath.capacity


async def test_the_grace_ends_with_the_hand_back(aftermath: Aftermath) -> None:
    assert aftermath.next_was_admitted
