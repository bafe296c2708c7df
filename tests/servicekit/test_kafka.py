"""Publishing and consuming, on a real Kafka."""

import asyncio
import contextlib
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import CapturingLogger

from harness.local.stack import Stack
from servicekit import dead_letters
from servicekit.errors import Unavailable
from servicekit.kafka import Consumer, Producer, Record, consumer
from tests.servicekit.handlers import in_turn


async def test_publishing_with_kafka_away_fails_in_time() -> None:
    async with Producer("127.0.0.1:1") as producer:
        for _ in range(3):
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable):
                    await producer.publish([Record("any", b"k", b"v")], timeout=0.3)


async def test_a_consumer_waits_for_kafka_and_stops_at_once() -> None:
    async def handle(records: Sequence[Record]) -> Sequence[Record]:
        raise AssertionError("there is nothing to consume")

    consumer = asyncio.create_task(
        Consumer(bootstrap="127.0.0.1:1", group="g", topic="t", handler=handle).run()
    )
    await asyncio.sleep(0.5)
    assert not consumer.done()
    consumer.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await consumer


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    """A topic of 4 partitions, with dead letters, for one test."""
    name = f"test.{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics(
        [
            NewTopic(name=name, num_partitions=4, replication_factor=1),
            NewTopic(name=name + ".dlq", num_partitions=1, replication_factor=1),
        ]
    )
    await admin.close()
    return name


@pytest.fixture
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    async with Producer(kafka_bootstrap) as producer:
        yield producer


