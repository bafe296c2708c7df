"""What each error of Kafka does to publishing and to consuming."""

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import aiokafka.errors
import pytest
from aiokafka.errors import KafkaError
from structlog.testing import CapturingLogger

from servicekit.errors import Unavailable, is_transient
from servicekit.kafka import Consumer, Producer, Record, connections, consumer, producer
from servicekit.kafka.errors import MEANINGS, Treatment

# All that aiokafka has, for what one broker or another may answer.
ERRORS = {
    name: kind
    for name, kind in vars(aiokafka.errors).items()
    if inspect.isclass(kind) and issubclass(kind, KafkaError)
}
each_error = pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)


def refused(kind: type[KafkaError]) -> bool:
    return MEANINGS.get(kind, (Treatment.REFUSED, ""))[0] is Treatment.REFUSED


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    log = CapturingLogger()
    monkeypatch.setattr(connections, "log", log)
    monkeypatch.setattr(connections, "_refusals_logged", {})
    return log


def logged(log: CapturingLogger) -> list[tuple[str, str]]:
    return [(call.args[0], call.kwargs["error"]) for call in log.calls]


def expected(kind: type[KafkaError]) -> list[tuple[str, str]]:
    return [("kafka_refused", kind.__name__)] if refused(kind) else []


class Connection:
    """What an aiokafka client owns and our code closes."""

    async def close(self) -> None:
        pass


class FailingProducer:
    """In place of aiokafka's: the first one refuses what is sent to it."""

    made: ClassVar[list["FailingProducer"]] = []
    error: ClassVar[type[KafkaError]]

    def __init__(self, **_: Any) -> None:
        self.fails = not self.made
        self.made.append(self)
        self._sender = self.client = Connection()
        self._closed = False

    async def start(self) -> None:
        pass

    async def send(self, *_: Any, **__: Any) -> asyncio.Future[None]:
        acknowledgement = asyncio.get_running_loop().create_future()
        if self.fails:
            acknowledgement.set_exception(self.error())
        else:
            acknowledgement.set_result(None)
        return acknowledgement


@each_error
async def test_of_publishing(
    kind: type[KafkaError], log: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "AIOKafkaProducer", FailingProducer)
    monkeypatch.setattr(FailingProducer, "made", [])
    monkeypatch.setattr(FailingProducer, "error", kind, raising=False)
    record = Record("topic", b"k", b"v")
    async with Producer("127.0.0.1:1") as publisher:
        with pytest.raises(Unavailable) as failed:
            await publisher.publish([record], timeout=5)
        assert is_transient(failed.value)
        assert [each._closed for each in FailingProducer.made] == [True]
        await publisher.publish([record], timeout=5)  # on a new connection
    assert len(FailingProducer.made) == 2
    assert logged(log) == expected(kind)


class FailingConsumer:
    """In place of aiokafka's: joins its group, then fails."""

    error: ClassVar[type[KafkaError]]
    joined: ClassVar[asyncio.Queue[None]]
    _fetcher = Connection()
    _client = Connection()

    def __init__(self, **_: Any) -> None:
        self._polls = 0

    def paused(self) -> set[Any]:
        return set()

    def subscribe(self, _: Sequence[str], listener: Any) -> None:
        self._listener = listener

    async def start(self) -> None:
        await self._listener.on_partitions_assigned([])

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        self.joined.put_nowait(None)
        raise self.error

    async def stop(self) -> None:
        pass


@each_error
async def test_of_consuming(
    kind: type[KafkaError], log: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(_: Sequence[Record]) -> Sequence[Record]:
        raise AssertionError("there is nothing to consume")

    monkeypatch.setattr(consumer, "AIOKafkaConsumer", FailingConsumer)
    monkeypatch.setattr(consumer, "_REJOIN_SECONDS", 0)
    monkeypatch.setattr(FailingConsumer, "error", kind, raising=False)
    monkeypatch.setattr(FailingConsumer, "joined", asyncio.Queue(), raising=False)
    running = asyncio.create_task(
        Consumer(bootstrap="127.0.0.1:1", group="g", topic="t", handler=handle).run()
    )
    async with asyncio.timeout(5):
        for _ in range(3):  # it joins again each time
            await FailingConsumer.joined.get()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert logged(log) == expected(kind)  # once a minute


def test_what_aiokafka_calls_retriable_ends_by_itself() -> None:
    assert [
        name for name, kind in ERRORS.items() if getattr(kind, "retriable", False) and refused(kind)
    ] == []
