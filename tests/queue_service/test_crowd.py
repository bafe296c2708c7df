"""Crowds over real Redis: two replicas at once, and a Redis that loses what it knew."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.asyncio import Redis

from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from queue_service.domain import Limits, Place, Refusal, Rules
from queue_service.repository import QueueRepository
from queue_service.service import Entered, QueueService
from queue_service.tokens import Signer
from room_view.position import Pacing, PlaceState
from servicekit import redis_client
from servicekit.errors import Unavailable
from tests.queue_service.conftest import RULES, OwnRedis, entries

CAPACITY = 10
PEOPLE = 500
# Long enough for all to return within it, on a slow machine too.
PATIENT = replace(RULES, grace_ms=1_500)


@dataclass
class Shop:
    """A few replicas on one Redis, and what was seen of the crowd."""

    replicas: Sequence[QueueService]
    watcher: Redis
    most_inside: int = 0
    admissions: list[int] = field(default_factory=list)
    """Place numbers in the order of their first admission."""

    def any(self) -> QueueService:
        return random.choice(self.replicas)

    async def line_up(self, users: Iterable[int]) -> list[Place]:
        """One after the other, over all replicas, so that the order of joining is known."""
        return [await self.join(user) for user in users]

    async def join(self, user: int) -> Place:
        (answer,) = await self.any().enter_queue("main", entries([user]))
        assert isinstance(answer, Entered)
        return answer.place

    async def orders(self, places: Sequence[Place]) -> list[int | None]:
        """0 = admitted, None = ended."""
        return [
            None if position.standing.state is PlaceState.ENDED else position.standing.order
            for position in (await self.any().get_positions(places)).places
        ]

    async def leave(self, place: Place) -> None:
        await self.any().leave_queue("main", place.number, place.user_id, place.epoch)

    async def buy(self, fans: Sequence[Place]) -> None:
        """All of them ask until admitted, and leave the shop after a moment; half of them through
        each replica."""
        async with asyncio.TaskGroup() as halves:
            for n, replica in enumerate(self.replicas):
                halves.create_task(self._buy(replica, fans[n :: len(self.replicas)]))

    async def _buy(self, replica: QueueService, fans: Sequence[Place]) -> None:
        orders = dict.fromkeys(fans, 10**6)
        while orders:
            asking = random.sample(list(orders), min(len(orders), MAX_ITEMS))
            positions = (await replica.get_positions(asking)).places
            for place, position in zip(asking, positions, strict=True):
                standing = position.standing
                assert standing.state is not PlaceState.ENDED, f"{place} was lost"
                assert standing.order <= orders[place] or position.recovering, "an order grew"
                orders[place] = standing.order
            for place in [place for place, order in orders.items() if order == 0]:
                await replica.leave_queue("main", place.number, place.user_id, place.epoch)
                del orders[place]
            await asyncio.sleep(0.002)

    async def watch(self) -> None:
        """Repeatedly reads who is inside and who is next, both at one instant."""
        while True:
            async with self.watcher.pipeline(transaction=True) as both:
                both.zrange("{queue:main}:admitted", 0, -1)
                both.zrange("{queue:main}:waiting", 0, 0)
                inside, first = await both.execute()
            numbers = sorted(int(number) for number in inside)
            self.most_inside = max(self.most_inside, len(numbers))
            if numbers and first:
                assert numbers[-1] < int(first[0]), "somebody was overtaken"
            self.admissions += [n for n in numbers if n not in self.admissions]
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def open_shop(url: str, rules: Rules = PATIENT) -> AsyncIterator[Shop]:
    """Two replicas with their ticks, on a Redis that is theirs."""
    async with contextlib.AsyncExitStack() as stack:

        def client() -> Redis:
            redis = redis_client.connect(url, timeout=10.0, retries=1)
            stack.push_async_callback(redis.aclose)
            return redis

        pacing = Pacing(
            queue_pb2.RoomRules(
                poll_min_ms=1_000,
                poll_max_ms=10_000,
                admission_ttl_ms=rules.admission_ttl_ms,
            )
        )
        replicas = [
            QueueService(
                QueueRepository(client(), rules, Limits(CAPACITY, 10_000)),
                Signer("k1", "s" * 32),
                pacing,
                ["main"],
            )
            for _ in range(2)
        ]
        async with running(*(replica.keep_ticking("main", 0.05) for replica in replicas)):
            yield Shop(replicas, client())


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs coroutines beside the block; one that fails fails the test."""
    tasks = [asyncio.create_task(w) for w in work]
    try:
        yield
    finally:
        pending = set(tasks)
        while pending:
            # Again if need be: before Python 3.12 redis-py may swallow a cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                task.result()


