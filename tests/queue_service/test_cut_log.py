"""Random histories of a room whose Redis comes back with less, checked against the rules of
docs/adr/0035-two-places-of-one-person.md. The model knows the truth: what became of each place,
also where Redis has lost it."""

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from queue_service.domain import Limits, Place, Refusal, Room
from queue_service.repository import QueueRepository
from room_view.position import PlaceState, Standing
from servicekit import redis_client
from tests.queue_service.conftest import RULES, OwnRedis, entries
from tests.queue_service.log import Log, RealLog, View

GRACE = RULES.grace_ms
_rooms = count(1)


@dataclass(frozen=True)
class Memory:
    """What the room knows and must not forget, but in a loss."""

    view: View = field(default_factory=lambda: View((), frozenset(), {}))
    ended: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    restored_in: dict[int, int] = field(default_factory=dict)


@dataclass
class Truth:
    """What became of a place."""

    place: Place
    given_at: int
    ended_at: int | None = None


class History:
    """Does what people do, and asserts after each step that the room did right by them."""

    def __init__(self, log: Log, capacity: int) -> None:
        self.log = log
        self.capacity = capacity
        self.stores = [self.new_store()]
        self.step = 0
        self.places: dict[int, Truth] = {}
        self.memories: list[Memory] = []
        self.now = Memory()
        self.orders: dict[int, int] = {}
        self.leaving: set[int] = set()

    def new_store(self) -> QueueRepository:
        return QueueRepository(self.log.redis, RULES, Limits(self.capacity, 100))

    @property
    def store(self) -> QueueRepository:
        return self.stores[-1]

    def tokens(self, user: int) -> list[Place]:
        """All tokens of a user, the newest first."""
        found = [truth.place for truth in self.places.values() if truth.place.user_id == user]
        return sorted(found, key=lambda place: -place.number)

    def ended(self, number: int) -> bool:
        return self.places[number].ended_at is not None

    async def begin(self) -> None:
        """Notes the empty room as the first moment."""
        await self.log.note()
        self.memories.append(self.now)

    # What people do.

    async def enter(self, user: int) -> None:
        before = self.now.view
        room, (answer,) = await self.store.enter(self.log.room, entries([user]))
        assert not isinstance(answer, Refusal)
        place, standing = answer
        assert standing.state is not PlaceState.ENDED
        if user in before.users:
            assert place.number == before.users[user], "a second place"
        if place.number in self.places:
            assert place == self.places[place.number].place, "another token of the same place"
        else:
            assert all(place.number > number for number in self.places), "a number given twice"
            assert place.epoch == room.epoch
            self.places[place.number] = Truth(place, self.step)
        self.heard(place.number)
        await self.look(room)
        self.check_order(place.number, standing, room)

    async def poll(self, place: Place) -> Standing:
        lost = place.number not in self.now.view.live and place.number not in self.now.ended
        live = self.now.view.users.get(place.user_id)
        self.heard(place.number)
        room, (standing,) = await self.store.positions(self.log.room, [place])
        if lost:
            self.settle_two(place, live, standing, room)
        await self.look(room)
        answered = standing.state is not PlaceState.ENDED
        assert answered == (place.number in self.now.view.live)
        self.check_order(place.number, standing, room)
        return standing

    async def leave(self, place: Place, *, with_epoch: bool) -> None:
        """Without the epoch: by the event of a payment."""
        lost = place.number not in self.now.view.live and place.number not in self.now.ended
        live = self.now.view.users.get(place.user_id)
        self.leaving.add(place.number)
        if lost and live is not None and live < place.number:
            self.leaving.add(live)  # allowed; required where it is proven:
        epoch = place.epoch if with_epoch else 0
        room = await self.store.leave(self.log.room, place.number, place.user_id, epoch)
        if lost:
            self.end(place.number)
        await self.look(room)
        assert place.number not in self.now.view.live
        if lost and live is not None and live < place.number:
            if self.proves(place, live) and live not in self.now.restored_in:
                assert live not in self.now.view.live, "the older place keeps a slot"
            if self.restored_after(live, place):
                assert live in self.now.view.live, "a place was ended without proof"

    async def lapse(self, place: Place) -> None:
        """The admission of a place runs out."""
        if place.number not in self.now.view.admitted:
            return
        await self.log.redis.zadd(self.log.key("admitted"), {str(place.number): 1})
        await self.log.redis.srem(self.log.key("unclaimed"), place.number)
        self.leaving.add(place.number)
        await self.tick()
        assert place.number not in self.now.view.live

    async def fall_asleep(self, place: Place) -> None:
        """The owner of a waiting place has not polled for long."""
        if place.number not in self.now.view.waiting:
            return
        key = self.log.key("places")
        record = await self.log.redis.hget(key, str(place.number))
        assert isinstance(record, bytes)
        user, _, *epoch = record.split(b":")
        await self.log.redis.hset(key, str(place.number), b":".join([user, b"1", *epoch]).decode())
        await self.log.redis.hincrby(self.log.key("state"), "resumed_at", -2 * GRACE)
        self.now = replace(self.now, absent=self.now.absent | {place.number})
        await self.tick()

    async def tick(self) -> None:
        await self.look(await self.store.tick(self.log.room))

    async def let_a_grace_pass(self) -> None:
        if self.now.view.live:
            async with self.log.redis.pipeline(transaction=True) as pipe:
                for name in ("grace_until", "settled_at", "resumed_at"):
                    pipe.hincrby(self.log.key("state"), name, -GRACE - 1)
                await pipe.execute()
        await self.tick()

    async def change_replica(self) -> None:
        """From now on a replica is asked that has just started and remembers nothing."""
        self.stores.append(self.new_store())
        await self.tick()

    async def lose(self, moment: int) -> None:
        """Redis comes back as it was after that many steps."""
        await self.log.cut(moment)
        del self.memories[moment + 1 :]
        self.now = self.memories[moment]
        self.orders.clear()
        self.leaving.clear()

    async def lose_everything(self) -> None:
        await self.log.redis.delete(*[self.log.key(name) for name in self.log.KEYS])
        await asyncio.sleep(0.002)
        self.now = Memory()
        self.orders.clear()

    # What must hold.

    def heard(self, number: int) -> None:
        self.now = replace(self.now, absent=self.now.absent - {number})

    def proves(self, newer: Place, older: int) -> bool:
        """In truth: whether the older place had ended when the newer one was given."""
        ended_at = self.places[older].ended_at
        return ended_at is not None and ended_at < self.places[newer.number].given_at

    def restored_after(self, older: int, newer: Place) -> bool:
        """Whether the older place returned by its token in a later epoch than the newer one is of,
        which then proves something only about places of its own epoch."""
        return self.now.restored_in.get(older, 0) > newer.epoch and older <= newer.epoch

    def settle_two(self, shown: Place, live: int | None, standing: Standing, room: Room) -> None:
        """A place was shown that Redis has lost, and `live` is what Redis has of its user."""
        returned = standing.state is not PlaceState.ENDED
        if live is None:
            assert returned, "a lost place was taken for one that ended"
        elif live > shown.number:
            if shown.number > self.places[live].place.epoch:
                assert not returned, "a place lives again although the newer one proves its end"
            elif not self.ended(shown.number):
                admitted = live in self.now.view.admitted
                assert returned != admitted, "of two unproven places the older stays"
        elif not self.restored_after(live, shown):
            if self.proves(shown, live):
                assert returned, "a place was lost to an older one that had ended"
        else:
            assert not returned, "of two unproven places the older stays"
        if returned:
            if live is not None:
                self.leaving.add(live)
            restored_in = {**self.now.restored_in, shown.number: room.epoch}
            self.now = replace(self.now, restored_in=restored_in)
        else:
            self.end(shown.number)

    def end(self, number: int) -> None:
        truth = self.places[number]
        if truth.ended_at is None:
            truth.ended_at = self.step
        self.now = replace(self.now, ended=self.now.ended | {number})

    async def look(self, room: Room) -> None:
        """Reads what Redis knows, compares it with what it knew before, and notes the moment."""
        before, after = self.now.view, await self.log.note()
        for number in before.live - after.live:
            assert number in self.leaving | self.now.absent, "a live place disappeared"
            self.end(number)
        self.leaving.clear()
        assert not after.live & self.now.ended, "an ended place lives again"
        assert len(after.admitted) <= self.capacity
        assert sorted(after.users.values()) == sorted(after.live), "two places of one user"
        assert not after.admitted & set(after.waiting)
        entered = after.admitted - before.admitted
        if entered and after.waiting:
            assert max(entered) < min(after.waiting), "somebody was overtaken"
        self.now = replace(self.now, view=after)
        self.memories.append(self.now)
        assert len(self.memories) == len(self.log.copies)
        self.step += 1

    def check_order(self, number: int, standing: Standing, room: Room) -> None:
        if standing.state is PlaceState.WAITING and not room.settling:
            assert standing.order <= self.orders.get(number, standing.order), "an order grew"
            self.orders[number] = standing.order

    async def finish(self) -> None:
        """Everybody polls with the newest token, and all get in and leave."""
        for _ in range(3 * len(self.places) + 3):
            waiting = False
            for user in sorted({truth.place.user_id for truth in self.places.values()}):
                if mine := [place for place in self.tokens(user) if not self.ended(place.number)]:
                    waiting = True
                    if (await self.poll(mine[0])).state is PlaceState.ADMITTED:
                        await self.leave(mine[0], with_epoch=True)
                elif (live := self.now.view.users.get(user)) is not None:
                    # Redis has lost the end of the last place.
                    await self.leave(self.places[live].place, with_epoch=True)
            if not waiting:
                return
            await self.let_a_grace_pass()
        raise AssertionError("somebody was never admitted")

    async def act(self, act: str, user: int, pick: int) -> None:
        """Does one of ACTS. `pick` chooses a token, 0 is the newest, or a moment."""
        tokens = self.tokens(user)
        token = tokens[pick % len(tokens)] if tokens else None
        if act == "enter":
            await self.enter(user)
        elif act == "settle":
            await self.let_a_grace_pass()
        elif act == "restart":
            await self.change_replica()
        elif act == "cut":
            await self.lose(max(0, len(self.memories) - 1 - pick))
        elif act == "flush":
            await self.lose_everything()
        elif token is None:
            return
        elif act == "poll":
            await self.poll(token)
        elif act == "leave":
            await self.leave(token, with_epoch=True)
        elif act == "pay":
            await self.leave(token, with_epoch=False)
        elif act == "lapse":
            await self.lapse(token)
        else:
            await self.fall_asleep(token)


