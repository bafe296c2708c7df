"""Publishing each record by itself: with partitions in memory that are lost, in virtual time."""

from collections.abc import Awaitable, Callable, Sequence

import pytest
from aiokafka.partitioner import DefaultPartitioner

from servicekit.kafka import Producer, Record, hash_of_key, producer
from tests.servicekit import fake_kafka
from tests.servicekit.fake_kafka import PartitionProducer, Partitions, in_virtual_time, now

LOST = 2
PATIENCE = 3.0
SOON = 0.1


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch) -> Partitions:
    partitions = Partitions()
    monkeypatch.setattr(producer, "AIOKafkaProducer", partitions.producer)
    return partitions


def play(scene: Callable[[Producer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Producer("any") as producer:
            await scene(producer)

    in_virtual_time(main)


def records(keys: Sequence[bytes], each: int = 1) -> list[Record]:
    return [Record("topic", key, key + b"-%d" % number) for number in range(each) for key in keys]


def all_keys(partitions: Partitions, count: int) -> list[bytes]:
    """`count` keys of each partition."""
    return [key for number in range(6) for key in partitions.keys(number, count)]


def test_everything_is_acknowledged_in_order(partitions: Partitions) -> None:
    async def scene(producer: Producer) -> None:
        sent = records(all_keys(partitions, 10), each=5)
        assert await producer.publish_each(sent, PATIENCE) == [True] * 300
        assert await producer.publish_each([], PATIENCE) == []
        for key in {record.key for record in sent}:
            of_key = [record.value for record in sent if record.key == key]
            assert [value for _, value in partitions.published if value in of_key] == of_key

    play(scene)
    assert partitions.producers == 1


def test_a_lost_partition_holds_up_no_other(partitions: Partitions) -> None:
    """Also with more records than its batch has room for, which are first in line."""
    partitions.lost = {LOST}
    lost = partitions.keys(LOST, 2 * PartitionProducer.BATCH)
    others = [key for key in all_keys(partitions, 5) if partitions.of(key) != LOST]

    async def scene(producer: Producer) -> None:
        began = now()
        sent = records([*lost, *others])
        acknowledged = await producer.publish_each(sent, PATIENCE)
        assert acknowledged == [False] * len(lost) + [True] * len(others)
        assert now() - began < PATIENCE + SOON
        assert max(partitions.published_at.values()) - began < SOON
        # The rest was dropped: only the caller sends it again.
        partitions.lost = set()
        assert await producer.publish_each(records(lost), PATIENCE) == [True] * len(lost)
        assert sorted(partitions.values(LOST)) == sorted(each.value for each in records(lost))

    play(scene)
    assert partitions.producers == 2


def test_a_record_waits_for_the_one_before_it(partitions: Partitions) -> None:
    """Of the records of a key, none is published before one that is not."""
    partitions.refusing = {LOST}
    [refused] = partitions.keys(LOST, 1)
    [other] = partitions.keys(LOST + 1, 1)

    async def scene(producer: Producer) -> None:
        began = now()
        acknowledged = await producer.publish_each(records([refused, other], each=3), PATIENCE)
        assert acknowledged == [False, True] * 3
        assert now() - began < SOON, "a refusal needs no patience"
        assert partitions.values(LOST) == []

    play(scene)


def test_slow_acknowledgements_of_one_key_are_awaited(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three records of one key take longer than the patience; each acknowledgement renews it."""
    monkeypatch.setattr(fake_kafka, "TRIP_SECONDS", PATIENCE / 2)
    [key] = partitions.keys(LOST, 1)

    async def scene(producer: Producer) -> None:
        assert await producer.publish_each(records([key], each=3), PATIENCE) == [True] * 3

    play(scene)
    assert partitions.producers == 1


def test_without_a_connection_nothing_is_acknowledged(
    partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: PartitionProducer) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(PartitionProducer, "start", refuse)

    async def scene(producer: Producer) -> None:
        assert await producer.publish_each(records([b"1", b"2"]), PATIENCE) == [False, False]

    play(scene)


def test_a_defect_is_raised(partitions: Partitions, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(PartitionProducer, "send", fail)

    async def scene(producer: Producer) -> None:
        with pytest.raises(TypeError):
            await producer.publish_each(records([b"1"]), PATIENCE)

    play(scene)


@pytest.mark.parametrize("count", [1, 3, 6, 12])
def test_the_partition_of_a_key_is_kafkas(count: int) -> None:
    partitions = list(range(count))
    partitioner = DefaultPartitioner()
    for number in range(1000):
        key = b"%d" % number
        assert hash_of_key(key) % count == partitioner(key, partitions, partitions)
