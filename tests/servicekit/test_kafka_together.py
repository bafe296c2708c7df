"""What a handler gets in one call, and what happens to the others when one record fails: on a Kafka
in memory and in virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from servicekit.errors import Unavailable, is_transient
from servicekit.kafka import Consumer, Handler, PoisonRecord, Record, consumer, delivery, producer
from servicekit.kafka.delivery import RETRIES
from tests.servicekit.fake_kafka import TOPIC, Broker, Partitions, in_virtual_time

TOGETHER = consumer._RECORDS_TOGETHER


class Handling:
    """A handler that notes its calls. Fails at the records of `failing`, after their effect if the
    error is not transient, so that a dead letter counts as handled. Hangs at those of `hanging`."""

    def __init__(self, broker: Broker) -> None:
        self.calls: list[list[bytes]] = []
        self.failing: dict[bytes, Exception] = {}
        self.hanging: set[bytes] = set()
        self.seconds = 0.0
        self._broker = broker

    async def handle(self, records: Sequence[Record]) -> Sequence[Record]:
        values = [record.value for record in records]
        self.calls.append(values)
        if self.hanging.intersection(values):
            await asyncio.sleep(3600)
        await asyncio.sleep(self.seconds)
        for record in records:
            error = self.failing.get(record.value)
            if error is not None and is_transient(error):
                raise error
            await self._broker.handle(record)
            if error is not None:
                raise error
        return ()

    def calls_with(self, value: bytes) -> list[int]:
        """The number of records in each call that had this one."""
        return [len(call) for call in self.calls if value in call]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(consumer, "AIOKafkaConsumer", broker.consumer)
    return broker


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Partitions:
    letters = Partitions()
    monkeypatch.setattr(producer, "AIOKafkaProducer", letters.producer)
    return letters


@contextlib.asynccontextmanager
async def consuming(handler: Handler) -> AsyncIterator[None]:
    task = asyncio.create_task(
        Consumer(bootstrap="none", group="group", topic=TOPIC, handler=handler).run()
    )
    await asyncio.sleep(0.25)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_comes_together_is_one_call(broker: Broker) -> None:
    async def scene() -> None:
        handling = Handling(broker)
        async with consuming(handling.handle):
            broker.publish(0, 1, 1, 3)
            await broker.until_all_is_committed()
        assert handling.calls == [[b"0-0", b"1-0", b"1-1", b"3-0"]]

    in_virtual_time(scene)
    assert broker.wrong == []


def test_what_comes_during_a_call_is_the_next_one_for_its_partitions(broker: Broker) -> None:
    async def scene() -> None:
        handling = Handling(broker)
        handling.seconds = 1.0
        async with consuming(handling.handle):
            broker.publish(0, 1)
            await asyncio.sleep(0.2)
            for _ in range(3):
                broker.publish(0, 1, 2)
                await asyncio.sleep(0.1)
            await broker.until_all_is_committed()
        assert handling.calls == [
            [b"0-0", b"1-0"],
            [b"2-0"],  # at once, because nothing of its partition was being handled
            [b"0-1", b"0-2", b"0-3", b"1-1", b"1-2", b"1-3"],
            [b"2-1", b"2-2"],
        ]

    in_virtual_time(scene)
    assert broker.wrong == []


def test_a_backlog_is_handled_in_bounded_calls_and_every_partition_gets_on(broker: Broker) -> None:
    async def scene() -> None:
        handling = Handling(broker)
        handling.seconds = 0.01
        broker.publish(*[0] * 1000, *[1, 2] * 100)
        async with consuming(handling.handle):
            await broker.until_all_is_committed()
        assert max(len(call) for call in handling.calls) <= TOGETHER
        assert len(handling.calls) <= 40
        assert (
            max(broker.handled_at[b"1-99"], broker.handled_at[b"2-99"])
            < (broker.handled_at[b"0-499"])
        )

    in_virtual_time(scene)
    assert broker.wrong == []


def test_only_the_poisoned_record_of_a_batch_is_a_dead_letter(
    broker: Broker, letters: Partitions
) -> None:
    before = RETRIES.labels(TOPIC, "group")._value.get()

    async def scene() -> None:
        handling = Handling(broker)
        handling.failing = {b"0-1": ValueError(), b"2-0": PoisonRecord()}
        async with consuming(handling.handle):
            broker.publish(0, 0, 0, 1, 2, 2)
            await broker.until_all_is_committed()
        assert sorted(value for _, value in letters.published) == [b"0-1", b"2-0"]
        # Together with the others, then by itself: a PoisonRecord once, another error three times.
        assert handling.calls_with(b"0-1") == [6, 1, 1, 1]
        assert handling.calls_with(b"2-0") == [6, 1]
        for value in (b"0-0", b"0-2", b"1-0", b"2-1"):
            assert handling.calls_with(value) == [6, 1]

    in_virtual_time(scene)
    assert broker.wrong == []
    assert RETRIES.labels(TOPIC, "group")._value.get() - before == 4


def test_a_transient_error_holds_its_partition_only_and_the_others_stay_together(
    broker: Broker,
) -> None:
    async def scene() -> None:
        handling = Handling(broker)
        handling.failing = {b"0-1": Unavailable("down")}
        async with consuming(handling.handle):
            broker.publish(0, 0, 0, 1, 2)
            await asyncio.sleep(1)
            broker.publish(1, 2)
            await asyncio.sleep(60)
            assert handling.calls_with(b"1-1") == [2]
            assert broker.handled_at.keys() == {b"0-0", b"1-0", b"1-1", b"2-0", b"2-1"}
            handling.failing.clear()
            broker.publish(0, 0)
            await broker.until_all_is_committed()
        assert handling.calls_with(b"0-2") == [5, 1]
        assert handling.calls_with(b"0-3") == [2], "the partition is back to batches"

    in_virtual_time(scene)
    assert broker.wrong == []


def test_a_record_that_hangs_holds_up_the_others_of_its_batch_for_seconds(broker: Broker) -> None:
    async def scene() -> None:
        handling = Handling(broker)
        handling.hanging = {b"0-0"}
        async with consuming(handling.handle):
            broker.publish(0, 1, 2)
            await asyncio.sleep(60)
            for value in (b"1-0", b"2-0"):
                wait = broker.handled_at[value] - broker.published_at[value]
                assert wait == pytest.approx(delivery._TOGETHER_SECONDS, abs=0.1)
            broker.publish(1)
            await asyncio.sleep(1)
            assert b"1-1" in broker.handled_at
            handling.hanging = set()
            await broker.until_all_is_committed()

    in_virtual_time(scene)
    assert broker.wrong == []
