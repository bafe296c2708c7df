"""Kafka in memory, and a loop on which time passes only when nothing else can happen.

The consumer does what aiokafka does where it matters to collecting and committing: it fetches
ahead, one request at a time, for the partitions that are not paused when the request leaves; a
request comes back with the first records or after `fetch_max_wait_ms`; what was fetched of a
partition that is paused by then is dropped and fetched again; a rebalance revokes everything first.
"""

import asyncio
import contextlib
import itertools
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, MessageSizeTooLargeError

from servicekit.kafka import Record, hash_of_key

T = TypeVar("T")

TOPIC = "topic"
TRIP_SECONDS = 0.001
FETCH_RECORDS = 50


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        assert timeout is not None, "everything waits, and for nothing that can come"
        self.now += timeout
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main`, which waits for nothing outside the process: hours take milliseconds, and the
    same program always takes the same way."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Consumed:
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class _Bell:
    """Wakes all who wait for something to change."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._rung.wait()


class Broker:
    """One topic, one group, and what was done to them. `wrong` lists every step that could
    lose a record, or its order, and of offsets that go back."""

    def __init__(self, partitions: int = 4) -> None:
        self.logs: dict[TopicPartition, list[Consumed]] = {
            TopicPartition(TOPIC, number): [] for number in range(partitions)
        }
        self.published_at: dict[bytes, float] = {}
        self.handled_at: dict[bytes, float] = {}
        # How far a partition has been handled without a gap.
        self.handled = dict.fromkeys(self.logs, 0)
        self.committed = dict.fromkeys(self.logs, 0)
        self.commits: list[dict[TopicPartition, int]] = []
        self.fetches = 0
        # Records that were handled again.
        self.repeated = 0
        self.generation = 0
        self.wrong: list[str] = []
        self.member: Consumer | None = None
        # What a commit takes and whether it fails; called for each, before and after its effect.
        self.commit_seconds: Callable[[], float] = lambda: TRIP_SECONDS
        self.trouble: Callable[[], None] = lambda: None
        self.bell = _Bell()
        self._busy: set[TopicPartition] = set()

    def consumer(self, *, fetch_max_wait_ms: int = 500, **_: object) -> "Consumer":
        """In place of AIOKafkaConsumer."""
        return Consumer(self, fetch_max_wait_ms)

    def publish(self, *partitions: int) -> None:
        """One record for each of these."""
        for number in partitions:
            log = self.logs[TopicPartition(TOPIC, number)]
            value = f"{number}-{len(log)}".encode()
            log.append(Consumed(TOPIC, number, len(log), b"key", value))
            self.published_at[value] = now()
        self.bell.ring()

    def has_more(self, positions: dict[TopicPartition, int]) -> bool:
        """Whether any of these partitions has a record at or after its position."""
        return any(len(self.logs[tp]) > position for tp, position in positions.items())

    async def handle(self, record: Record, work: Coroutine[Any, Any, None] | None = None) -> None:
        """To be called by the handler, with what it does to the record."""
        number, offset = (int(part) for part in record.value.split(b"-"))
        partition = TopicPartition(TOPIC, number)
        if offset > self.handled[partition]:
            self.wrong.append(f"{record.value!r} before the one before it")
        if partition in self._busy:
            self.wrong.append(f"{record.value!r} beside another one of its partition")
        self.repeated += offset < self.handled[partition]
        self._busy.add(partition)
        try:
            if work:
                await work
        finally:
            self._busy.discard(partition)
        self.handled[partition] = max(self.handled[partition], offset + 1)
        self.handled_at.setdefault(record.value, now())

    def handle_elsewhere(self, partitions: Iterable[TopicPartition]) -> None:
        """As another member does, to the end."""
        for partition in partitions:
            self.handled[partition] = self.committed[partition] = len(self.logs[partition])

    def waits(self) -> list[float]:
        """From publishing to handling, in seconds, of every record so far."""
        return [self.handled_at[value] - at for value, at in self.published_at.items()]

    async def until_all_is_committed(self) -> None:
        async with asyncio.timeout(600):
            await self.bell.until(
                lambda: all(self.committed[tp] == len(log) for tp, log in self.logs.items())
            )


class Consumer:
    """The part of AIOKafkaConsumer that `Consumer` uses."""

    def __init__(self, broker: Broker, fetch_max_wait_ms: int) -> None:
        self._broker = broker
        self._fetcher = SimpleNamespace(_fetch_max_wait_ms=fetch_max_wait_ms)
        # How many records of each partition it has given out.
        self.taken: Counter[TopicPartition] = Counter()
        self._listener: ConsumerRebalanceListener | None = None
        self._generation = 0
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._fetched: dict[TopicPartition, list[Consumed]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._reassigning = False

    def subscribe(self, topics: list[str], listener: ConsumerRebalanceListener) -> None:
        assert topics == [TOPIC]
        self._listener = listener

    async def start(self) -> None:
        assert self._listener is not None
        await asyncio.sleep(TRIP_SECONDS)
        self._broker.member = self
        await self._assign(self._broker.logs)
        await self._listener.on_partitions_assigned(self.assignment())

    async def stop(self) -> None:
        self._broker.member = None
        self._broker.generation += 1
        await self._assign(())

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def pause(self, *partitions: TopicPartition) -> None:
        self._check(*partitions)
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._check(*partitions)
        self._paused.difference_update(partitions)
        self._broker.bell.ring()

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Consumed]]:
        taken: dict[TopicPartition, list[Consumed]] = {}

        def take() -> bool:
            if self._fetched and not self._reassigning:
                for partition, records in self._fetched.items():
                    if partition not in self._paused:
                        taken[partition] = records
                        self.taken[partition] += len(records)
                        self._positions[partition] += len(records)
                self._fetched = {}
                self._broker.bell.ring()
            return bool(taken)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._broker.bell.until(take)
        return taken

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if not offsets:
            raise ValueError("nothing to commit")
        self._check(*offsets)
        for partition, offset in offsets.items():
            if offset > self._broker.handled[partition]:
                self._broker.wrong.append(f"commit of {partition} before it was handled")
        self._broker.commits.append(dict(offsets))
        self._broker.trouble()
        # A commit that was sent takes place, even if nobody waits for it any more.
        if not await asyncio.shield(self._take_place(self._generation, dict(offsets))):
            raise CommitFailedError
        self._broker.trouble()

    async def rebalance(self, assigned: Iterable[TopicPartition]) -> None:
        """All is revoked, as aiokafka does, then `assigned` is given. The others are handled
        elsewhere meanwhile."""
        assert self._listener is not None
        self._reassigning = True
        await self._listener.on_partitions_revoked(self.assignment())
        if self._broker.member is not self:
            return
        self._broker.generation += 1
        self._broker.handle_elsewhere(set(self._broker.logs) - set(assigned))
        await self._assign(assigned)
        await self._listener.on_partitions_assigned(assigned)

    async def _assign(self, partitions: Iterable[TopicPartition]) -> None:
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        self._fetched = {}
        self._paused = set()
        self._positions = {tp: self._broker.committed[tp] for tp in partitions}
        self._generation = self._broker.generation
        self._reassigning = False
        if self._positions:
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        broker = self._broker
        while True:
            await broker.bell.until(
                lambda: not self._fetched and self._positions.keys() - self._paused
            )
            asked = {tp: at for tp, at in self._positions.items() if tp not in self._paused}
            broker.fetches += 1
            await asyncio.sleep(TRIP_SECONDS / 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._fetcher._fetch_max_wait_ms / 1000):
                    await broker.bell.until(partial(broker.has_more, asked))
            answer = {tp: broker.logs[tp][at : at + FETCH_RECORDS] for tp, at in asked.items()}
            await asyncio.sleep(TRIP_SECONDS / 2)
            self._fetched = {tp: records for tp, records in answer.items() if records}
            broker.bell.ring()

    async def _take_place(self, generation: int, offsets: dict[TopicPartition, int]) -> bool:
        await asyncio.sleep(self._broker.commit_seconds())
        if generation != self._broker.generation:
            return False
        for partition, offset in offsets.items():
            if offset < self._broker.committed[partition]:
                self._broker.wrong.append(f"commit of {partition} went back")
            self._broker.committed[partition] = offset
        self._broker.bell.ring()
        return True

    def _check(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            if partition not in self._positions:
                raise IllegalStateError(f"{partition} is not assigned")


class Partitions:
    """The partitions of every topic, and what was published to each, in order. Nothing is
    acknowledged by those in `lost`; those in `refusing` refuse every record."""

    def __init__(self, count: int = 6) -> None:
        self.count = count
        self.lost: set[int] = set()
        self.refusing: set[int] = set()
        self.published: list[tuple[int, bytes]] = []
        self.published_at: dict[bytes, float] = {}
        self.producers = 0

    def of(self, key: bytes) -> int:
        return hash_of_key(key) % self.count

    def keys(self, partition: int, count: int) -> list[bytes]:
        """Returns keys of one partition: decimal numbers from 1."""
        numbers = (b"%d" % number for number in itertools.count(1))
        return list(itertools.islice((key for key in numbers if self.of(key) == partition), count))

    def values(self, *partitions: int) -> list[bytes]:
        """Returns what was published to these partitions."""
        return [value for number, value in self.published if number in partitions]

    def producer(self, **_: object) -> "PartitionProducer":
        """In place of AIOKafkaProducer."""
        self.producers += 1
        return PartitionProducer(self)


class PartitionProducer:
    """The part of AIOKafkaProducer that `Producer` uses. As with aiokafka's idempotent producer, a
    record for a lost partition is retried for ever, and `send` waits while the batch of the
    partition is full."""

    BATCH = 100

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._unsent: Counter[int] = Counter()
        self._delivering: set[asyncio.Task[None]] = set()
        self._sender = self.client = self

    async def start(self) -> None:
        await asyncio.sleep(TRIP_SECONDS)

    async def close(self) -> None:
        """Closes the sender, and the client; drops what is not delivered."""
        for task in self._delivering:
            task.cancel()
        await asyncio.gather(*self._delivering, return_exceptions=True)

    async def send(
        self, topic: str, *, key: bytes, value: bytes, headers: object
    ) -> asyncio.Future[None]:
        partition = self._partitions.of(key)
        while self._unsent[partition] >= self.BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._unsent[partition] += 1
        acknowledgement: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._deliver(partition, value, acknowledgement))
        self._delivering.add(task)
        task.add_done_callback(self._delivering.discard)
        return acknowledgement

    async def _deliver(
        self, partition: int, value: bytes, acknowledgement: asyncio.Future[None]
    ) -> None:
        await asyncio.sleep(TRIP_SECONDS)
        while partition in self._partitions.lost:  # noqa: ASYNC110
            await asyncio.sleep(1)
        self._unsent[partition] -= 1
        if acknowledgement.cancelled():
            return
        if partition in self._partitions.refusing:
            acknowledgement.set_exception(MessageSizeTooLargeError())
            return
        self._partitions.published.append((partition, value))
        self._partitions.published_at.setdefault(value, now())
        acknowledgement.set_result(None)
