"""`make bench LOAD=room`: the cost of replicating a room, and of a long line.

Starts a stack of its own (free ports, temporary data). First people enter and leave, by scripts
that this process sends to Redis, while one gateway is polled often enough to need each change. Then
a long line waits, and as many of its people give signs of life as poll at the advised pace. Prints
what queue_service, the gateway and Redis use, and writes results/bench/<time>-room/room.json.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import typer

from benchmarks.model import MIN_LONG_LINE, RoomBench, RoomRow
from harness import stopping
from harness.cli import run_app
from harness.files import REPOSITORY
from harness.local import Ports, Stack
from loadtests import machine
from loadtests.metrics import Meter, ProcessTree
from loadtests.model import now
from loadtests.report import templates
from loadtests.report.words import say
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceStub
from protos.limits import MAX_ITEMS
from queue_service.domain import Entry, Place, Refusal
from queue_service.repository import QueueRepository
from queue_service.settings import Settings
from servicekit import redis_client
from servicekit.client import Stream, call, connect, open_stream

if TYPE_CHECKING:  # the stubs of asyncio exist for the type checker only
    from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceAsyncStub

ROOM = "main"
PROCESSES = ("queue_service", "gateway", "redis")
CHANGES_PER_SECOND = 50
#: What PROCESSES together may use at CHANGES_PER_SECOND, in ms of CPU per second.
_CHANGES_TARGET = 60
#: Enough for a heartbeat whenever the last one is due to be replaced (gateway/room/freshness.py).
POLLS_PER_SECOND = 10
#: Gateways whose signs of life arrive; each sends the places of one message at a time.
GATEWAYS = 4
_FILLING_SECONDS = 120.0
_SETTLING_SECONDS = 5.0
_Stream = Stream[queue_pb2.WatchRoomRequest, queue_pb2.WatchRoomResponse]


class Room:
    """The room of a stack, changed by scripts of our own, as by another replica."""

    def __init__(self, store: QueueRepository, queue: QueueServiceAsyncStub) -> None:
        self._store = store
        self._queue = queue
        self._users = itertools.count(1)
        self.waiting: list[Place] = []

    async def fill(self, count: int) -> None:
        """Lets people enter until `count` wait; nobody is admitted."""
        await self._store.update(ROOM, capacity=0, max_waiting=2 * count, paused=None)
        while len(self.waiting) < count:
            stopping.raise_if_requested()
            await self._enter(min(MAX_ITEMS, count - len(self.waiting)))

    async def _enter(self, count: int) -> None:
        entries = [Entry(user) for user in itertools.islice(self._users, count)]
        for answer in (await self._store.enter(ROOM, entries))[1]:
            assert not isinstance(answer, Refusal), answer
            self.waiting.append(answer[0])

    async def change(self) -> None:
        """Somebody enters and somebody else leaves: two changes."""
        await self._enter(1)
        place = self.waiting.pop(len(self.waiting) // 2)
        await self._store.leave(ROOM, place.number, place.user_id, place.epoch)

    async def token(self) -> str:
        """The token of somebody who waits."""
        request = queue_pb2.EnterQueueRequest(room=ROOM, user_ids=[self.waiting[0].user_id])
        entered = await call(self._queue.EnterQueue, request, budget=10)
        return str(entered.results[0].access_token)

    async def report(self, gateway: int, seconds: float, per_second: float) -> None:
        """Sends signs of life for `seconds`, as one of GATEWAYS that share the line."""
        places = itertools.cycle(
            queue_pb2.Place(room=ROOM, number=p.number, user_id=p.user_id, epoch=p.epoch)
            for p in self.waiting[gateway::GATEWAYS]
        )
        loop = asyncio.get_running_loop()
        began, messages = loop.time(), max(1, int(seconds * per_second / MAX_ITEMS))

        async def send(stream: _Stream) -> None:
            await stream.send(queue_pb2.WatchRoomRequest(room=ROOM))
            for number in range(1, messages + 1):
                seen = itertools.islice(places, MAX_ITEMS)
                await stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=number, seen=seen))
                await asyncio.sleep(began + number * MAX_ITEMS / per_second - loop.time())

        async with open_stream(self._queue.WatchRoom) as stream, asyncio.TaskGroup() as group:
            group.create_task(send(stream))
            async for response in stream:
                if response.heartbeat.id == messages:
                    break


async def repeat(act: Callable[[], Awaitable[object]], per_second: float, seconds: float) -> None:
    """Acts at a constant rate; catches up after a delay."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(began + number / per_second - loop.time())
        await act()


