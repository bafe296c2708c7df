"""What is fetched and committed together, how long a record waits for it, and that nothing is
lost: on a Kafka in memory and in virtual time, so that every race can be repeated."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import RequestTimedOutError

from servicekit.errors import Unavailable
from servicekit.kafka import Consumer, Record, consumer, delivery, producer
from tests.servicekit.fake_kafka import (
    FETCH_RECORDS,
    TOPIC,
    TRIP_SECONDS,
    Broker,
    Partitions,
    in_virtual_time,
    now,
)
from tests.servicekit.handlers import in_turn

COLLECT = consumer._COLLECT_SECONDS
COMMIT_PAUSE = consumer._COMMIT_PAUSE_SECONDS
# One who just missed a fetch waits for the next, and that one is held as long.
LONGEST_WAIT = 2 * COLLECT + 4 * TRIP_SECONDS

P0, P1, P2, P3 = (TopicPartition(TOPIC, number) for number in range(4))

Scene = Callable[[Broker], Awaitable[None]]
Play = Callable[[Scene], Broker]
OneHandler = Callable[[Record], Awaitable[Sequence[Record]]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays a scene with a broker of its own; nothing that could lose a record may happen."""

    def play(scene: Scene) -> Broker:
        broker = Broker()
        monkeypatch.setattr(consumer, "AIOKafkaConsumer", broker.consumer)
        monkeypatch.setattr(producer, "AIOKafkaProducer", Partitions().producer)

        async def main() -> None:
            async with asyncio.timeout(3600):
                await scene(broker)

        in_virtual_time(main)
        assert broker.wrong == []
        return broker

    return play


def handling(broker: Broker, seconds: Callable[[], float] = lambda: 0.0) -> OneHandler:
    async def handle(record: Record) -> Sequence[Record]:
        await broker.handle(record, asyncio.sleep(seconds()))
        return ()

    return handle


@contextlib.asynccontextmanager
async def consuming(
    broker: Broker, handler: OneHandler | None = None, idle: float = 0.25
) -> AsyncIterator[None]:
    """A member that has had all partitions, and nothing to do, for `idle` seconds; at the end it
    must stop at once."""
    task = asyncio.create_task(
        Consumer(
            bootstrap="none",
            group="group",
            topic=TOPIC,
            handler=in_turn(handler or handling(broker)),
        ).run()
    )
    await asyncio.sleep(idle)
    yield
    asked = now()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() - asked < 0.001, "it waited for something before it stopped"
    left = [repr(task) for task in asyncio.all_tasks() if "_Member" in repr(task.get_coro())]
    assert left == []


