"""Random histories of a room whose Redis loses its data or the end of its log, while two gateways
give back what they know: real scripts, and two copies of the room that lag behind differently.

The model knows the truth: who ended and when, and what each gateway had seen of it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from redis.asyncio import Redis

from gateway.room.copy import RoomCopy
from gateway.room.healing import Healing
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import Limits, Place, Refusal
from queue_service.repository import QueueRepository
from queue_service.service import QueueService
from queue_service.servicer import QueueServicer
from queue_service.tokens import Signer
from room_view.position import Pacing, PlaceState
from room_view.view import RoomView
from servicekit import redis_client
from tests.queue_service.conftest import RULES, OwnRedis, entries
from tests.queue_service.log import Log

_rooms = count(1)
MOST_LOST = 10
LIMITS = Limits(3, 100)


@dataclass(frozen=True)
class Seen:
    """What Redis knows of a room at one moment."""

    epoch: int
    waiting: list[int]
    admitted: dict[int, int]
    """Until when each place is admitted, ms."""
    unclaimed: set[int]

    @property
    def live(self) -> set[int]:
        return {*self.waiting, *self.admitted}


class Gateway:
    """A copy of the room that is some changes behind, and what gives back from it."""

    def __init__(self, world: "World") -> None:
        self.copy = RoomCopy(0.3)
        self.healing = Healing(self.copy, SignsOfLife(), world.hand_back, world.room)
        self.behind: list[queue_pb2.WatchRoomResponse] = []
        self.acknowledged: list[Place] = []
        """Places whose owner it has told that they have left."""

    def catch_up(self, lag: int = 0) -> None:
        """Applies all changes but the last `lag`."""
        freshness = self.copy.freshness
        while len(self.behind) > lag:
            self.copy.apply(self.behind.pop(0))
            freshness.as_of = float("inf")
        view = self.copy.view
        if view is not None:
            heartbeat = queue_pb2.Heartbeat(
                id=freshness.asked(), epoch=view.epoch, seq=view.seq, now_ms=int(time.time() * 1000)
            )
            self.copy.apply(queue_pb2.WatchRoomResponse(heartbeat=heartbeat))


@dataclass
class Person:
    """Somebody with a token, and what became of the place in truth."""

    place: Place
    ended_at: tuple[int, int] | None = None
    """The epoch and the change at which it ended."""
    acknowledged: bool = False
    certain_in: int = 0
    """The epoch in which the room knows that it has ended."""
    was_forgotten: bool = False
    """The room had lost its end, and it lived again by its token."""


@dataclass
class World:
    """A room, its people, and two gateways."""

    log: Log
    dice: random.Random
    room: str
    people: dict[int, Person] = field(default_factory=dict)
    users: "count[int]" = field(default_factory=lambda: count(1))

    async def begin(self) -> None:
        self.store = QueueRepository(self.log.redis, RULES, LIMITS)
        service = QueueService(
            self.store, Signer("k1", "s" * 32), Pacing(queue_pb2.RoomRules()), [self.room]
        )
        self.servicer = QueueServicer(service, {})
        self.gateways = [Gateway(self), Gateway(self)]
        self.healing, self.may_join = False, True
        await self.store.tick(self.room)
        self.seen = await self.look()
        await self.watch()
        for gateway in self.gateways:
            gateway.catch_up()
        await self.log.note()

    async def watch(self) -> None:
        """Both gateways begin to watch, or do so again after a loss."""
        snapshot = await self.store.snapshot(self.room)
        self.cursor = snapshot.after_id
        async for part in snapshot.parts:
            if part.is_first:
                part.rules.CopyFrom(queue_pb2.RoomRules(poll_min_ms=1_000))
            for gateway in self.gateways:
                gateway.behind.append(queue_pb2.WatchRoomResponse(snapshot=part))

    async def look(self) -> Seen:
        key = self.log.key
        async with self.log.redis.pipeline(transaction=True) as pipe:
            pipe.hget(key("state"), "epoch")
            pipe.zrange(key("waiting"), 0, -1)
            pipe.zrange(key("admitted"), 0, -1, withscores=True)
            pipe.smembers(key("unclaimed"))
            pipe.hlen(key("places"))
            epoch, waiting, admitted, unclaimed, places = await pipe.execute()
        assert len(admitted) <= LIMITS.capacity, "more admitted than may be"
        assert places == len(waiting) + len(admitted)
        return Seen(
            int(epoch),
            [int(number) for number in waiting],
            {int(number): int(until) for number, until in admitted},
            {int(number) for number in unclaimed},
        )

    async def changed(self) -> None:
        """Tells the gateways what the last call has changed, and checks that it was right."""
        before, self.seen = self.seen, await self.look()
        assert self.seen.epoch == before.epoch
        for cursor, changes in await self.store.changes(self.room, self.cursor, 0):
            self.cursor = cursor
            for change in changes.changes:
                if change.kind == queue_pb2.RoomChange.KIND_ENDED:
                    person = self.people[change.number]
                    person.ended_at = person.ended_at or (changes.epoch, changes.seq)
                    person.certain_in = changes.epoch
                elif not self.healing and change.number in self.people:
                    self.check_return(self.people[change.number])
            for gateway in self.gateways:
                gateway.behind.append(queue_pb2.WatchRoomResponse(changes=[changes]))
        for gateway in self.gateways:
            gateway.catch_up(0 if self.healing else self.dice.randint(0, 4))
        if not self.healing:
            entered = self.seen.admitted.keys() - before.admitted
            if entered and self.seen.waiting:
                assert max(entered) < self.seen.waiting[0], "somebody was overtaken"
            await self.log.note()

    def check_return(self, person: Person) -> None:
        """Somebody lives, perhaps again: the room may have lost an end that only it knew."""
        if person.ended_at is not None:
            assert not person.acknowledged, "somebody who had left lives again"
            assert person.certain_in < self.seen.epoch, "somebody who had ended lives again"
            person.ended_at, person.was_forgotten = None, True

    async def hand_back(self, request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
        """What the gateways call; in between, people go on."""
        if self.dice.random() < 0.3:
            await self.act()
        response = await self.servicer.HandBack(request, None)  # type: ignore[arg-type]
        await self.changed()
        if self.dice.random() < 0.1:  # a repeated call
            await self.servicer.HandBack(request, None)  # type: ignore[arg-type]
            await self.changed()
        return response

    # What people do.

    async def act(self) -> None:
        acts = [self.leave, self.lapse, self.poll, self.enter]
        if not self.may_join:
            acts = acts[:2]
        await self.dice.choices(acts, [3, 1, 4, 4][: len(acts)])[0]()

    async def enter(self) -> None:
        users = [next(self.users) for _ in range(self.dice.randint(1, 3))]
        _, answers = await self.store.enter(self.room, entries(users))
        for answer in answers:
            assert not isinstance(answer, Refusal)
            self.people[answer[0].number] = Person(answer[0])
        await self.changed()

    async def poll(self) -> None:
        """Through a gateway without a copy, perhaps with the token of a place that has ended."""
        if self.people:
            person = self.dice.choice(list(self.people.values()))
            await self.store.positions(self.room, [person.place])
            await self.changed()

    async def leave(self) -> None:
        live = [person for person in self.people.values() if person.ended_at is None]
        if live:
            person = self.dice.choice(live)
            place = person.place
            person.acknowledged = True
            await self.store.leave(self.room, place.number, place.user_id, place.epoch)
            gateway = self.dice.choice(self.gateways)
            gateway.copy.lost.end(
                queue_pb2.Place(number=place.number, user_id=place.user_id, epoch=place.epoch)
            )
            gateway.acknowledged.append(place)
            await self.changed()

    async def lapse(self) -> None:
        """The admission of somebody runs out."""
        claimed = self.seen.admitted.keys() - self.seen.unclaimed
        if claimed and not self.healing:
            number = self.dice.choice(sorted(claimed))
            await self.log.redis.zadd(self.log.key("admitted"), {str(number): 1})
            await self.store.tick(self.room)
            await self.changed()

    # What goes wrong, and what must be right afterwards.

    async def let_a_grace_pass(self) -> None:
        """No grace goes on, and lost places have had their time to return."""
        key, passed = self.log.key("state"), RULES.grace_ms + 1
        shape = await self.log.redis.hget(key, "shape")
        assert isinstance(shape, bytes)
        *sizes, total = shape.decode().split()
        async with self.log.redis.pipeline(transaction=True) as pipe:
            for name in ("grace_until", "settled_at", "resumed_at"):
                pipe.hincrby(key, name, -passed)
            # Two of them are part of the shape: this is no change without an entry.
            pipe.hset(key, "shape", " ".join([*sizes, str(int(total) - 2 * passed)]))
            await pipe.execute()
        for gateway in self.gateways:
            view = gateway.copy.view
            assert view is not None
            view.fields.grace_until_ms -= passed
            view.fields.settled_at_ms -= passed
        await self.store.tick(self.room)
        await self.changed()

    async def lose(self) -> bool:
        """Redis loses everything or its last writes; so is what no gateway has seen. Returns
        whether a new epoch has begun."""
        for gateway in self.gateways:
            gateway.behind.clear()
        before = self.seen.epoch
        loss = self.dice.choice(["all", "tail", "fail-back"])
        if loss == "all":
            await self.log.redis.delete(*[self.log.key(name) for name in self.log.KEYS])
            await asyncio.sleep(0.002)  # no restart takes less: epochs differ by milliseconds
        else:
            lost = self.dice.randint(1, MOST_LOST)
            moment = max(0, len(self.log.copies) - 1 - lost)
            await self.log.cut(moment, unnoticed=loss == "fail-back")
        await self.store.tick(self.room)
        self.seen = await self.look()
        await self.watch()
        self.healing = self.seen.epoch > before
        return self.healing

    async def heal(self) -> None:
        """The gateways give back, one after the other, so that a better one may come later."""
        views = [gateway.copy.view for gateway in self.gateways]
        best = max((view for view in views if view is not None), key=lambda view: view.seq)
        for gateway in self.gateways:
            gateway.catch_up()
        assert all(gateway.copy.lost.is_whole for gateway in self.gateways)
        settled = any(
            gateway.copy.lost.is_settled and gateway.copy.lost.newest is best
            for gateway in self.gateways
        )
        in_order = self.dice.sample(self.gateways, 2)
        # Once the first has given back, who joins the line may get the slot of somebody whom only
        # a better one knows. Therefore all bid for a while, in which nobody is granted.
        self.may_join = in_order[0].copy.lost.newest is best
        for gateway in in_order:
            running = asyncio.create_task(gateway.healing.run())
            try:
                while gateway.copy.lost:
                    self.check_answers(gateway)
                    await asyncio.sleep(0.001)
                    if running.done():
                        running.result()
            finally:
                running.cancel()
                await asyncio.wait([running])
        room = await self.store.tick(self.room)
        assert not room.recovering, "the grace goes on"
        await self.changed()
        self.healing, self.may_join = False, True
        self.check(best, settled)
        self.log.copies.clear()
        await self.log.note()
        await self.let_the_rest_return()

    def check_answers(self, gateway: Gateway) -> None:
        """Nobody who shops is interrupted meanwhile, and who waited still does. Nobody lives again
        at the gateway that has said that the place has ended."""
        lost = gateway.copy.lost
        for place in gateway.acknowledged:
            assert lost.standing(place.number, place.user_id, 0, gateway.copy.view) is None
        for view in lost.views:
            for number, admission in view.admitted.items():
                person = self.people[number]
                if person.ended_at or person.acknowledged:
                    continue
                if number not in self.seen.admitted:
                    standing = lost.standing(number, admission.user_id, 0, gateway.copy.view)
                    assert standing is not None
                    assert standing.state is PlaceState.ADMITTED

    def check(self, best: RoomView, settled: bool) -> None:
        """The room is what the best view knew, but for later ends that were acknowledged."""
        live, admitted = self.seen.live, self.seen.admitted
        now = self.seen.epoch
        for number, person in self.people.items():
            if person.ended_at is None:
                continue
            seen_by_best = person.ended_at <= (best.epoch, best.seq)
            certain = settled or number > best.epoch
            if person.acknowledged or person.ended_at[0] == now or (seen_by_best and certain):
                assert number not in live, "somebody who had ended lives again"
                person.certain_in = now
            elif number in live:
                person.ended_at, person.was_forgotten = None, True
        waited = {number for block in best.line.blocks() for number in block}
        for number in waited | best.admitted.keys():
            person = self.people[number]
            if not person.was_forgotten:
                assert number in live or person.ended_at, "somebody was lost"
        for number, admission in best.admitted.items():
            if self.people[number].ended_at is None:
                assert number in admitted, "somebody was thrown out"
                assert not admission.claimed or admitted[number] >= admission.until_ms
        entered = admitted.keys() - best.admitted
        # Whom no view had seen may return later, by a token.
        known = [number for number in self.seen.waiting if number in waited]
        if entered and known:
            assert max(entered) < known[0], "somebody was overtaken"

    async def let_the_rest_return(self) -> None:
        """Those whom no gateway had seen return by their tokens, as far as they have not ended."""
        for person in self.people.values():
            is_missing = person.place.number not in self.seen.live and person.ended_at is None
            if is_missing and not person.was_forgotten:
                _, (standing,) = await self.store.positions(self.room, [person.place])
                assert standing.state is not PlaceState.ENDED, "somebody was lost"
                await self.changed()


async def play(redis: Redis, seed: int, losses: int) -> None:
    """One history."""
    room = f"lost-{next(_rooms)}"
    world = World(Log(redis, room), random.Random(seed), room)
    await world.begin()
    try:
        for _ in range(losses):
            for _ in range(world.dice.randint(4, 20)):
                await world.act()
            if world.dice.random() < 0.5:
                await world.let_a_grace_pass()
            if await world.lose():
                await world.heal()
            else:
                for gateway in world.gateways:
                    gateway.catch_up()
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.fixture
async def redis(own_redis: OwnRedis) -> AsyncIterator[Redis]:
    async with redis_client.connect(own_redis.url, timeout=10.0, retries=1) as client:
        yield client


async def test_what_two_gateways_know_is_given_back(redis: Redis) -> None:
    for seed in range(30):
        await play(redis, seed, losses=3)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_many_losses(redis: Redis) -> None:
    for seed in range(1_000, 1_600):
        await play(redis, seed, losses=4)