class Measurements:
    """Processor time of PROCESSES while something goes on for `seconds`."""

    def __init__(self, stack: Stack, seconds: int) -> None:
        self._sources = {name: ProcessTree(stack.process(name).pid) for name in PROCESSES}
        self._seconds = seconds

    async def row(
        self, title: str, waiting: int, *load: Awaitable[object], target: float | None = None
    ) -> RoomRow:
        """Measures while all of `load` runs."""
        say(f"{title}: {self._seconds} s")
        loop = asyncio.get_running_loop()
        meter, began = Meter(self._sources), loop.time()
        await asyncio.gather(asyncio.sleep(self._seconds), *load)
        seconds = loop.time() - began
        mcores = {name: round(1000 * cpu / seconds, 1) for name, cpu in meter.used().items()}
        say("  " + ", ".join(f"{name} {used}" for name, used in mcores.items()) + " ms/s")
        return RoomRow(title=title, waiting=waiting, mcores=mcores, target=target)


async def rows(stack: Stack, waiting: int, seconds: int) -> Sequence[RoomRow]:
    """All measurements."""
    keys = {"key": "k" * 32}
    rules = Settings(token_keys=keys, token_signing_key_id="key")
    channel = connect(stack.address("queue_service"))
    async with (
        redis_client.connect(stack.redis_url, timeout=5.0) as redis,
        channel,
        httpx.AsyncClient(base_url=stack.gateway_url, trust_env=False) as client,
    ):
        store = QueueRepository(redis, rules.rules, rules.limits)
        room = Room(store, QueueServiceStub(channel))
        measurements = Measurements(stack, seconds)
        await room.fill(1_000)
        headers = {"X-Access-Token": await room.token()}

        async def poll() -> None:
            (await client.get("/queues/order", headers=headers)).raise_for_status()

        await poll()
        found = [
            await measurements.row("nobody changes anything, 1,000 wait", 1_000),
            await measurements.row(
                f"{CHANGES_PER_SECOND} changes/s, {POLLS_PER_SECOND} polls/s",
                1_000,
                repeat(room.change, CHANGES_PER_SECOND / 2, seconds),
                repeat(poll, POLLS_PER_SECOND, seconds),
                target=_CHANGES_TARGET,
            ),
        ]
        say(f"Filling the line: {waiting:,}")
        await asyncio.wait_for(room.fill(waiting), _FILLING_SECONDS)
        await asyncio.sleep(_SETTLING_SECONDS)
        # A place gives a sign of life at most once in a quarter of the time after which it is
        # absent; somebody who polls less often gives one with each poll.
        every = max(rules.absent_after_seconds / 4, rules.poll_max_seconds)
        found.append(
            await measurements.row(
                f"{waiting:,} wait at the advised pace: {waiting / every:,.0f} signs of life/s",
                waiting,
                *(
                    room.report(gateway, seconds, waiting / every / GATEWAYS)
                    for gateway in range(GATEWAYS)
                ),
            )
        )
    return found


def measure(waiting: int, seconds: int) -> Path:
    """Starts everything, measures, stops everything; returns the path of room.json."""
    taken = now()
    with (
        tempfile.TemporaryDirectory(prefix="frontrow-bench-") as folder,
        Stack(Path(folder), Ports.free()) as stack,
    ):
        say("Starting a stack")
        stack.start(show=True)
        found = asyncio.run(rows(stack, waiting, seconds))
        say("Stopping")
    result = RoomBench(
        taken=taken,
        seconds=seconds,
        machine=machine.hardware() | machine.versions(),
        rows=list(found),
    )
    file = REPOSITORY / "results" / "bench" / f"{taken:%Y%m%dT%H%M%SZ}-room" / "room.json"
    file.parent.mkdir(parents=True)
    result.write(file)
    return file


def figures(result: RoomBench) -> str:
    """All figures in Markdown."""
    template = templates(Path(__file__).parent).get_template("room.md.j2")
    return template.render(result=result, processes=PROCESSES, min_long_line=MIN_LONG_LINE)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    waiting: Annotated[int, typer.Option(min=1_000, max=1_000_000)] = 300_000,
    seconds: Annotated[int, typer.Option(min=5, max=600, help="Of one measurement.")] = 30,
) -> None:
    file = measure(waiting, seconds)
    say(f"\n{figures(RoomBench.read(file))}\nWritten to {file.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    sys.exit(run_app(app))
