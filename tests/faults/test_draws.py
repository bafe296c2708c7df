"""A draw whose queue_service is killed and whose Redis loses everything at the opening: nobody is
lost, nobody is there twice, and the order is the one that anybody can recompute."""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import grpc
import httpx
import pytest
import redis.asyncio

from harness.local.process import Process
from harness.local.stack import Stack
from protos.frontrow.concert.v1 import rooms_pb2, rooms_pb2_grpc
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.limits import MAX_ITEMS
from room_view import verify_draw
from tests.e2e.conftest import in_thread
from tests.e2e.shop import eventually, place_of
from tests.faults.room import Room
from tests.room_view import described_draw

pytestmark = pytest.mark.timeout(240)

_names = itertools.count(1)
# Of those who poll through both gateways all the time; the others poll at the end.
_RESTLESS = 50
# Gathering closes in half of that; for two seconds before, its times do not change.
OPENS_IN = 5.0


@dataclass
class Fan:
    """Somebody with a token, and the orders that were told as certain after the opening."""

    token: str
    place: int
    orders: list[int] = field(default_factory=list)


class DrawnRoom:
    """A room that concert_service defines, and everybody in it."""

    def __init__(self, room: Room, channel: grpc.aio.Channel) -> None:
        self.room = room
        self.rooms = rooms_pb2_grpc.RoomAdminServiceStub(channel)
        self.draws = rooms_pb2_grpc.DrawServiceStub(channel)
        self.name = f"draw-{next(_names)}-{time.time_ns()}"
        self.definition = rooms_pb2.Room(
            name=self.name,
            capacity=0,
            max_waiting=100_000,
            mode=rooms_pb2.ROOM_MODE_NORMAL,
            order=rooms_pb2.LINE_ORDER_DRAW,
        )
        self.commitment = b""
        self.fans: list[Fan] = []
        self.http = httpx.AsyncClient(trust_env=False, timeout=30)
        self._turns = itertools.cycle(room.urls)

    async def define(self, *, opens_in: float = 0, capacity: int | None = None) -> None:
        """`opens_in`: gathering closes half of those seconds before."""
        now = round(time.time() * 1000)
        if not self.definition.HasField("gather_from"):
            self.definition.gather_from.FromMilliseconds(now - 1_000)
        if opens_in:
            self.definition.gather_until.FromMilliseconds(now + round(500 * opens_in))
            self.definition.opens_at.FromMilliseconds(now + round(1_000 * opens_in))
        if capacity is not None:
            self.definition.capacity = capacity
        request = rooms_pb2.PutRoomRequest(room=self.definition)
        response = await self.rooms.PutRoom(request, timeout=5)
        assert not response.room.draw.seed, "the secret is told before the opening"
        self.commitment = self.commitment or response.room.draw.seed_sha256
        assert response.room.draw.seed_sha256 == self.commitment

    @property
    def opens_at(self) -> float:
        return self.definition.opens_at.ToMilliseconds() / 1000

    async def enter(self, people: int) -> None:
        """Lets people enter through both replicas at the same time."""
        halves = [range(1, people + 1, 2), range(2, people + 1, 2)]
        await asyncio.gather(
            *(
                self._enter_at(replica, users)
                for replica, users in zip(self.room.replicas, halves, strict=True)
            )
        )
        assert len({fan.place for fan in self.fans}) == people

    async def _enter_at(self, replica: Process, users: Sequence[int]) -> None:
        async with grpc.aio.insecure_channel(replica.address) as channel:
            queue = queue_pb2_grpc.QueueServiceStub(channel)

            async def enter(some: Sequence[int]) -> queue_pb2.EnterQueueResponse:
                request = queue_pb2.EnterQueueRequest(room=self.name, user_ids=some)
                try:
                    response: queue_pb2.EnterQueueResponse = await queue.EnterQueue(
                        request, timeout=5
                    )
                except grpc.aio.AioRpcError as error:
                    raise AssertionError(error.details()) from error
                return response

            for n in range(0, len(users), MAX_ITEMS):
                some = users[n : n + MAX_ITEMS]
                # A replica hears of the room within a second.
                response = await eventually(partial(enter, some))
                for result in response.results:
                    assert not result.error_code, result.error_code
                    self.fans.append(Fan(result.access_token, place_of(result.access_token)))

    async def poll(self, fan: Fan) -> int | None:
        """Returns the order that the next gateway tells; None if it tells none just now."""
        try:
            response = await self.http.get(
                f"{next(self._turns)}/queues/order", headers={"X-Access-Token": fan.token}
            )
        except httpx.TransportError:
            return None
        if response.status_code != 200:
            assert response.status_code in (503, 504), response.text
            return None
        body = response.json()
        is_told = not body.get("recovering") and body.get("phase") != "DRAWING"
        if is_told and time.time() > self.opens_at + 1:
            fan.orders.append(body["order"])
        return int(body["order"]) if is_told else None

    async def orders(self) -> dict[int, int | None]:
        """Everybody polls once; returns the orders by places."""
        found: dict[int, int | None] = {}
        for some in _in_groups(self.fans):
            orders = await asyncio.gather(*map(self.poll, some))
            found |= zip((fan.place for fan in some), orders, strict=True)
        return found

    async def expected(self) -> list[int]:
        """The places in the order that follows from what concert_service has stored."""
        draw = await self.draws.GetDraw(rooms_pb2.GetDrawRequest(room=self.name), timeout=5)
        assert hashlib.sha256(draw.seed).digest() == draw.seed_sha256 == self.commitment
        cohort = await self.draws.GetCohort(rooms_pb2.GetCohortRequest(room=self.name), timeout=5)
        assert draw.cohort.sha256.hex() == described_draw.list_hash(list(cohort.numbers))
        assert list(cohort.numbers) == sorted(fan.place for fan in self.fans)
        return described_draw.order(draw.seed, "", list(cohort.numbers))


