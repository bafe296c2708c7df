"""What is promised for `order`, whichever gateways answer: docs/adr/0040-room-view.md.

One history of a room, and two gateways whose copies lag behind it, each in its own way: their
streams are slow, stand still for up to 3 s, and catch up slowly. Shoppers poll one place each, one
poll at a time, and note when an order is larger than the one before.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from gateway.admissions import Admissions
from gateway.errors import TokenExpired
from gateway.pace import Pace
from gateway.room.answers import RoomAnswers
from gateway.room.copy import RoomCopy
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from room_view.line import Line
from servicekit.batching import Batcher
from tests.gateway.fakes.watch import RULES, admitted, waiting
from tests.gateway.fakes.watch import ended as end
from tests.virtual_time import run

BOUND = 0.3
STALL = 3.0
USER = 7

Message = queue_pb2.WatchRoomResponse


class Store:
    """The room itself. Its changes reach the gateways through their streams."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._line = Line()
        self._seq = 0
        self._last = 0
        self.streams: list[Stream] = []

    def now_ms(self) -> int:
        return 1_800_000_000_000 + int(time.monotonic() * 1000)

    def position(self, number: int) -> queue_pb2.Position:
        order = self._line.rank(number)
        # Who does not wait has been admitted, or left. Both end the story here.
        state = queue_pb2.PLACE_STATE_WAITING if order else queue_pb2.PLACE_STATE_ENDED
        return queue_pb2.Position(state=state, order=order, poll_after_ms=1_000)

    def join(self) -> int:
        given_at = (self.now_ms() - 1_767_225_600_000) * 4_096
        self._last = number = max(self._last + 1, given_at)
        self._line.add(number)
        self._record(waiting(number))
        return number

    def admit(self) -> None:
        for block in self._line.blocks(1):
            self._line.discard(block[0])
            self._record(admitted(block[0], USER, self.now_ms() + 600_000, claimed=False))
            return

    def leave(self) -> None:
        everybody = [number for block in self._line.blocks() for number in block]
        if everybody:
            number = self._chance.choice(everybody)
            self._line.discard(number)
            self._record(end(number))

    def snapshot(self) -> Message:
        return Message(
            snapshot=queue_pb2.RoomSnapshot(
                epoch=1, seq=self._seq, complete_at_seq=self._seq, rules=RULES,
                fields=queue_pb2.RoomFields(capacity=1),
                waiting=[number for block in self._line.blocks() for number in block],
                is_first=True, is_last=True,
            )
        )  # fmt: skip

    def heartbeat(self, heartbeat_id: int) -> Message:
        return Message(
            heartbeat=queue_pb2.Heartbeat(
                id=heartbeat_id, epoch=1, seq=self._seq, now_ms=self.now_ms()
            )
        )

    async def live(self) -> None:
        """Fifty changes a second: people join at the end, the first is admitted, some leave."""
        while True:
            await asyncio.sleep(self._chance.expovariate(50))
            kind = self._chance.choices((self.join, self.admit, self.leave), (10, 8, 2))[0]
            kind()

    def _record(self, change: queue_pb2.RoomChange) -> None:
        self._seq += 1
        changes = queue_pb2.RoomChanges(
            epoch=1, seq=self._seq, now_ms=self.now_ms(), changes=[change]
        )
        for stream in self.streams:
            stream.send(Message(changes=[changes]))