def test_what_comes_together_is_committed_in_one_request(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        async with consuming(broker):
            broker.publish(0, 1, 2, 3)
            await broker.until_all_is_committed()

    assert play(scene).commits == [{P0: 1, P1: 1, P2: 1, P3: 1}]


def test_what_is_dealt_with_while_a_commit_is_under_way_shares_the_next(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        broker.commit_seconds = lambda: 1.0
        async with consuming(broker):
            broker.publish(0)
            await asyncio.sleep(0.1)
            for number in (1, 2, 3):
                broker.publish(number)
                await asyncio.sleep(0.1)
            assert broker.commits == [{P0: 1}]
            await broker.until_all_is_committed()

    assert play(scene).commits == [{P0: 1}, {P1: 1, P2: 1, P3: 1}]


def test_a_commit_covers_nothing_that_is_being_handled(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        async def handle(record: Record) -> Sequence[Record]:
            await broker.handle(record, wait() if record.value == b"0-1" else None)
            return ()

        async with consuming(broker, handle):
            broker.publish(0, 0, 0, 1)
            await asyncio.sleep(1)
            assert broker.commits == []
            # They were tried together for long enough, and do not wait for each other any more.
            await asyncio.sleep(delivery._TOGETHER_SECONDS)
            assert broker.commits == [{P0: 1, P1: 1}]
            release.set()
            await broker.until_all_is_committed()
        assert broker.commits[1:] == [{P0: 3}]

    play(scene)


def test_a_stream_is_fetched_in_few_requests_and_no_record_waits_long(play: Play) -> None:
    dice = random.Random(1)

    async def scene(broker: Broker) -> None:
        async with consuming(broker):
            broker.fetches = 0
            for _ in range(1000):
                broker.publish(dice.randrange(4))
                await asyncio.sleep(dice.expovariate(500))
            seconds = now()
            await broker.until_all_is_committed()
            assert broker.fetches <= seconds / COLLECT + 2
            assert len(broker.commits) <= seconds / COLLECT + 2
        assert max(broker.waits()) <= LONGEST_WAIT

    play(scene)


@pytest.mark.parametrize("gap", [0.001, 0.007, 0.013, 0.021, 0.05, 0.13, 0.3, 0.7])
def test_a_record_waits_for_no_longer_than_the_collecting(play: Play, gap: float) -> None:
    """All of one partition, so that no fetch for another one brings an answer."""

    async def scene(broker: Broker) -> None:
        async with consuming(broker):
            for _ in range(100):
                broker.publish(0)
                await asyncio.sleep(gap)
            await asyncio.sleep(1)
        assert max(broker.waits()) <= LONGEST_WAIT

    play(scene)


def test_a_record_that_comes_alone_is_handled_at_once(play: Play) -> None:
    dice = random.Random(2)

    async def scene(broker: Broker) -> None:
        async with consuming(broker):
            for _ in range(200):
                broker.publish(dice.randrange(4))
                await asyncio.sleep(dice.uniform(0.05, 1.0))
        assert max(broker.waits()) <= 2 * TRIP_SECONDS

    play(scene)


def test_a_record_that_follows_waits_for_the_slow_one_before_it_and_no_more(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        async with consuming(broker, handling(broker, lambda: 0.1)):
            for _ in range(4):
                broker.publish(0)
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
        assert broker.waits() == pytest.approx([0.1, 0.15, 0.2, 0.25], abs=2 * TRIP_SECONDS)

    play(scene)


def test_a_partition_that_cannot_go_on_takes_a_bounded_number_in_hand(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        healed = False

        async def handle(record: Record) -> Sequence[Record]:
            if record.value.startswith(b"0-") and not healed:
                raise Unavailable("The database is unavailable.")
            await broker.handle(record)
            return ()

        async with consuming(broker, handle):
            for _ in range(1000):
                broker.publish(0, 1)
                await asyncio.sleep(0.003)
            await asyncio.sleep(1)
            assert broker.committed[P1] == 1000, "the others go on"
            assert broker.member is not None
            assert broker.member.taken[P0] <= consumer._WAITING_RECORDS + 2 * FETCH_RECORDS
            healed = True
            await broker.until_all_is_committed()

    play(scene)


def test_a_paused_partition_waits_for_a_short_fetch_once_its_worker_is_idle(play: Play) -> None:
    """While nothing comes for the others, which would end the fetch that leaves it out."""

    async def scene(broker: Broker) -> None:
        handler = handling(broker, lambda: 0.002)
        async with consuming(broker, handler):
            broker.publish(*[0] * 2 * consumer._WAITING_RECORDS)
            await broker.until_all_is_committed()
            assert broker.waits()[-1] < 2 * consumer._WAITING_RECORDS * 0.002 + 0.6
            # Afterwards fetches are long.
            await asyncio.sleep(consumer._FETCH_WAIT_MS / 1000)
            broker.fetches = 0
            await asyncio.sleep(60)
            assert 0 < broker.fetches <= 31

    play(scene)


def test_after_a_rebalance_no_partition_counts_as_paused(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        async def handle(record: Record) -> Sequence[Record]:
            await asyncio.sleep(3600)
            return ()

        async with consuming(broker, handle):
            broker.publish(*[0] * 2 * consumer._WAITING_RECORDS)
            await asyncio.sleep(1)
            assert broker.member is not None
            assert broker.member.paused() == {P0}
            await broker.member.rebalance({P1, P2, P3})
            broker.fetches = 0
            await asyncio.sleep(60)
            assert 0 < broker.fetches <= 31

    play(scene)


def test_a_partition_that_comes_back_is_not_committed_where_it_was(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        async with consuming(broker):
            broker.commit_seconds = lambda: 0.1
            broker.publish(0)
            await asyncio.sleep(0.03)
            # One commit is under way; what the other partition has done waits for the next.
            broker.publish(1)
            await asyncio.sleep(0.03)
            assert len(broker.commits) == 1
            assert broker.handled == {P0: 1, P1: 1, P2: 0, P3: 0}
            assert broker.member is not None
            await broker.member.rebalance([P2])
            broker.publish(0, 1)
            broker.handle_elsewhere([P0, P1])
            await broker.member.rebalance([P0, P1, P2])
            broker.publish(2)
            await broker.until_all_is_committed()
        assert broker.commits[1:] == [{P2: 1}]

    play(scene)


def test_a_handler_that_will_not_end_commits_nothing_of_a_partition_that_went(play: Play) -> None:
    async def scene(broker: Broker) -> None:
        ended = asyncio.Event()

        async def stubborn() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(10)
            ended.set()

        async def handle(record: Record) -> Sequence[Record]:
            await broker.handle(record, stubborn() if record.value == b"0-0" else None)
            return ()

        async with consuming(broker, handle):
            # Alone, because an attempt at several would be cancelled again.
            broker.publish(0)
            await asyncio.sleep(0.1)
            broker.publish(0)
            await asyncio.sleep(1)
            assert broker.member is not None
            await broker.member.rebalance([P1, P2])
            # It ends 10 s after its cancellation, during this commit and before the next.
            broker.commit_seconds = lambda: 6.0
            broker.publish(1)
            await asyncio.sleep(5.5)
            assert broker.commits == [{P1: 1}]
            assert ended.is_set()
            broker.publish(2)
            await broker.until_all_is_committed()
        assert broker.commits == [{P1: 1}, {P2: 1}]
        assert broker.repeated == 0, "it went on with what another member has handled"

    play(scene)


def test_a_stop_at_any_moment_is_prompt_and_loses_nothing(play: Play) -> None:
    """Steps of less than a millisecond, over the fetch, the collecting, the handling and the
    commit of each of three bursts."""

    def scene_of(moment: float) -> Scene:
        async def scene(broker: Broker) -> None:
            broker.commit_seconds = lambda: 0.007

            async def burst() -> None:
                await asyncio.sleep(0.005)
                for _ in range(3):
                    broker.publish(0, 1, 2)
                    await asyncio.sleep(0.012)
                    broker.publish(0, 3)

            bursts = asyncio.create_task(burst())
            async with consuming(broker, handling(broker, lambda: 0.003), idle=moment):
                pass
            handled = dict(broker.handled)
            await bursts
            await asyncio.sleep(0.3)
            assert broker.handled == handled, "it went on after its end"
            async with consuming(broker):
                await broker.until_all_is_committed()
            assert len(broker.handled_at) == len(broker.published_at) == 15

        return scene

    for step in range(250):
        play(scene_of(step * 0.0004))


def test_a_stop_in_the_midst_of_a_backlog_repeats_little_of_it(play: Play) -> None:
    def scene_of(moment: float) -> Scene:
        async def scene(broker: Broker) -> None:
            handler = handling(broker, lambda: 0.01)
            broker.publish(*[0] * 8 * FETCH_RECORDS)
            async with consuming(broker, handler, idle=moment):
                pass
            async with consuming(broker, handler):
                await broker.until_all_is_committed()
            # The batch that was cancelled, and those of the time without a commit.
            batches = 1 + (COMMIT_PAUSE + TRIP_SECONDS) / (0.01 * FETCH_RECORDS)
            assert broker.repeated <= batches * consumer._RECORDS_TOGETHER

        return scene

    for step in range(60):
        play(scene_of(step * 0.0693))


def test_whatever_happens_nothing_is_skipped_or_committed_too_early(play: Play) -> None:
    """Slow and failing handlers, slow and failing commits, rebalances and restarts, all at
    random."""

    def scene_of(seed: int) -> Scene:
        dice = random.Random(seed)
        poisoned = {b"%d-%d" % (dice.randrange(4), dice.randrange(30)) for _ in range(3)}

        def fail_sometimes() -> None:
            if dice.random() < 0.02:
                raise RequestTimedOutError

        async def work() -> None:
            await asyncio.sleep(dice.choice([0, 0, 0.001, 0.003, 0.03]))
            if dice.random() < 0.01:
                raise Unavailable("down")

        async def scene(broker: Broker) -> None:
            broker.commit_seconds = lambda: dice.choice([0.001, 0.001, 0.01, 0.05])
            broker.trouble = fail_sometimes

            async def handle(record: Record) -> Sequence[Record]:
                await broker.handle(record, work())
                if record.value in poisoned:  # a dead letter counts as handled
                    raise ValueError
                return ()

            async def publish() -> None:
                for _ in range(60):
                    broker.publish(*(dice.randrange(4) for _ in range(dice.randrange(1, 4))))
                    await asyncio.sleep(dice.choice([0, 0.001, 0.005, 0.025]))

            async def rebalance() -> None:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(dice.uniform(0, 0.15))
                    if broker.member:
                        kept = dice.sample(list(broker.logs), dice.randrange(5))
                        await broker.member.rebalance(kept)

            publishing = asyncio.create_task(publish())
            for _ in range(dice.randrange(3)):
                rebalancing = asyncio.create_task(rebalance())
                async with consuming(broker, handle, idle=dice.uniform(0, 0.4)):
                    pass
                await rebalancing
            async with consuming(broker, handle):
                await rebalance()
                await publishing
                if broker.member:
                    await broker.member.rebalance(broker.logs)
                await broker.until_all_is_committed()

        return scene

    for seed in range(120):
        play(scene_of(seed))
