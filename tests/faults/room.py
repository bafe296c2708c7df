"""A room behind two replicas of queue_service and two gateways, and the people in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import httpx
import redis.asyncio
from redis.exceptions import RedisError

from harness.client import AnyResponse
from harness.local.process import Process
from harness.local.stack import Stack
from harness.topology import BY_MODULE
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Fan, Schedule, Shop, eventually, place_of

_BATCH = 25
# How often one request may break before its person gives up.
_MOST_BROKEN = 100


class Answer(NamedTuple):
    """One answer to a person: when it was asked for and got (time.monotonic()), and what it was."""

    asked: float
    got: float
    gateway: str
    path: str
    status: int
    code: str
    order: int
    recovering: bool
    retry_after: float | None


@dataclass
class Person:
    """Somebody in the room, who uses the gateways in turn, as behind a load balancer."""

    fan: Fan
    gateways: Sequence[str]
    answers: list[Answer] = field(default_factory=list)
    #: Connections that broke; each request was then repeated at the next gateway.
    broken: int = 0
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def place(self) -> int:
        return place_of(self.fan.token)

    async def ask(
        self, method: str, path: str, gateway: str = "", *, body: object = None
    ) -> Answer:
        """Sends one request, to the next gateway or to the one with that URL."""
        for _ in range(_MOST_BROKEN):
            url = gateway or self.gateways[next(self._turns) % len(self.gateways)]
            self.fan.http.base_url = httpx.URL(url)
            asked = time.monotonic()
            try:
                response = await self.fan.request(method, path, body)
            except httpx.TransportError:
                self.broken += 1
                if gateway:
                    raise
                await asyncio.sleep(0.02)
                continue
            answer = _answer(asked, url, path, response)
            self.answers.append(answer)
            return answer
        raise AssertionError(f"no gateway answers {method} {path}")

    async def enter(self, gateway: str = "") -> Answer:
        return await self.ask("POST", "/queues/enqueue", gateway, body={"userId": self.fan.user_id})

    async def poll(self, gateway: str = "") -> Answer:
        return await self.ask("GET", "/queues/order", gateway)

    @property
    def polls(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.path == "/queues/order"]


def _answer(asked: float, url: str, path: str, response: AnyResponse) -> Answer:
    body = response.json() if response.status_code in (200, 201) else {}
    return Answer(
        asked,
        time.monotonic(),
        url,
        path,
        response.status_code,
        response.code,
        body.get("order", -1),
        body.get("recovering", False),
        response.retry_after,
    )


@dataclass
class People:
    """Those who shop and those who wait, each in the order of their places."""

    shopping: list[Person]
    waiting: list[Person]
    date: Schedule

    @property
    def all(self) -> list[Person]:
        return [*self.shopping, *self.waiting]

    @contextlib.asynccontextmanager
    async def busy(self, pause: float = 1.0) -> AsyncIterator[None]:
        """Meanwhile those who wait poll, and those who shop read what an admission is needed for,
        each every `pause` seconds."""
        reads = (
            "/concerts",
            f"/concerts/{self.date.concert_id}/schedules",
            f"/concerts/schedules/{self.date.id}/seats",
        )

        # No cancellation: httpx may swallow it before Python 3.12.
        is_over = False

        async def go_on(person: Person, paths: Sequence[str]) -> None:
            await asyncio.sleep(random.uniform(0, pause))
            for path in itertools.cycle(paths):
                if is_over:
                    return
                began = time.monotonic()
                await person.ask("GET", path)
                await asyncio.sleep(pause - min(pause, time.monotonic() - began))

        tasks = [asyncio.create_task(go_on(person, reads)) for person in self.shopping]
        tasks += [asyncio.create_task(go_on(person, ["/queues/order"])) for person in self.waiting]
        try:
            yield
        finally:
            is_over = True
            await asyncio.gather(*tasks)

    def since(self, moment: float) -> list[Answer]:
        """All answers to requests since then."""
        return [answer for person in self.all for answer in person.answers if answer.asked > moment]

    def assert_nobody_noticed(self, since: float, *, but: Sequence[str] = ()) -> None:
        """Asserts that every answer since then was a success, or one of `but`: "503
        UNAVAILABLE"."""
        refused = [answer for answer in self.since(since) if answer.status != 200]
        unexpected = [a for a in refused if f"{a.status} {a.code}" not in but]
        assert not unexpected, unexpected[:10]
        paths = {answer.path for answer in self.since(since)}
        assert len(paths) == 4, f"the people asked for {paths} only"

    def assert_no_order_grew(self) -> None:
        """Asserts that no order of a person grew, except those marked as recovering."""
        for person in self.waiting:
            firm = [poll for poll in person.polls if poll.status == 200 and not poll.recovering]
            for earlier, later in itertools.pairwise(firm):
                assert later.order <= earlier.order, (person.place, earlier, later)

    async def assert_all_stand_as_before(
        self, *, marked: bool = False, within: float = 10.0
    ) -> None:
        """Asserts that those who shop may read and those who wait stand in the order of their
        places, without anybody between them, at both gateways and within so many seconds.

        `marked`: orders may be marked as recovering.
        """

        async def as_before() -> None:
            for turn in range(2):
                polls = await asyncio.gather(*(person.poll() for person in self.waiting))
                assert [(poll.status, poll.order) for poll in polls] == [
                    (200, order) for order in range(1, len(polls) + 1)
                ], f"gateway {turn}: {[(poll.status, poll.order) for poll in polls]}"
                assert marked or not any(poll.recovering for poll in polls)
                inside = await asyncio.gather(
                    *(person.ask("GET", "/concerts") for person in self.shopping)
                )
                assert [answer.status for answer in inside] == [200] * len(inside), inside

        await eventually(as_before, within=within, every=0.3)

    async def leave(self) -> None:
        """All leave the room."""
        await asyncio.gather(*(person.ask("DELETE", "/queues/order") for person in self.all))