Step = tuple[str, int, int]
Poll = tuple[int, int]

USERS = st.sampled_from([1, 1, 1, 2, 3])
ACTS = st.sampled_from(
    ["enter"] * 4 + ["poll"] * 4 + ["leave", "pay", "lapse", "cut", "sleep"]
    + ["settle", "restart", "flush"]
)  # fmt: skip
STEPS = st.lists(st.tuples(ACTS, USERS, st.integers(0, 4)), max_size=14)
POLLS = st.lists(st.tuples(USERS, st.integers(0, 2)), max_size=4)


async def every_cut(history: History, steps: Sequence[Step], polls: Sequence[Poll]) -> None:
    """Plays a history, then loses what followed each of its commands; after each cut some poll,
    with old tokens too, and then everybody gets in."""
    await history.begin()
    for act, user, pick in steps:
        await history.act(act, user, pick)
    for moment in reversed(range(len(history.memories))):
        after = copy.deepcopy(history.places)
        await history.lose(moment)
        for user, pick in polls:
            await history.act("poll", user, pick)
        await history.finish()
        history.places = after


def thorough(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )


# A buyer pays and enters again, and the log loses both.
BUYS_AGAIN: list[Step] = [("enter", 1, 0), ("enter", 2, 0), ("pay", 1, 0), ("enter", 1, 0)]
NEVER_LOST: list[Step] = [("enter", 1, 0), ("leave", 1, 0), ("enter", 1, 0)]
LOST_WHEN_ENTERING: list[Step] = [("enter", 1, 0), ("flush", 1, 0), ("enter", 1, 0)]
# The cases of the decision record; token 0 is the newer one.
CASES: dict[str, list[Step]] = {
    "newer shown, older never lost": BUYS_AGAIN,
    "newer shown, older restored before": [
        ("enter", 1, 0), ("flush", 1, 0), ("poll", 1, 0), ("leave", 1, 0), ("enter", 1, 0),
    ],
    "newer shown, older of the same epoch restored": [
        *NEVER_LOST, ("flush", 1, 0), ("poll", 1, 1), ("poll", 1, 0),
    ],
    "newer shown, older restored later": [
        *LOST_WHEN_ENTERING, ("flush", 1, 0), ("poll", 1, 1), ("poll", 1, 0),
    ],
    "older shown, newer of the same epoch": [
        *NEVER_LOST, ("flush", 1, 0), ("poll", 1, 0), ("poll", 1, 1),
    ],
    "older shown, newer of a later epoch waiting": [*LOST_WHEN_ENTERING, ("poll", 1, 1)],
    "older shown, newer of a later epoch admitted": [
        *LOST_WHEN_ENTERING, ("settle", 1, 0), ("poll", 1, 0), ("poll", 1, 1),
    ],
    "entered without a token where the older survived": [
        *BUYS_AGAIN, ("cut", 1, 2), ("enter", 1, 0), ("poll", 1, 0),
    ],
    "newer left, older survived": [*BUYS_AGAIN, ("cut", 1, 2), ("leave", 1, 0)],
    "newer paid for, older survived": [*BUYS_AGAIN, ("cut", 1, 2), ("pay", 1, 0)],
    "newer paid for, older restored later": [
        *LOST_WHEN_ENTERING, ("flush", 1, 0), ("poll", 1, 1), ("pay", 1, 0),
    ],
    "lost with its whole epoch": [
        ("enter", 1, 0), ("enter", 2, 0), ("cut", 1, 0), ("pay", 1, 0), ("enter", 1, 0),
        ("cut", 1, 3), ("poll", 1, 0),
    ],
}  # fmt: skip


