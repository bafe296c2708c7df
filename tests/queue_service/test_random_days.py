"""Random sequences of everything that can happen, on the fake and on Redis side by side.

Users buy and enter again, and Redis comes back with nothing or with what it knew some steps ago."""

import random
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from queue_service.domain import Limits, Place, Refusal
from queue_service.repository import QueueRepository
from room_view.position import PlaceState, Standing
from servicekit import redis_client
from tests.fakes.queue import FakeQueueStore
from tests.queue_service.conftest import RULES, OwnRedis, entries
from tests.queue_service.log import Log

# Nothing lapses, and a grace does not end.
STILL = replace(RULES, grace_ms=3_600_000)
LIMITS = Limits(2, 12)
STEPS = 60
MOST_LOST = 12


def gist(standing: Standing) -> int | None:
    return None if standing.state is PlaceState.ENDED else standing.order


class Day:
    """One sequence; `places` holds each place as the fake and as Redis numbered it."""

    def __init__(self, seed: int, redis: Redis) -> None:
        self.dice = random.Random(seed)
        self.redis = redis
        self.fake = FakeQueueStore(STILL, LIMITS)
        self.real = QueueRepository(redis, STILL, LIMITS)
        self.replicas = [(self.fake, self.real)]
        self.places: list[tuple[Place, Place]] = []
        self.log = Log(redis, "main")
        self.moments = [self.fake.copy_rooms()]

    async def begin(self) -> None:
        await self.log.note()

    async def step(self) -> None:
        act = self.dice.choices(
            [self.enter, self.poll, self.leave, self.change, self.cut, self.lose, self.start],
            [12, 12, 10, 2, 2, 1, 1],
        )[0]
        self.fake, self.real = self.dice.choice(self.replicas)
        await act()
        self.fake.advance(0.001)
        await self.check()
        await self.log.note()
        self.moments.append(self.fake.copy_rooms())

    async def enter(self) -> None:
        users = [self.dice.randint(1, 20) for _ in range(self.dice.randint(1, 5))]
        _, expected = await self.fake.enter("main", entries(users))
        _, got = await self.real.enter("main", entries(users))
        for theirs, ours in zip(expected, got, strict=True):
            if isinstance(theirs, Refusal) or isinstance(ours, Refusal):
                assert theirs == ours
                continue
            assert gist(theirs[1]) == gist(ours[1])
            pair = (theirs[0], ours[0])
            if pair not in self.places:
                # A new place in one is a new place in the other.
                assert not any(pair[0] == a or pair[1] == b for a, b in self.places)
                assert all(pair[1].number > b.number for _, b in self.places)
                self.places.append(pair)

    async def poll(self) -> None:
        if not self.places:
            return
        pairs = self.dice.choices(self.places, k=self.dice.randint(1, 8))
        _, expected = await self.fake.positions("main", [a for a, _ in pairs])
        _, got = await self.real.positions("main", [b for _, b in pairs])
        assert [gist(s) for s in expected] == [gist(s) for s in got]

    async def leave(self) -> None:
        if not self.places:
            return
        theirs, ours = self.dice.choice(self.places)
        await self.fake.leave("main", theirs.number, theirs.user_id, theirs.epoch)
        await self.real.leave("main", ours.number, ours.user_id, ours.epoch)

    async def change(self) -> None:
        capacity, paused = self.dice.randint(0, 4), self.dice.random() < 0.3
        await self.fake.update("main", capacity=capacity, max_waiting=None, paused=paused)
        await self.real.update("main", capacity=capacity, max_waiting=None, paused=paused)

    async def cut(self) -> None:
        """The last steps are lost: a cut log, an older backup or a replica that was behind."""
        moment = max(0, len(self.moments) - 1 - self.dice.randint(1, MOST_LOST))
        await self.log.cut(moment)
        del self.moments[moment + 1 :]
        self.fake.cut_back(self.moments[moment])

    async def lose(self) -> None:
        self.fake.forget()
        await self.redis.flushall()

    async def start(self) -> None:
        self.fake, self.real = self.fake.new_replica(), QueueRepository(self.redis, STILL, LIMITS)
        self.replicas.append((self.fake, self.real))

    async def check(self) -> None:
        """Both agree on the counts, and the keys in Redis on each other."""
        theirs, ours = await self.fake.tick("main"), await self.real.tick("main")
        assert (theirs.waiting, theirs.admitted) == (ours.waiting, ours.admitted)
        assert (theirs.limits, theirs.recovering) == (ours.limits, ours.recovering)
        assert (theirs.due_in == 0) == (ours.due_in == 0)
        key = "{{queue:main}}:{}".format
        users: dict[bytes, bytes] = await self.redis.hgetall(key("users"))  # type: ignore[assignment]
        owners: dict[bytes, bytes] = await self.redis.hgetall(key("places"))  # type: ignore[assignment]
        waiting = set(await self.redis.zrange(key("waiting"), 0, -1))
        admitted = set(await self.redis.zrange(key("admitted"), 0, -1))
        assert {place: owner.partition(b":")[0] for place, owner in owners.items()} == {
            place: user for user, place in users.items()
        }
        assert waiting | admitted == set(owners)
        assert not waiting & admitted
        assert set(await self.redis.smembers(key("unclaimed"))) <= admitted


@pytest.mark.parametrize("chunk", range(4))
async def test_the_fake_and_redis_agree(own_redis: OwnRedis, chunk: int) -> None:
    async with redis_client.connect(own_redis.url, timeout=2.0) as redis:
        for seed in range(chunk * 10, chunk * 10 + 10):
            await redis.flushall()
            day = Day(seed, redis)
            await day.begin()
            for number in range(STEPS):
                try:
                    await day.step()
                except AssertionError as error:
                    error.add_note(f"seed {seed}, step {number}")
                    raise
