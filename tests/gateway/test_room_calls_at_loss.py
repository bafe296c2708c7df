"""Requests that ask queue_service while the room has lost an admission, which nobody notices."""

import asyncio

import httpx
import pytest

from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem
from tests.gateway.watching import OpenWatching, Watching, shopping

BOUND = 0.3
PATHS = ["/queues/order", "/concerts"]


def lose_the_admission(room: Services) -> None:
    """The store has lost the last changes: who shops waits again, by the token."""
    queue = room.queue
    queue.watch.epoch += 1
    queue.watch.seq = 1
    place = shopping(room)
    del queue.admitted[place.number]
    queue.capacity -= 1
    queue.waiting.insert(0, place)


def assert_order_0(response: httpx.Response) -> None:
    assert (response.json()["order"], response.json()["recovering"]) == (0, True)


@pytest.fixture
async def gateway(room: Services, open_watching: OpenWatching) -> Watching:
    """Its view is too old to answer, and the stream brings nothing."""
    room.queue.watch.epoch = 2
    gateway = await open_watching()
    room.queue.watch.answers = False
    await asyncio.sleep(BOUND + 0.01)
    return gateway


@pytest.mark.parametrize("path", PATHS)
async def test_the_answer_comes_before_the_stream_tells_of_the_loss(
    room: Services, gateway: Watching, path: str
) -> None:
    place = shopping(room)
    lose_the_admission(room)
    response = await gateway.get(path, place)
    assert response.status_code == 200, response.text
    assert gateway.calls() == 1
    assert not gateway.clients.rooms.main.copy.lost
    if path == "/queues/order":
        assert_order_0(response)


@pytest.mark.parametrize("path", PATHS)
async def test_the_stream_tells_of_the_loss_while_the_call_is_in_flight(
    room: Services, gateway: Watching, path: str
) -> None:
    place = shopping(room)
    lose_the_admission(room)
    room.faults.delays["GetPositions"] = 0.2
    asked = asyncio.create_task(gateway.get(path, place))
    await until(lambda: gateway.calls() == 1)
    room.queue.watch.send(room.queue.snapshot())
    await gateway.caught_up()
    assert gateway.clients.rooms.main.copy.lost
    assert not asked.done()
    response = await asked
    assert response.status_code == 200, response.text
    if path == "/queues/order":
        assert_order_0(response)


async def test_an_answer_of_a_store_that_was_replaced_is_asked_for_again(
    room: Services, gateway: Watching
) -> None:
    room.queue.old_answers = 1
    response = await gateway.get("/concerts", shopping(room))
    assert response.status_code == 200, response.text
    assert gateway.calls() == 2


async def test_of_two_such_answers_none_is_believed(room: Services, gateway: Watching) -> None:
    room.queue.old_answers = 2
    assert_order_0(await gateway.get("/queues/order", shopping(room)))
    assert gateway.calls() == 2


async def test_who_is_unknown_gets_503_then(room: Services, gateway: Watching) -> None:
    place = room.queue.enter(900)
    room.queue.old_answers = 2
    freshness = gateway.clients.rooms.main.copy.freshness
    freshness.disconnected()
    freshness.as_of = freshness._followed_until = freshness.as_of - 60
    assert_problem(await gateway.get("/queues/order", place), 503, "UNAVAILABLE", 1)