@pytest.fixture
async def redis(own_redis: OwnRedis) -> AsyncIterator[Redis]:
    async with redis_client.connect(own_redis.url, timeout=10.0, retries=1) as client:
        yield client


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
async def test_two_places_of_one_person(redis: Redis, steps: list[Step]) -> None:
    await every_cut(History(Log(redis, f"cut-{next(_rooms)}"), capacity=1), steps, [])


@thorough(80)
@given(steps=STEPS, polls=POLLS, capacity=st.integers(1, 2))
async def test_nobody_is_lost_wherever_the_log_ends(
    redis: Redis, steps: list[Step], polls: list[Poll], capacity: int
) -> None:
    await every_cut(History(Log(redis, f"cut-{next(_rooms)}"), capacity), steps, polls)


@pytest.mark.long
@pytest.mark.timeout(900)
@thorough(10_000)
@given(steps=STEPS, polls=POLLS, capacity=st.integers(1, 2))
async def test_nobody_is_lost_in_many_histories(
    redis: Redis, steps: list[Step], polls: list[Poll], capacity: int
) -> None:
    await every_cut(History(Log(redis, f"cut-{next(_rooms)}"), capacity), steps, polls)


@thorough(3)
@given(steps=STEPS, polls=POLLS, capacity=st.integers(1, 2))
@example(steps=BUYS_AGAIN, polls=[], capacity=1)
async def test_nobody_is_lost_by_real_cuts(
    own_redis: OwnRedis, redis: Redis, steps: list[Step], polls: list[Poll], capacity: int
) -> None:
    log = RealLog(redis, f"cut-{next(_rooms)}", own_redis)
    await every_cut(History(log, capacity), steps, polls)


async def test_a_copy_is_what_a_cut_leaves(own_redis: OwnRedis, redis: Redis) -> None:
    log = RealLog(redis, "main", own_redis)
    history = History(log, capacity=1)
    await history.begin()
    known = [await log.contents()]
    for act, user, pick in [*BUYS_AGAIN, ("enter", 3, 0), ("poll", 2, 0), ("lapse", 2, 0),
                            ("flush", 1, 0), ("poll", 3, 0), ("leave", 3, 0)]:  # fmt: skip
        await history.act(act, user, pick)
        if len(history.memories) > len(known):
            known.append(await log.contents())
    for moment in reversed(range(len(known))):
        await log.cut(moment)
        assert await log.contents() == known[moment]
    assert len(known) == 10
