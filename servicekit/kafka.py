"""Kafka: publishing with acknowledgement, and consuming until told to stop.

Delivery is at least once, in order per key, in both directions: whatever is in doubt is sent or
handled again, so handlers must be idempotent. A service starts and serves while Kafka is away.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pymysql
import redis.exceptions
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    TopicPartition,
)
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from prometheus_client import Counter

from servicekit import call_context, cancellation, logs
from servicekit.errors import ServiceError, TimedOut, Unavailable
from servicekit.rpc_errors import RemoteError

log = logs.get(__name__)

CONSUMED = Counter("kafka_consumed", "Records dealt with.", ["topic", "group", "outcome"])
RETRIES = Counter("kafka_retries", "Records that had to be handled again.", ["topic", "group"])

DEAD_LETTER_SUFFIX = ".dlq"
# Where a dead letter came from and why; the record's own headers stay beside these.
DEAD_LETTER_HEADER = "dlq-"
# A replayed record is for the group that failed at it. Were it for all, each replay would double
# what two groups cannot handle.
REPLAY_HEADER = "replay-group"

_START_SECONDS = 30.0
_CLOSE_SECONDS = 2.0
_COMMIT_SECONDS = 10.0
_POLL_MS = 100
# Records that come within so short a time are fetched together, and those that are dealt with
# within it are committed together: at a hundred records a second Kafka otherwise spends more on
# being asked than on the records.
_COLLECT_SECONDS = 0.02
_REVOKE_SECONDS = 5.0
_LINGER_MS = 5
_REQUEST_TIMEOUT_MS = 10_000
_RECONNECT_PAUSE_MS = 250
# What a partition brings at once; small, because a restart handles it again.
_BATCH_BYTES = 64 * 1024
# A partition is paused once more records than these wait for its worker. Not sooner: the next
# fetch leaves out what is paused, and Kafka may hold that fetch for half a second, through which
# nothing of the partition comes, even if its worker was done at once.
_WAITING_RECORDS = 100
_POISON_TRIES = 3
_LONGEST_PAUSE = 5.0
_DEAD_LETTER_TIMEOUT = 10.0
_SAME_LINE_SECONDS = 60.0


@dataclass(frozen=True)
class Record:
    """One record, to be published or as consumed. The key decides the partition, and the order
    within it."""

    topic: str
    key: bytes
    value: bytes
    headers: dict[str, bytes] = field(default_factory=dict)


# Deals with one record; returns what is to be published before its offset is committed.
Handler = Callable[[Record], Awaitable[Sequence[Record]]]


def back_off(failures: int, longest: float = _LONGEST_PAUSE) -> float:
    """Seconds to pause after so many failures in a row: jittered, doubling from 0.1 s up to
    `longest`."""
    ceiling = min(longest, 0.1 * 2.0 ** min(failures, 16))
    return ceiling * random.uniform(0.5, 1.0)


class Producer:
    """Publishes in batches and knows what was acknowledged.

    Connects at the first `publish`, so that a service starts with Kafka away, and afresh after
    any failure: a producer of aiokafka may hang, or stay out of sequence, for ever after one.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._inner: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def publish(self, records: Sequence[Record], timeout: float) -> None:
        """Sends all `records` and returns once every replica in sync has them.

        Raises Unavailable if that did not happen within `timeout` seconds (clearing up may take
        a few more): some of them may be published all the same, in their order.
        """
        if not records:
            return
        inner = None
        try:
            async with asyncio.timeout(timeout):
                inner = await self._connected()
                acknowledgements = [
                    await inner.send(
                        record.topic,
                        key=record.key or None,
                        value=record.value,
                        headers=list(record.headers.items()),
                    )
                    for record in records
                ]
                await asyncio.gather(*acknowledgements)
        except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
            if cancellation.is_ours(error):
                raise
            if inner is not None:
                await self._discard(inner)
            raise Unavailable("The event log did not take the records.") from error

    async def close(self) -> None:
        """Lets go of the connections; records without acknowledgement are given up."""
        if self._inner is not None:
            await self._discard(self._inner)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._inner is None:
                inner = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=_LINGER_MS,
                    request_timeout_ms=_REQUEST_TIMEOUT_MS,
                    retry_backoff_ms=_RECONNECT_PAUSE_MS,
                )
                try:
                    await inner.start()
                except BaseException:
                    await _close_producer(inner)
                    raise
                self._inner = inner
            return self._inner

    async def _discard(self, inner: AIOKafkaProducer) -> None:
        if self._inner is inner:
            self._inner = None
        # Dead before the next one publishes, so that nothing late can overtake.
        await _close_producer(inner)