def numbers(places: Iterable[Place]) -> list[int]:
    return [place.number for place in places]


async def test_five_hundred_through_ten_slots(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop, running(shop.watch()):
        places = await shop.line_up(range(1, PEOPLE + 1))
        assert numbers(places) == sorted(set(numbers(places)))
        await shop.buy(places)
    assert shop.most_inside == CAPACITY
    # The watch may miss who was inside for an instant only; whom it saw came in order.
    assert shop.admissions == sorted(shop.admissions)
    assert len(shop.admissions) > PEOPLE / 2


async def test_a_crowd_that_joins_at_once_has_one_order(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop, running(shop.watch()):
        # Everybody twice, as impatient people do.
        twice = random.sample([*range(1, 301)] * 2, 600)
        joined = await asyncio.gather(*(shop.join(user) for user in twice))
        places = sorted(set(joined), key=lambda place: place.number)
        assert len(places) == 300
        orders = await shop.orders(places[:256])
        assert orders == [0] * CAPACITY + list(range(1, 256 - CAPACITY + 1))
    assert shop.most_inside == CAPACITY


async def test_nobody_slips_in_before_a_long_line_has_moved(own_redis: OwnRedis) -> None:
    """One step admits 256; who enters meanwhile finds free slots, and people before them."""
    async with open_shop(own_redis.url) as shop:
        await shop.any().update_room("main", capacity=0)
        for at in range(1, 1000, 200):
            await shop.any().enter_queue("main", entries(range(at, at + 200)))
        async with running(shop.watch()):
            assert (await shop.any().update_room("main", capacity=2000)).admitted < 1000
            newcomer = await shop.join(5000)
            while (await shop.orders([newcomer])) != [0]:  # noqa: ASYNC110  # a fan polls
                await asyncio.sleep(0.01)
        assert shop.admissions == sorted(shop.admissions)


async def test_flushall_in_the_middle(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop, asyncio.TaskGroup() as crowd:
        places = await shop.line_up(range(1, PEOPLE + 1))
        crowd.create_task(shop.buy(places))
        async with running(shop.watch()):
            async with asyncio.timeout(30):
                while len(shop.admissions) < 100:  # noqa: ASYNC110  # seen, not announced
                    await asyncio.sleep(0.001)
        await shop.watcher.flushall()
        before = shop.admissions.copy()
        shop.admissions.clear()
        async with running(shop.watch()):
            newcomers = await shop.line_up(range(1001, 1006))
            assert newcomers[0].number > places[-1].number
            assert (await shop.any().get_room("main")).recovering
            await shop.buy(newcomers)
    assert shop.most_inside == CAPACITY
    assert before == sorted(before)
    assert shop.admissions == sorted(shop.admissions), "the original order, newcomers last"
    assert len({*before, *shop.admissions}) > PEOPLE / 2


@pytest.mark.parametrize("torn", [0, 40], ids=["between transactions", "inside one"])
async def test_kill_9_and_the_last_second_lost(own_redis: OwnRedis, torn: int) -> None:
    async with open_shop(own_redis.url) as shop:
        kept = await shop.line_up(range(1, 41))
        await shop.leave(kept[0])
        await shop.leave(kept[20])
        # Everybody lives, and inside are 1..10.
        inside = kept[1:11]
        assert await shop.orders(inside) == [0] * 10
        durable = own_redis.written()
        # All that follows is lost: joining, leaving, being admitted.
        lost = await shop.line_up(range(41, 61))
        await shop.leave(kept[1])
        assert await shop.orders([kept[11]]) == [0]
        own_redis.kill()
        own_redis.lose_after(durable + torn)
        own_redis.start()
        # Each replica repeats the ends that it remembers.
        for replica in shop.replicas:
            await replica.get_room("main")

        newcomers = await shop.line_up(range(61, 71))
        everybody = [*kept, *lost, *newcomers]
        assert len(set(numbers(everybody))) == len(everybody), "a number was given twice"
        assert await shop.line_up(range(42, 43)) != [lost[1]], "not known until it is shown"
        # What ended stays so; the others stand as they stood.
        ended = [kept[0], kept[20], kept[1]]
        assert await shop.orders(ended) == [None, None, None]
        back = [p for p in everybody if p not in ended]
        random.shuffle(back)
        for place in back:
            assert await shop.orders([place]) != [None], "a place was lost"
        line = sorted(back, key=lambda place: place.number)
        assert await shop.orders(line) == [0] * 10 + list(range(1, len(line) - 10 + 1))
        # It takes a second to be sure that all are back; survivors need not wait for that.
        assert (await shop.any().get_room("main")).recovering
        await shop.leave(line[0])
        assert await shop.orders(line[10:12]) == [0, 1]
        async with running(shop.watch()):
            await shop.buy(line[1:])
        assert shop.admissions == sorted(shop.admissions)
        assert shop.most_inside <= CAPACITY
        assert await shop.orders(everybody) == [None] * len(everybody)


async def test_killed_again_and_again(own_redis: OwnRedis) -> None:
    """Every crash begins an epoch; the fates of all earlier ones stay known."""
    async with open_shop(own_redis.url, replace(PATIENT, grace_ms=100)) as shop:
        ended: list[Place] = []
        line = await shop.line_up(range(1, 31))
        for crash in range(4):
            await shop.leave(line[-1])
            ended.append(line.pop())
            durable = own_redis.written()
            line += await shop.line_up(range(100 * crash + 100, 100 * crash + 105))
            own_redis.kill()
            own_redis.lose_after(durable)
            own_redis.start()
            await shop.orders(random.sample(line, len(line)))
            await asyncio.sleep(0.15)
            assert await shop.orders(ended) == [None] * len(ended)
            assert await shop.orders(line) == [0] * 10 + list(range(1, len(line) - 10 + 1))
        # Tokens keep their epoch, so that who enters again gets an equal one.
        again = [await shop.join(place.user_id) for place in line]
        assert again == line
        assert len({place.epoch for place in line}) > 1


async def test_a_crash_in_the_grace_of_a_loss(own_redis: OwnRedis) -> None:
    """The early ones have not come back yet, and the late ones may not profit from a restart."""
    async with open_shop(own_redis.url) as shop:
        early = await shop.line_up(range(1, 21))
        await shop.watcher.flushall()
        late = await shop.line_up(range(21, 26))
        assert await shop.orders(late) == [1, 2, 3, 4, 5]
    own_redis.kill()
    own_redis.start()
    # The replicas are new as well, and remember nothing.
    async with open_shop(own_redis.url) as shop:
        assert await shop.orders(late) == [1, 2, 3, 4, 5]
        await shop.orders(early)
        assert await shop.orders([*early, *late]) == list(range(1, 26))
        async with running(shop.watch()):
            await shop.buy([*early, *late])
        assert shop.admissions == sorted(shop.admissions)


async def test_all_restart_and_the_last_second_is_lost_in_a_crowd(own_redis: OwnRedis) -> None:
    """Nobody remembers; but there was a line, so that somebody may have been lost behind it."""
    async with open_shop(own_redis.url) as shop:
        kept = await shop.line_up(range(1, 16))
        durable = own_redis.written()
        lost = await shop.line_up(range(16, 21))
    own_redis.kill()
    own_redis.lose_after(durable)
    own_redis.start()
    async with open_shop(own_redis.url) as shop:
        newcomers = await shop.line_up(range(21, 26))
        for place in kept[:10]:
            await shop.leave(place)
        assert await shop.orders([*kept[10:], *newcomers]) == [0] * 5 + [1, 2, 3, 4, 5]
        async with running(shop.watch()):
            await shop.buy([*kept[10:], *newcomers, *lost])
        assert shop.admissions == sorted(shop.admissions)


async def test_a_guess_is_corrected_after_a_restart_too(own_redis: OwnRedis) -> None:
    """Those who survived the restart stand behind all that the loss before it took."""
    async with redis_client.connect(own_redis.url, timeout=10.0, retries=1) as client:
        old = QueueRepository(client, PATIENT, Limits(CAPACITY, 10_000))
        _, answers = await old.enter("main", entries(range(1, 6)))
        early = [answer[0] for answer in answers if not isinstance(answer, Refusal)]
        await client.flushall()
        async with open_shop(own_redis.url) as shop:
            late = await shop.line_up(range(11, 31))
            own_redis.written()
            own_redis.kill()
            own_redis.start()
            assert await shop.orders(late) == [0] * 10 + list(range(1, 11))
            assert (await old.tick("main")).recovering
            await shop.leave(late[0])
            assert await shop.orders(late[10:12]) == [1, 2]
            assert await shop.orders(early[:1]) == [1]
            for place in late[1:10]:
                await shop.leave(place)
            async with asyncio.timeout(10):
                while await shop.orders(early) != [0] * 5:  # noqa: ASYNC110  # a fan polls
                    await asyncio.sleep(0.01)
            assert await shop.orders(late[10:]) == [0] * 5 + [1, 2, 3, 4, 5]


async def test_a_restart_where_nobody_waits_makes_nobody_wait(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url, replace(PATIENT, admission_ttl_ms=50)) as shop:
        await shop.line_up(range(1, CAPACITY + 1))
    await asyncio.sleep(0.06)
    # The shop was full, but that is over.
    own_redis.written()
    own_redis.kill()
    own_redis.start()
    async with open_shop(own_redis.url) as shop:
        (newcomer,) = await shop.line_up([99])
        assert await shop.orders([newcomer]) == [0]
        assert not (await shop.any().get_room("main")).recovering


async def test_what_ended_after_a_restart_stays_ended(own_redis: OwnRedis) -> None:
    """However old the place is: a token may have been issued just before it ended."""
    async with open_shop(own_redis.url) as shop:
        (place,) = await shop.line_up([1])
        own_redis.written()
        own_redis.kill()
        own_redis.start()
        await shop.orders([place])
        await shop.leave(place)
        # For this replica the place is old.
        hasty = replace(PATIENT, heal_within_ms=1)
        seen = await QueueRepository(shop.watcher, hasty, Limits(1, 1)).tick("main")
        assert await shop.orders([replace(place, issued_at=seen.now // 1000)]) == [None]


async def test_numbers_rise_although_the_clock_went_back(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop:
        (place,) = await shop.line_up([1])
        # Numbers as of next year; then the clock is right again.
        ahead = place.number + 4096 * 31_536_000_000
        await shop.watcher.hset("{queue:main}:state", "last", str(ahead))
        (following,) = await shop.line_up([2])
        assert following.number == ahead + 1
        for replica in shop.replicas:
            await replica.get_room("main")
        await shop.watcher.flushall()
        (after_loss,) = await shop.line_up([3])
        assert after_loss.number > following.number


async def test_redis_away_is_unavailable_soon_and_forgotten_later(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop:
        (place,) = await shop.line_up([1])
        await asyncio.gather(*(shop.orders([place]) for _ in range(50)))
        own_redis.kill()
        started = time.monotonic()
        for outcome in await asyncio.gather(
            *(shop.orders([place]) for _ in range(50)), return_exceptions=True
        ):
            assert isinstance(outcome, Unavailable)
        assert time.monotonic() - started < 5
        own_redis.start()
        # Not one error more, although every pooled connection was broken.
        for outcomes in await asyncio.gather(*(shop.orders([place]) for _ in range(50))):
            assert outcomes == [0]


async def test_a_redis_that_cannot_write_is_unavailable(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop:
        (place,) = await shop.line_up([1])
        await shop.any().update_room("main", capacity=0)
        own_redis.spoil_snapshots()
        await shop.watcher.config_set("save", "3600 1")
        await shop.watcher.bgsave()
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110  # seen, not announced
                (await shop.watcher.info("persistence"))["rdb_last_bgsave_status"] == "ok"
            ):
                await asyncio.sleep(0.01)
        # A poll may be answered still, a payment's event or a newcomer may not.
        with pytest.raises(Unavailable):
            await shop.leave(place)
        with pytest.raises(Unavailable):
            await shop.join(2)
        await shop.watcher.config_set("save", "")
        await shop.leave(place)
        assert await shop.orders([place]) == [None]


async def test_a_cancelled_call_spoils_no_other(own_redis: OwnRedis) -> None:
    """Once a client library handed the reply of a cancelled call to the next caller."""
    async with open_shop(own_redis.url) as shop:
        places = await shop.line_up(range(1, 101))
        expected = await shop.orders(places)

        async def ask(index: int) -> None:
            assert await shop.orders([places[index]]) == [expected[index]]

        for _ in range(5):
            calls = [asyncio.create_task(ask(index)) for index in range(100)]
            await asyncio.sleep(random.uniform(0, 0.01))
            for call in calls[::3]:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for outcome in outcomes:
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)


async def test_a_room_is_one_slot_of_a_cluster(own_redis: OwnRedis) -> None:
    async with open_shop(own_redis.url) as shop:
        places = await shop.line_up(range(1, 21))
        await shop.watcher.flushall()
        await shop.orders(places)
        await shop.leave(places[0])
        keys = await shop.watcher.keys()
        assert len(keys) >= 4
        assert {str(key).partition("}")[0] for key in keys} == {"b'{queue:main"}


async def test_a_fail_over_that_goes_back_loses_nobody(
    own_redis: OwnRedis, second_redis: OwnRedis
) -> None:
    """The first master copies the older state of its replica and is promoted again. No script ran
    on the replica, and the first master has the run id that it had."""
    async with open_shop(own_redis.url) as shop, Redis.from_url(second_redis.url) as replica:
        first = shop.watcher
        kept = await shop.line_up(range(1, 16))
        await replica.config_set("repl-diskless-sync-delay", 0)
        await first.config_set("repl-diskless-sync-delay", 0)
        await replica.replicaof(*own_redis.address)
        await until_copied(replica)
        await replica.replicaof("NO", "ONE")
        lost = await shop.line_up(range(16, 21))
        paid, again = kept[0], 1
        await shop.leave(paid)
        lost += await shop.line_up([again])
        # No script may run before the promotion: it would fail, and no epoch would begin.
        await first.replicaof(*second_redis.address)
        await until_copied(first)
        with pytest.raises(Unavailable):
            await shop.orders(lost)
        await first.replicaof("NO", "ONE")

        # The last one proves that the paid place had ended: its slot goes to the first in line.
        assert await shop.orders(lost) == [5, 6, 7, 8, 9, 10]
        assert await shop.orders([paid]) == [None]
        line = [*kept[1:], *lost]
        async with running(shop.watch()):
            await shop.buy(line)
        assert shop.admissions == sorted(shop.admissions)


async def until_copied(replica: Redis) -> None:
    async with asyncio.timeout(20):
        while True:
            info = await replica.info("replication")
            if info["role"] == "slave" and info["master_link_status"] == "up":
                return
            await asyncio.sleep(0.02)