async def assert_anybody_can_check(drawn: DrawnRoom, expected: Sequence[int]) -> None:
    """Asserts that the command finds the ranks of three people in what a gateway publishes."""
    url = f"{drawn.room.urls[0]}/queues/draws/{drawn.name}"
    draw = (await drawn.http.get(url)).json()
    numbers = verify_draw.read_numbers((await drawn.http.get(f"{url}/numbers")).text)
    published = {"seed": draw["seedSha256"], "list": draw["cohort"]["sha256"]}
    for fan in drawn.fans[:3]:
        rank = verify_draw.verify(
            verify_draw.read_seed(draw["seed"]),
            "",
            numbers,
            verify_draw.read_token(fan.token),
            published,
            draw["cohort"]["size"],
        )
        assert expected[rank] == fan.place


@pytest.fixture
async def drawn(stack: Stack, room: Room) -> AsyncIterator[DrawnRoom]:
    address = stack.process("concert_service").address
    async with grpc.aio.insecure_channel(address) as channel:
        drawn = DrawnRoom(room, channel)
        yield drawn
        await drawn.http.aclose()
        request = rooms_pb2.RemoveRoomRequest(name=drawn.name)
        await drawn.rooms.RemoveRoom(request, timeout=5)


@pytest.mark.parametrize(
    ("people", "loses_at"),
    [
        (200, 0.0),
        pytest.param(10_000, 0.0, marks=pytest.mark.long),
        # While the list is copied, and while ranks are given.
        pytest.param(10_000, 0.1 - OPENS_IN / 2, marks=pytest.mark.long),
        pytest.param(10_000, 0.6 - OPENS_IN / 2, marks=pytest.mark.long),
    ],
)
async def test_a_draw_survives_the_loss_of_redis_and_of_a_replica(
    drawn: DrawnRoom, people: int, loses_at: float
) -> None:
    """`loses_at`: seconds after the opening."""
    await drawn.define(opens_in=600)
    await drawn.enter(people)
    await drawn.define(opens_in=OPENS_IN)
    restless = drawn.fans[:: max(1, people // _RESTLESS)]
    is_over = False

    async def go_on(fan: Fan) -> None:
        while not is_over:
            await drawn.poll(fan)
            await asyncio.sleep(0.3)

    polling = [asyncio.create_task(go_on(fan)) for fan in restless]
    await asyncio.sleep(drawn.opens_at + loses_at - time.time())
    killed = drawn.room.replicas[0]
    async with redis.asyncio.Redis.from_url(drawn.room.redis_url) as client:
        await asyncio.gather(in_thread(killed.kill), client.flushall())
    await in_thread(killed.start)

    async def everybody_stands_as_drawn() -> list[int]:
        orders = await drawn.orders()
        expected = await drawn.expected()
        assert [orders[place] for place in expected] == list(range(1, people + 1))
        return expected

    expected = await eventually(everybody_stands_as_drawn, within=60, every=0.5)
    await assert_anybody_can_check(drawn, expected)
    # The sale: the first of the order are let in, and nobody else.
    await drawn.define(capacity=20)

    async def the_first_are_in() -> None:
        orders = await drawn.orders()
        assert [orders[place] for place in expected] == [*[0] * 20, *range(1, people - 19)]

    await eventually(the_first_are_in, within=20, every=0.5)
    is_over = True
    await asyncio.gather(*polling)
    for fan in drawn.fans:
        assert fan.orders == sorted(fan.orders, reverse=True), (fan.place, fan.orders)


def _in_groups(fans: Sequence[Fan]) -> Iterable[Sequence[Fan]]:
    return (fans[n : n + 100] for n in range(0, len(fans), 100))
