"""Copies of a room that are fed with its log equal what Redis holds, after each of thousands of
random calls.

People join, poll, leave, miss their claim windows, are absent and run out of time. Redis loses
everything or its newest changes, noticed or not."""

import asyncio
import random
from itertools import count
from typing import Any

import pytest

from queue_service.domain import (
    HandBack,
    Limits,
    LostAdmission,
    Place,
    Refusal,
    Room,
    RoomMemory,
    Rules,
)
from queue_service.repository import QueueRepository
from room_view.view import Admission, Gap, RoomView
from servicekit import redis_client
from servicekit.errors import Unavailable
from tests.queue_service.conftest import entries
from tests.queue_service.follower import Follower
from tests.queue_service.log import Log

# Short, so that everything runs out while a history goes on.
HASTY = Rules(
    grace_ms=60,
    claim_window_ms=40,
    admission_ttl_ms=120,
    absent_after_ms=50,
    heal_within_ms=3_600_000,
    bidding_ms=0,
    lease_ms=20,
)
LIMITS = Limits(3, 40)
STEPS = 400
MAX_LAG = 6
_rooms = count(1)


class History:
    """Random calls to a room, and two copies of it: one that always follows and one that lags."""

    def __init__(self, seed: int, log: Log) -> None:
        self.dice = random.Random(seed)
        self.log = log
        self.room = log.room
        self.store = QueueRepository(log.redis, HASTY, LIMITS, chunk=2)
        self.places: list[Place] = []
        self.lost: list[RoomView] = []
        self.seen = RoomMemory(0, 0, 0, LIMITS)
        self.followers = [Follower(self.store, self.room) for _ in range(2)]
        # Who may miss a change, because there was a loss since they caught up.
        self.behind_a_loss: list[Follower] = []
        self.snapshots = 0
        self.changes = 0

    async def begin(self) -> None:
        await self.log.note()
        for follower in self.followers:
            await self.start(follower)

    async def start(self, follower: Follower) -> None:
        """Takes a snapshot while other calls go on."""
        self.snapshots += 1
        for _ in range(20):
            try:
                await follower.start(self.call)
                return
            except (Gap, Unavailable):  # it began a new epoch
                continue
        raise AssertionError("no snapshot is complete")

    async def step(self) -> None:
        await self.dice.choices(
            [self.call, self.sleep, self.cut, self.lose, self.change_replica, self.watch_anew],
            [100, 10, 2, 1, 1, 2],
        )[0]()
        # What a replica that follows the log remembers, and each gateway sends.
        self.store.remember(self.room, self.seen)
        await self.compare(self.followers[0])
        if self.dice.random() < 1 / MAX_LAG:
            await self.compare(self.followers[1])

    async def compare(self, follower: Follower) -> None:
        state = await self.store.heartbeat(self.room, ())
        self.note(state)
        try:
            self.changes += len(await follower.catch_up())
        except Gap:
            assert follower in self.behind_a_loss, "a number is missing, and nothing was lost"
            self.lost = [*self.lost, follower.view][-3:]
            await self.start(follower)
            state = await self.store.heartbeat(self.room, ())
            self.note(state)
            await follower.catch_up()
        self.behind_a_loss = [f for f in self.behind_a_loss if f is not follower]
        view = follower.view
        assert (view.epoch, view.seq) == (state.epoch, state.seq)
        assert view.last <= state.last
        assert view.fields == state.fields()
        assert state.unrecorded_at == 0
        assert [n for block in view.line.blocks() for n in block] == await self.waiting()
        assert view.admitted == await self.admitted()

    def note(self, state: Room) -> None:
        if state.memory.is_after(self.seen):
            self.seen = state.memory

    async def waiting(self) -> list[int]:
        members: Any = await self.log.redis.zrange(self.log.key("waiting"), 0, -1)
        return [int(member) for member in members]

    async def admitted(self) -> dict[int, Admission]:
        async with self.log.redis.pipeline(transaction=True) as pipe:
            pipe.zrange(self.log.key("admitted"), 0, -1, withscores=True)
            pipe.hgetall(self.log.key("places"))
            pipe.smembers(self.log.key("unclaimed"))
            admitted, places, unclaimed = await pipe.execute()
        return {
            int(number): Admission(
                int(places[number].partition(b":")[0]), int(until_ms), number not in unclaimed
            )
            for number, until_ms in admitted
        }

    # What happens.

    async def call(self) -> None:
        act = self.dice.choices(
            [
                self.enter,
                self.poll,
                self.report,
                self.leave,
                self.tick,
                self.update,
                self.hand_back,
            ],
            [6, 8, 4, 4, 2, 1, 2],
        )[0]
        self.note(await act())

    def some_places(self, most: int) -> list[Place]:
        newest = self.places[-30:]
        return self.dice.choices(newest, k=self.dice.randint(1, most)) if newest else []

    async def enter(self) -> Room:
        users = [self.dice.randint(1, 25) for _ in range(self.dice.randint(1, 6))]
        state, answers = await self.store.enter(self.room, entries(users))
        for answer in answers:
            if not isinstance(answer, Refusal) and answer[0] not in self.places:
                self.places.append(answer[0])
        return state

    async def poll(self) -> Room:
        return (await self.store.positions(self.room, self.some_places(8)))[0]

    async def report(self) -> Room:
        return await self.store.heartbeat(self.room, self.some_places(8))

    async def leave(self) -> Room:
        return await self.store.leave_all(self.room, self.some_places(2))

    async def tick(self) -> Room:
        return await self.store.tick(self.room)

    async def update(self) -> Room:
        return await self.store.update(
            self.room,
            capacity=self.dice.randint(0, 5),
            max_waiting=None,
            paused=self.dice.random() < 0.2,
        )

    async def hand_back(self) -> Room:
        """A part of what a copy from before a loss knows."""
        if not self.lost:
            return await self.tick()
        view = self.dice.choice(self.lost)
        waiting = [n for block in view.line.blocks() for n in block]
        state, _ = await self.store.hand_back(
            self.room,
            HandBack(
                f"copy {view.seq}",
                view.epoch,
                view.seq,
                view.last,
                ended=self.some_places(2),
                admitted=[
                    LostAdmission(number, a.user_id, a.until_ms, a.claimed)
                    for number, a in view.admitted.items()
                ],
                waiting=waiting[: self.dice.randint(0, len(waiting))],
                done=self.dice.random() < 0.3,
            ),
        )
        return state

    async def sleep(self) -> None:
        await asyncio.sleep(self.dice.uniform(0, 0.04))

    async def change_replica(self) -> None:
        """The next calls are of a replica that has just started; it learns what others saw."""
        self.store = QueueRepository(self.log.redis, HASTY, LIMITS, chunk=2)
        for follower in self.followers:
            follower.store = self.store

    async def watch_anew(self) -> None:
        await self.start(self.dice.choice(self.followers))

    async def cut(self) -> None:
        """Redis comes back with what it had some calls ago, sometimes unnoticed: under the same
        replication id."""
        back = self.dice.randint(0, len(self.log.copies) - 1)
        await self.log.cut(back, unnoticed=self.dice.random() < 0.5)
        self.behind_a_loss = [*self.followers]

    async def lose(self) -> None:
        await self.log.redis.delete(*[self.log.key(name) for name in self.log.KEYS])
        await asyncio.sleep(0.002)
        self.behind_a_loss = [*self.followers]


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 40))]
)
async def test_copies_equal_redis(redis_url: str, seed: int) -> None:
    async with redis_client.connect(redis_url, timeout=10.0) as redis:
        history = History(seed, Log(redis, f"model-{next(_rooms)}"))
        await history.begin()
        for step in range(STEPS):
            try:
                await history.step()
            except AssertionError as error:
                error.add_note(f"seed {seed}, step {step}")
                raise
            if step % 5 == 0:
                await history.log.note()
                del history.log.copies[:-8]
        for follower in history.followers:
            await history.compare(follower)
        assert history.snapshots > 5
        assert history.changes > STEPS / 4