class Stream:
    """Messages to one gateway, in order: mostly fast, sometimes slow, sometimes not at all."""

    def __init__(
        self, store: Store, copy: RoomCopy, chance: random.Random, steady_latency: float | None
    ) -> None:
        self._store = store
        self._copy = copy
        self._chance = chance
        self._messages: asyncio.Queue[tuple[float, Message]] = asyncio.Queue()
        self._latency = 0.0
        self._each = 0.0
        self._steady_latency = steady_latency
        self._stalled_until = 0.0
        self.last_message_at = time.monotonic()
        copy.freshness.ask = self._ask
        self.send(store.snapshot())
        store.streams.append(self)

    def send(self, message: Message) -> None:
        self._messages.put_nowait((time.monotonic() + self._latency, message))

    async def deliver(self) -> None:
        while True:
            arrives_at, message = await self._messages.get()
            await asyncio.sleep(max(arrives_at, self._stalled_until) - time.monotonic())
            await asyncio.sleep(self._each)
            self._copy.apply(message)
            self.last_message_at = time.monotonic()

    async def change(self) -> None:
        """Half of the time the stream is fast, unless it has always the same latency."""
        if self._steady_latency is not None:
            self._latency = self._steady_latency
            return
        while True:
            self._latency = self._each = 0.001
            await asyncio.sleep(self._chance.uniform(0, 2 * STALL))
            if self._chance.random() < 0.5:
                self._stalled_until = time.monotonic() + self._chance.uniform(0, STALL)
            # After a stall it catches up slowly: what arrives is old, and more is on its way.
            self._latency = self._chance.choice((0.001, 0.1, 0.2))
            self._each = self._chance.choice((0.001, 0.01, 0.019))
            await asyncio.sleep(self._chance.uniform(0, 2 * STALL))

    def _ask(self) -> bool:
        heartbeat_id = self._copy.freshness.asked()
        on_the_way = 0.001
        if self._steady_latency is None and self._chance.random() < 0.25:
            on_the_way = self._chance.uniform(0, STALL)
        asyncio.get_running_loop().call_later(
            on_the_way, lambda: self.send(self._store.heartbeat(heartbeat_id))
        )
        return True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a poll; order 0: does not wait any more."""

    order: int
    from_view: bool = False
    has_age: bool = False


class Gateway:
    """Answers polls as gateway.routes.queue does."""

    def __init__(self, store: Store, chance: random.Random, steady_latency: float | None) -> None:
        self._store = store
        self._chance = chance
        self.copy = RoomCopy(BOUND)
        self.stream = Stream(store, self.copy, chance, steady_latency)
        room = RoomAnswers(self.copy, SignsOfLife(), QueueOutage(60, "main"))
        calls = Batcher[queue_pb2.Place, queue_pb2.Position](
            self._call, budget=60, max_batch=256, longest_pause=0.05
        )
        self._admissions = Admissions(calls, 1.0, Pace(enforced=True), room)

    def enter(self) -> tuple[queue_pb2.Place, int]:
        """Returns a new place and its order."""
        place = queue_pb2.Place(room="main", number=self._store.join(), user_id=USER)
        position = self._store.position(place.number)
        self._admissions.entered(place, position)
        return place, position.order

    async def poll(self, place: queue_pb2.Place) -> Answer:
        position = self._admissions.position_now(place)
        if position is not None:
            return Answer(position.order, from_view=True)
        early = self._admissions.early_answer(place)
        if early is not None:
            return Answer(early.position.order, has_age=True)
        try:
            return Answer((await self._admissions.position(place)).order)
        except TokenExpired:
            return Answer(0)

    async def _call(self, places: Sequence[queue_pb2.Place]) -> list[queue_pb2.Position]:
        await asyncio.sleep(self._chance.uniform(0.001, 0.01))
        positions = [self._store.position(place.number) for place in places]
        await asyncio.sleep(self._chance.uniform(0.001, 0.01))
        return positions


@dataclass(slots=True)
class Seen:
    """What all shoppers saw."""

    polls: int = 0
    from_view: int = 0
    grown: int = 0
    """Orders that were larger than the one before."""


async def shop(
    gateways: Sequence[Gateway], spacing: Callable[[], float], seen: Seen, *, count_ages: bool
) -> None:
    """Enters at one gateway, and polls at each in turn, until it does not wait any more.

    `spacing` is the time from an answer to the next poll. An answer with the header Age repeats an
    older one: `count_ages` tells whether it counts."""
    while True:
        place, order = gateways[-1].enter()
        for gateway in itertools.cycle(gateways):
            await asyncio.sleep(spacing())
            answer = await gateway.poll(place)
            seen.polls += 1
            seen.from_view += answer.from_view
            if answer.has_age and not count_ages:
                continue
            if answer.order == 0:
                break
            seen.grown += answer.order > order
            order = answer.order


async def play(
    spacing: Callable[[], float],
    *,
    seed: int = 0,
    gateways: int = 2,
    seconds: float = 90,
    ahead: int = 300,
    steady_latency: float | None = None,
    is_fresh: Callable[[Gateway], bool] | None = None,
    count_ages: bool = False,
) -> Seen:
    """Plays one history with 20 shoppers. `is_fresh` replaces the proof of freshness."""
    chance = random.Random(seed)
    store = Store(chance)
    for _ in range(ahead):
        store.join()
    fleet = [Gateway(store, chance, steady_latency) for _ in range(gateways)]
    if is_fresh is not None:
        for gateway in fleet:
            _replace_freshness(gateway, is_fresh)
    seen = Seen()
    tasks = [store.live()]
    for gateway in fleet:
        tasks += [gateway.stream.deliver(), gateway.stream.change()]
    tasks += [shop(fleet, spacing, seen, count_ages=count_ages) for _ in range(20)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    return seen


def _replace_freshness(gateway: Gateway, is_fresh: Callable[[Gateway], bool]) -> None:
    """Heartbeats go on, because the clock of the room comes from them."""
    freshness = gateway.copy.freshness
    ask_if_needed = freshness.is_fresh

    def replaced() -> bool:
        ask_if_needed()
        return is_fresh(gateway)

    async def becomes_fresh() -> bool:
        return replaced()

    setattr(freshness, "is_fresh", replaced)  # noqa: B010
    setattr(freshness, "becomes_fresh", becomes_fresh)  # noqa: B010


def always(_: Gateway) -> bool:
    return True


def by_the_age_of_the_last_message(gateway: Gateway) -> bool:
    return time.monotonic() - gateway.stream.last_message_at <= BOUND


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("spacing", [BOUND, 1.0])
def test_no_order_grows_for_polls_as_far_apart_as_the_bound(
    monkeypatch: pytest.MonkeyPatch, spacing: float, seed: int
) -> None:
    seen = run(play(lambda: spacing, seed=seed), monkeypatch)
    assert seen.grown == 0
    # Both ways of answering took part.
    assert seen.polls > 1_000
    assert 0.1 < seen.from_view / seen.polls < 0.9


@pytest.mark.parametrize("is_fresh", [always, by_the_age_of_the_last_message])
def test_without_the_proof_of_freshness_orders_grow(
    monkeypatch: pytest.MonkeyPatch, is_fresh: Callable[[Gateway], bool]
) -> None:
    """So this test can fail: the streams lag enough."""
    assert run(play(lambda: BOUND, is_fresh=is_fresh), monkeypatch).grown > 10


@pytest.mark.parametrize("steady_latency", [None, 0.25])
def test_at_one_gateway_no_order_grows_however_often_it_polls(
    monkeypatch: pytest.MonkeyPatch, steady_latency: float | None
) -> None:
    """Hence not at several either, if the load balancer sends a token to one of them.

    An answer from the view may be older than one of a call before it, most often with a steady
    latency of nearly the bound: without the memory of RoomAnswers, orders grow then."""
    chance = random.Random(3)
    seen = run(
        play(
            lambda: chance.uniform(0, 0.02),
            gateways=1,
            seconds=30,
            ahead=50,
            steady_latency=steady_latency,
            count_ages=True,
        ),
        monkeypatch,
    )
    assert seen.grown == 0
    assert seen.polls > 1_000
    assert seen.from_view / seen.polls > 0.1


def test_closer_polls_at_two_gateways_may_see_an_older_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is why affinity is recommended. If this fails, more can be promised."""
    assert run(play(lambda: 0.01, seconds=20), monkeypatch).grown > 0