async def run_consumer(
    *,
    bootstrap: str,
    group: str,
    topic: str,
    handler: Handler,
    handler_timeout: float = 30.0,
) -> None:
    """Hands every record of `topic` to `handler`, as a member of `group`, until cancelled.

    Partitions are handled side by side, the records of a partition in order. A record is handled
    at once, or within 40 ms if others came just before, so that those that follow are fetched with
    it. What the handler returns is published, then the offset is committed, 20 ms after the commit
    before it at the earliest. A handler that finds something away (Unavailable, TimedOut,
    TimeoutError, OSError, a lost database or Redis) or takes longer than `handler_timeout` seconds
    is called again, with pauses of up to 5 s, for as long as it takes; its partition waits
    meanwhile. Any other exception is taken for the record's fault: after 3 tries the record goes
    to `<topic>.dlq` and the partition goes on, so that the order of that one key is broken. Kafka
    itself may be away for as long as it likes.
    """
    failures = 0
    async with Producer(bootstrap) as producer:
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=bootstrap,
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=_BATCH_BYTES,
                rebalance_timeout_ms=30_000,
                request_timeout_ms=_REQUEST_TIMEOUT_MS,
                retry_backoff_ms=_RECONNECT_PAUSE_MS,
            )
            member = _Member(consumer, producer, group, handler, handler_timeout)
            try:
                consumer.subscribe([topic], listener=member)
                async with asyncio.timeout(_START_SECONDS):
                    await consumer.start()
                log.info("consuming", topic=topic, group=group)
                failures = 0
                await member.run()
            except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
                if cancellation.is_ours(error):
                    raise
                failures += 1
                if failures == 1:
                    log.warning(
                        "cannot consume; trying on",
                        topic=topic,
                        group=group,
                        error=type(error).__name__,
                    )
            finally:
                await member.stop()
                await _close_consumer(consumer)
            await asyncio.sleep(back_off(failures))


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One membership of a group: a worker for each partition that has records in hand.

    Polling goes on while workers are busy, so that the group does not take a slow member for a
    dead one; what comes meanwhile waits for its worker. Nobody waits for a commit.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        producer: Producer,
        group: str,
        handler: Handler,
        handler_timeout: float,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._group = group
        self._handler = handler
        self._handler_timeout = handler_timeout
        self._workers: dict[TopicPartition, asyncio.Task[None]] = {}
        self._waiting: dict[TopicPartition, deque[Any]] = {}
        # Where each partition goes on; what is to be committed.
        self._dealt_with: dict[TopicPartition, int] = {}
        self._progress = asyncio.Event()

    async def run(self) -> None:
        committer = asyncio.create_task(self._keep_committing())
        try:
            while True:
                batches = await self._consumer.getmany(timeout_ms=_POLL_MS)
                if committer.done():
                    committer.result()
                for partition, worker in list(self._workers.items()):
                    if worker.done():
                        del self._workers[partition]
                        worker.result()
                for partition, batch in batches.items():
                    self._take(partition, batch)
                if batches:
                    await asyncio.sleep(_COLLECT_SECONDS)
        finally:
            committer.cancel()
            await asyncio.gather(committer, return_exceptions=True)

    async def stop(self) -> None:
        await self._cancel(list(self._workers))

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        # Whoever has them next begins at the last committed record.
        await self._cancel(revoked)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Nothing to prepare; the interface asks for it."""

    async def _cancel(self, partitions: Sequence[TopicPartition]) -> None:
        workers = [self._workers.pop(tp) for tp in partitions if tp in self._workers]
        for partition in partitions:
            if partition in self._waiting:
                # A handler that ends in its own way, and not by the cancellation, is the last one.
                self._waiting.pop(partition).clear()
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_REVOKE_SECONDS)
        for partition in partitions:
            # It may come back after others have committed more than this.
            self._dealt_with.pop(partition, None)
        for worker in workers:
            if worker.done() and not worker.cancelled() and (error := worker.exception()):
                log.warning("a batch was given up", error=type(error).__name__)

    def _take(self, partition: TopicPartition, batch: Sequence[Any]) -> None:
        waiting = self._waiting.setdefault(partition, deque())
        waiting.extend(batch)
        if partition not in self._workers:
            self._workers[partition] = asyncio.create_task(self._work(partition, waiting))
        elif len(waiting) > _WAITING_RECORDS:
            self._consumer.pause(partition)

    async def _work(self, partition: TopicPartition, waiting: deque[Any]) -> None:
        """Deals with all that waits for this partition, and ends when nothing does."""
        while waiting:
            consumed = waiting.popleft()
            if len(waiting) == _WAITING_RECORDS:
                self._consumer.resume(partition)
            await self._deliver(consumed)
            self._dealt_with[partition] = consumed.offset + 1
            self._progress.set()

    async def _keep_committing(self) -> None:
        """Commits what all workers have dealt with, in one request; what is dealt with while it
        is under way, or soon after, shares the next one."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            ours = self._consumer.assignment()
            offsets = {tp: offset for tp, offset in self._dealt_with.items() if tp in ours}
            self._dealt_with.clear()
            if not offsets:
                continue
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await self._consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                # The partitions have moved on to other members, which handle these again.
                log.info("partitions lost before their commit", group=self._group)
            await asyncio.sleep(_COLLECT_SECONDS)

    async def _deliver(self, consumed: Any) -> None:
        headers = dict(consumed.headers)
        if headers.pop(REPLAY_HEADER, self._group.encode()) != self._group.encode():
            CONSUMED.labels(consumed.topic, self._group, "skipped").inc()
            return
        record = Record(
            topic=consumed.topic,
            key=consumed.key or b"",
            value=consumed.value or b"",
            headers=headers,
        )
        where = {
            "topic": consumed.topic,
            "group": self._group,
            "partition": consumed.partition,
            "offset": consumed.offset,
        }
        call_context.request_id.set(f"{consumed.topic}-{consumed.partition}-{consumed.offset}")
        failures = poisoned = 0
        dead = False
        while True:
            try:
                if dead:
                    await self._producer.publish([record], _DEAD_LETTER_TIMEOUT)
                else:
                    await self._handle(record)
            except Exception as error:
                failures += 1
                RETRIES.labels(consumed.topic, self._group).inc()
                if is_transient(error):
                    if failures == 1:
                        log.warning(
                            "cannot handle a record yet", error=type(error).__name__, **where
                        )
                else:
                    poisoned += 1
                    if poisoned == _POISON_TRIES:
                        log.exception("record goes to the dead letters", **where)
                        record, dead = self._dead_letter(record, consumed, error), True
                        continue
                await asyncio.sleep(back_off(failures))
            else:
                break
        if failures and not dead:
            log.info("handled a record at last", tries=failures + 1, **where)
        CONSUMED.labels(consumed.topic, self._group, "dead" if dead else "done").inc()

    async def _handle(self, record: Record) -> None:
        call_context.set_deadline(self._handler_timeout)
        async with asyncio.timeout(self._handler_timeout):
            results = await self._handler(record)
            await self._producer.publish(results, self._handler_timeout)

    def _dead_letter(self, record: Record, consumed: Any, error: Exception) -> Record:
        """The record with where it came from. Of the error only its class: a message may hold
        something private."""
        origin = {
            "topic": consumed.topic,
            "partition": str(consumed.partition),
            "offset": str(consumed.offset),
            "group": self._group,
            "error": type(error).__name__,
        }
        return Record(
            topic=consumed.topic + DEAD_LETTER_SUFFIX,
            key=record.key,
            value=record.value,
            headers=record.headers
            | {DEAD_LETTER_HEADER + name: value.encode() for name, value in origin.items()},
        )


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later: something it needs was away or too slow."""
    if isinstance(error, RemoteError):
        return error.code in (Unavailable.code, TimedOut.code)
    if isinstance(error, ServiceError):
        return isinstance(error, Unavailable | TimedOut)
    return isinstance(
        error,
        TimeoutError
        | OSError
        | KafkaError
        # A deadlock or lock wait that outlasted the database's own retries.
        | pymysql.err.OperationalError
        | redis.exceptions.ConnectionError
        | redis.exceptions.TimeoutError,
    )


async def _close_producer(producer: AIOKafkaProducer) -> None:
    # Not its stop(), which waits for the broker to take what is unsent: that may be for ever.
    producer._closed = True
    await _within(_CLOSE_SECONDS, producer._sender.close)
    await _within(_CLOSE_SECONDS, producer.client.close)


async def _close_consumer(consumer: AIOKafkaConsumer) -> None:
    if not await _within(_CLOSE_SECONDS, consumer.stop):
        # It hung while leaving the group, and has closed nothing yet.
        if consumer._fetcher is not None:
            await _within(_CLOSE_SECONDS, consumer._fetcher.close)
        await _within(_CLOSE_SECONDS, consumer._client.close)


async def _within(seconds: float, close: Callable[[], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await close()
    except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
        if cancellation.is_ours(error):
            raise
        log.debug("closing failed", error=type(error).__name__)
        return False
    return True


class _OncePerMinute(logging.Filter):
    """aiokafka says several times a second that its broker is away; once a minute is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last.get(str(record.msg), -_SAME_LINE_SECONDS) < _SAME_LINE_SECONDS:
            return False
        self._last[str(record.msg)] = now
        return True


for _name in (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
):
    logging.getLogger(_name).setLevel(logging.WARNING)
    logging.getLogger(_name).addFilter(_OncePerMinute())