async def test_a_member_that_kafka_refuses_is_logged_once(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can connect: the refusal comes when it joins the group."""
    log = CapturingLogger()
    monkeypatch.setattr(consumer, "log", log)
    async with consuming(kafka_bootstrap, topic, nothing, session_timeout=0.1):
        await asyncio.sleep(1.5)
    assert [call.args for call in log.calls] == [("kafka_unavailable",)]


async def nothing(record: Record) -> Sequence[Record]:
    return ()


@contextlib.asynccontextmanager
async def consuming(
    bootstrap: str,
    topic: str,
    handle: Callable[[Record], Awaitable[Sequence[Record]]],
    group: str = "group",
    **options: Any,
) -> AsyncIterator[None]:
    handler = in_turn(handle)
    consumer = asyncio.create_task(
        Consumer(bootstrap=bootstrap, group=group, topic=topic, handler=handler, **options).run()
    )
    try:
        yield
    finally:
        consumer.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await consumer


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # any condition, not an event
            await asyncio.sleep(0.02)


def records(topic: str, keys: int, each: int) -> list[Record]:
    return [
        Record(topic, str(key).encode(), f"{key}-{number}".encode(), {"event-id": b"x"})
        for number in range(each)
        for key in range(keys)
    ]


async def test_records_arrive_once_in_order_per_key_and_are_not_handled_again(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    seen: list[Record] = []

    async def handle(record: Record) -> Sequence[Record]:
        seen.append(record)
        return ()

    sent = records(topic, keys=20, each=10)
    await producer.publish(sent, timeout=10)
    async with consuming(kafka_bootstrap, topic, handle):
        await until(lambda: len(seen) == 200)
        for key in {record.key for record in sent}:
            assert [r for r in seen if r.key == key] == [r for r in sent if r.key == key]
        await asyncio.sleep(0.3)  # for the commit, so that the next member begins after it
    async with consuming(kafka_bootstrap, topic, handle):
        await producer.publish([Record(topic, b"last", b"last")], timeout=10)
        await until(lambda: seen[-1].value == b"last")
    assert len(seen) == 201


async def test_a_partition_that_is_lost_holds_up_no_other(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    """With one broker the only way to lose a partition alone is to delete its topic."""
    lost = f"{topic}.lost"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(lost, 1, 1)])
        sent = [*records(lost, keys=5, each=2), *records(topic, keys=5, each=2)]
        assert all(await producer.publish_each(sent, patience=10))
        await admin.delete_topics([lost])
        began = time.monotonic()
        assert await producer.publish_each(sent, patience=1) == [False] * 10 + [True] * 10
        assert time.monotonic() - began < 6
        await admin.create_topics([NewTopic(lost, 1, 1)])
        async with asyncio.timeout(20):
            while not all(await producer.publish_each(sent[:10], patience=1)):
                pass
    finally:
        await admin.close()


async def test_a_record_does_not_wait_for_records_of_other_partitions(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    waits: list[float] = []

    async def handle(record: Record) -> Sequence[Record]:
        waits.append(time.monotonic() - float(record.value))
        return ()

    async with consuming(kafka_bootstrap, topic, handle):
        await producer.publish([Record(topic, b"k", b"0")], timeout=10)
        await until(lambda: len(waits) == 1)
        for _ in range(20):
            now = str(time.monotonic()).encode()
            await producer.publish([Record(topic, b"k", now)], timeout=10)
            await asyncio.sleep(0.07)
        await until(lambda: len(waits) == 21)
    # Few milliseconds on a machine at rest; 250 if each waits for the end of a fetch.
    assert statistics.median(waits[1:]) < 0.1


async def test_a_passing_trouble_holds_its_partition_only(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    healed = asyncio.Event()
    seen: list[bytes] = []

    async def handle(record: Record) -> Sequence[Record]:
        if record.value == b"0-0" and not healed.is_set():
            raise Unavailable("The database is unavailable.")
        if record.value not in seen:  # again, by itself
            seen.append(record.value)
        return ()

    await producer.publish(records(topic, keys=20, each=2), timeout=10)
    async with consuming(kafka_bootstrap, topic, handle):
        await until(lambda: len(seen) >= 20)
        assert b"0-0" not in seen
        assert b"0-1" not in seen, "it overtook the one before it"
        healed.set()
        await until(lambda: len(seen) == 40)
        assert seen.index(b"0-0") < seen.index(b"0-1")


async def test_a_handler_that_hangs_is_called_again(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    calls: list[bytes] = []

    async def handle(record: Record) -> Sequence[Record]:
        calls.append(record.value)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return ()

    await producer.publish([Record(topic, b"k", b"v")], timeout=10)
    async with consuming(kafka_bootstrap, topic, handle, handler_timeout=0.3):
        await until(lambda: calls == [b"v", b"v"])


async def test_what_a_handler_returns_is_published(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    answers: list[Record] = []

    async def ask(record: Record) -> Sequence[Record]:
        return (
            [Record(topic, record.key, b"answer", {"event-id": b"1"})]
            if record.value == b"question"
            else ()
        )

    async def listen(record: Record) -> Sequence[Record]:
        if record.value == b"answer":
            answers.append(record)
        return ()

    async with (
        consuming(kafka_bootstrap, topic, ask, "ask"),
        consuming(kafka_bootstrap, topic, listen, "listen"),
    ):
        await producer.publish([Record(topic, b"k", b"question")], timeout=10)
        await until(lambda: len(answers) == 1)
    assert answers[0].headers == {"event-id": b"1"}


async def test_a_poison_record_goes_to_the_dead_letters_and_replays(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    seen: list[Record] = []
    tries: list[bytes] = []
    mended = False

    async def handle(record: Record) -> Sequence[Record]:
        tries.append(record.value)
        if record.value == b"0-0" and not mended:
            raise ValueError("private words")
        if record not in seen:  # again, by itself
            seen.append(record)
        return ()

    sent = records(topic, keys=3, each=2)
    await producer.publish(sent, timeout=10)
    async with consuming(kafka_bootstrap, topic, handle):
        await until(lambda: len(seen) == 5)

        lines: list[str] = []
        async with asyncio.timeout(20):
            while not lines:
                lines = await dead_letters.describe(topic + ".dlq", kafka_bootstrap)
        # Three by itself, perhaps after one together with others.
        assert tries.count(b"0-0") in (3, 4)
        [line] = lines
        assert line.startswith("0/0 waiting key=0 ")
        assert f"topic={topic}" in line
        assert "group=group" in line
        assert "error=ValueError" in line
        assert "private" not in line

        mended = True
        assert await dead_letters.replay(topic + ".dlq", kafka_bootstrap) == 1
        await until(lambda: len(seen) == 6)
        assert seen[-1] == sent[0]
        assert await dead_letters.replay(topic + ".dlq", kafka_bootstrap) == 0
        [line] = await dead_letters.describe(topic + ".dlq", kafka_bootstrap)
        assert line.startswith("0/0 replayed ")


async def test_a_stray_cancellation_does_not_end_the_consumer(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    """As aiokafka's own futures end when it loses its broker."""
    tries: list[bytes] = []

    async def handle(record: Record) -> Sequence[Record]:
        tries.append(record.value)
        if len(tries) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return ()

    await producer.publish([Record(topic, b"k", b"once")], timeout=10)
    async with consuming(kafka_bootstrap, topic, handle):
        await until(lambda: len(tries) == 2)


async def test_a_replay_is_for_the_group_that_failed_alone(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    handled: list[str] = []

    async def fail(record: Record) -> Sequence[Record]:
        handled.append("fail")
        raise ValueError

    async def succeed(record: Record) -> Sequence[Record]:
        handled.append("succeed")
        return ()

    async def letters(count: int) -> None:
        for _ in range(200):
            if len(await dead_letters.describe(topic + ".dlq", kafka_bootstrap)) >= count:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"fewer than {count} letters")

    async with (
        consuming(kafka_bootstrap, topic, fail, "one"),
        consuming(kafka_bootstrap, topic, fail, "two"),
        consuming(kafka_bootstrap, topic, succeed, "three"),
    ):
        await producer.publish([Record(topic, b"k", b"bad")], timeout=10)
        await letters(2)
        assert await dead_letters.replay(topic + ".dlq", kafka_bootstrap) == 2
        # Two again, and not four.
        await letters(4)
        await producer.publish([Record(topic, b"k", b"last")], timeout=10)
        await letters(6)
        assert len(await dead_letters.describe(topic + ".dlq", kafka_bootstrap)) == 6
    assert handled.count("succeed") == 2


async def test_members_come_and_go_and_nothing_is_lost(
    kafka_bootstrap: str, topic: str, producer: Producer
) -> None:
    seen: list[bytes] = []

    async def handle(record: Record) -> Sequence[Record]:
        await asyncio.sleep(0.002)
        seen.append(record.value)
        return ()

    sent = records(topic, keys=40, each=10)
    async with consuming(kafka_bootstrap, topic, handle):
        await producer.publish(sent[:200], timeout=10)
        async with consuming(kafka_bootstrap, topic, handle):
            await producer.publish(sent[200:], timeout=10)
            await until(lambda: len(set(seen)) > 250)
        await until(lambda: len(set(seen)) == 400)
    for key in range(40):
        firsts = list(dict.fromkeys(value for value in seen if value.startswith(b"%d-" % key)))
        assert firsts == [b"%d-%d" % (key, number) for number in range(10)]


async def test_a_restart_of_kafka_loses_nothing(
    kafka_bootstrap: str, topic: str, producer: Producer, servers: Stack
) -> None:
    seen: list[bytes] = []

    async def handle(record: Record) -> Sequence[Record]:
        seen.append(record.value)
        return ()

    async def publish(record: Record) -> None:
        while True:
            try:
                return await producer.publish([record], timeout=1)
            except Unavailable:
                await asyncio.sleep(0.1)

    before, after = Record(topic, b"k", b"before"), Record(topic, b"k", b"after")
    async with consuming(kafka_bootstrap, topic, handle):
        await producer.publish([before], timeout=10)
        await until(lambda: seen == [b"before"])
        await asyncio.to_thread(servers.kafka.stop)
        with pytest.raises(Unavailable):
            await producer.publish([after], timeout=1)
        await asyncio.to_thread(servers.kafka.start)
        async with asyncio.timeout(30):
            await publish(after)
        await until(lambda: b"after" in seen, seconds=30)
    assert seen[0] == b"before"


def test_the_command_says_so_when_kafka_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dead_letters.app(["list", "any.dlq", "--bootstrap", "127.0.0.1:1"])
    assert ended.value.code == 2
    assert "Kafka at 127.0.0.1:1 failed" in capsys.readouterr().err
