"""queue_service or Redis dies or hangs while people wait and shop: those notice nothing.

Each outage happens once, and every test looks at one side of it.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from harness.local.process import Process
from harness.local.stack import Stack
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop
from tests.faults.room import Answer, People, Room, Samples

pytestmark = pytest.mark.timeout(180)

# A view is that old at most; after that, the answers of an outage are marked.
FRESH_SECONDS = 0.3


@dataclass
class Window:
    """When nobody could be asked, by time.monotonic()."""

    began: float
    ended: float

    def holds(self, answer: Answer) -> bool:
        """Whether somebody asked and was answered within it, and not by a fresh view."""
        return self.began + FRESH_SECONDS < answer.asked and answer.got < self.ended


async def killed(processes: Sequence[Process], seconds: float) -> Window:
    """kill -9, and a start so many seconds later."""
    began = time.monotonic()
    await asyncio.gather(*(in_thread(process.kill) for process in processes))
    await asyncio.sleep(seconds)
    ended = time.monotonic()
    await asyncio.gather(*(in_thread(process.start) for process in processes))
    return Window(began, ended)


async def hung(processes: Sequence[Process], seconds: float) -> Window:
    """SIGSTOP, and SIGCONT so many seconds later."""
    began = time.monotonic()
    for process in processes:
        process.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    ended = time.monotonic()
    for process in processes:
        process.signal(signal.SIGCONT)
    return Window(began, ended)


def queue_service(room: Room) -> Sequence[Process]:
    return room.replicas


def redis(room: Room) -> Sequence[Process]:
    return [room.stack.redis]


@dataclass(frozen=True)
class Case:
    victims: Callable[[Room], Sequence[Process]]
    break_: Callable[[Sequence[Process], float], Coroutine[Any, Any, Window]]
    seconds: float
    shopping: int = 10
    waiting: int = 60


SHORT = {
    "queue_service killed": Case(queue_service, killed, 1.5),
    # A call fails after two seconds, and then all polls have to come again.
    "Redis hung": Case(redis, hung, 3.6),
}
LONG = {
    "queue_service hung": Case(queue_service, hung, 3.6),
    "Redis killed": Case(redis, killed, 1.5),
    "queue_service killed for long": Case(queue_service, killed, 20, 50, 500),
    "queue_service hung for long": Case(queue_service, hung, 20, 50, 500),
    "Redis killed for long": Case(redis, killed, 20, 50, 500),
    "Redis hung for long": Case(redis, hung, 20, 50, 500),
}


@dataclass
class Outage:
    """What people saw, and what Redis had, in an outage, shortly before and after it."""

    people: People
    began: float
    window: Window
    entering: Answer
    #: A poll of the first in line, who has just been admitted and does not know it.
    claim: Answer
    samples: Samples
    capacity: int


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(case, id=name) for name, case in SHORT.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.long) for name, case in LONG.items()),
    ],
)
async def outage(request: pytest.FixtureRequest, stack: Stack, room: Room) -> AsyncIterator[Outage]:
    case: Case = request.param
    async with AsyncExitStack() as after:
        shop = Shop(stack)
        after.push_async_callback(shop.close)
        people = await room.fill(shop, shopping=case.shopping, waiting=case.waiting)
        after.push_async_callback(people.leave)
        newcomer = room.person(shop)
        leaving, first = people.shopping.pop(0), people.waiting.pop(0)
        async with room.samples() as samples, people.busy():
            began = time.monotonic()
            assert (await leaving.ask("DELETE", "/queues/order")).status == 204
            breaking = asyncio.create_task(case.break_(case.victims(room), case.seconds))
            await asyncio.sleep(FRESH_SECONDS)
            entering, claim = await asyncio.gather(newcomer.enter(), first.poll())
            window = await breaking
            # Until all have polled.
            await asyncio.sleep(1.0)
        # Redis may have run the script of the refused entry when it went on.
        assert (await newcomer.enter()).status == 201
        after.push_async_callback(newcomer.ask, "DELETE", "/queues/order")
        first.answers.clear()
        people.shopping.append(first)
        yield Outage(people, began, window, entering, claim, samples, case.shopping)


async def test_nobody_is_refused(outage: Outage) -> None:
    outage.people.assert_nobody_noticed(since=outage.began)


async def test_orders_are_marked_as_recovering(outage: Outage) -> None:
    polls = [poll for each in outage.people.waiting for poll in each.polls]
    meanwhile = [poll for poll in polls if outage.window.holds(poll)]
    assert len(meanwhile) >= len(outage.people.waiting) / 2
    assert all(poll.recovering for poll in meanwhile)


async def test_no_order_grows(outage: Outage) -> None:
    outage.people.assert_no_order_grew()


@pytest.mark.parametrize("what", ["entering", "claim"])
async def test_what_must_be_certain_is_refused(outage: Outage, what: str) -> None:
    answer: Answer = getattr(outage, what)
    assert answer.got < outage.window.ended
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")
    assert answer.retry_after
    assert answer.retry_after >= 1


async def test_all_stand_as_before(outage: Outage) -> None:
    await outage.people.assert_all_stand_as_before()


async def test_the_capacity_is_kept(outage: Outage) -> None:
    assert outage.samples.count > 20
    assert outage.samples.most_admitted <= outage.capacity