@dataclass
class Room:
    """The room, its gateways and the replicas of queue_service behind them."""

    name: str
    stack: Stack
    replicas: Sequence[Process]
    gateways: Sequence[Process]
    redis_url: str

    @property
    def urls(self) -> list[str]:
        return [f"http://{gateway.address}" for gateway in self.gateways]

    def person(self, shop: Shop) -> Person:
        """Somebody new, who has not entered."""
        return Person(shop.fan(self.gateways[0].name), self.urls)

    async def fill(self, shop: Shop, *, shopping: int, waiting: int) -> People:
        """Fills the room to its capacity, which is `shopping`, and lines up the others."""
        await self.set_capacity(shopping)
        people: list[Person] = []
        while len(people) < shopping + waiting:
            batch = [
                self.person(shop) for _ in range(min(_BATCH, shopping + waiting - len(people)))
            ]
            entered = await asyncio.gather(*(person.enter() for person in batch))
            assert [answer.status for answer in entered] == [201] * len(batch)
            people += sorted(batch, key=lambda person: person.place)
        places = [person.place for person in people]
        assert places == sorted(places)
        filled = People(people[:shopping], people[shopping:], shop.new_schedule(room=self.name))
        await filled.assert_all_stand_as_before()
        return filled

    async def set_capacity(self, capacity: int) -> None:
        async with grpc.aio.insecure_channel(self.replicas[0].address) as channel:
            await queue_pb2_grpc.QueueAdminServiceStub(channel).UpdateRoom(
                queue_pb2.UpdateRoomRequest(room=self.name, capacity=capacity),
                timeout=5,
                metadata=credentials(self.stack.secrets.admin_token),
            )

    async def metric(self, process: Process, start: str) -> float:
        """Returns the sum of the metrics of a program whose lines start so."""
        (prefix,) = (BY_MODULE[m].prefix for m in BY_MODULE if process.name.startswith(m))
        url = f"http://{process.environment[f'{prefix}METRICS_LISTEN']}/metrics"
        async with httpx.AsyncClient(trust_env=False) as http:
            lines = (await http.get(url)).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def key(self, name: str) -> str:
        return f"{{queue:{self.name}}}:{name}"

    @contextlib.asynccontextmanager
    async def samples(self, *, in_order: bool = True) -> AsyncIterator[Samples]:
        """Meanwhile reads from Redis who is inside and who is next, both at one instant."""
        found = Samples()
        sampling = asyncio.create_task(self._sample(found, in_order))
        try:
            yield found
        finally:
            # No cancellation: redis-py may swallow it before Python 3.12.
            found.is_over = True
            await sampling

    async def _sample(self, found: Samples, in_order: bool) -> None:
        async with redis.asyncio.Redis.from_url(self.redis_url, socket_timeout=1.0) as client:
            while not found.is_over:
                try:
                    async with client.pipeline(transaction=True) as both:
                        both.zrange(self.key("admitted"), 0, -1)
                        both.zrange(self.key("waiting"), 0, 0)
                        inside, first = await both.execute()
                except (RedisError, OSError):
                    # Redis is the one that does not run just now.
                    await asyncio.sleep(0.02)
                    continue
                numbers = sorted(int(number) for number in inside)
                found.count += 1
                found.most_admitted = max(found.most_admitted, len(numbers))
                if in_order and numbers and first:
                    assert numbers[-1] < int(first[0]), "somebody was overtaken"
                await asyncio.sleep(0.01)


@dataclass
class Samples:
    """What Redis contained."""

    count: int = 0
    most_admitted: int = 0
    is_over: bool = False


@contextlib.asynccontextmanager
async def two_of_each(stack: Stack, name: str, redis_url: str) -> AsyncIterator[Room]:
    """Serves the room of that name from two gateways, which call two replicas of queue_service,
    whose Redis is the given one."""
    first = stack.process("queue_service")
    usual = first.environment
    own = {"QUEUE_REDIS_URL": redis_url}
    second = stack.add_replica("queue_service", own)
    env = {"GATEWAY_ROOM": name, "GATEWAY_QUEUE_ADDR": f"ipv4:{first.address},{second.address}"}
    gateways = [stack.add_replica("gateway", env) for _ in range(2)]
    added = [second, *gateways]
    if redis_url != usual["QUEUE_REDIS_URL"]:
        await in_thread(first.stop)
        first.environment = {**usual, **own}
        await in_thread(first.start)
    await asyncio.gather(*(in_thread(process.start) for process in added))
    yield Room(name, stack, [first, second], gateways, redis_url)
    await asyncio.gather(*(in_thread(process.stop) for process in added))
    stack.programs[:] = [process for process in stack.programs if process not in added]
    if first.environment is not usual:
        await in_thread(first.stop)
        first.environment = usual
        await in_thread(first.start)
