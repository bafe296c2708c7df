"""Consumes a topic as a member of a group and commits what is handled."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError
from prometheus_client import Counter

from servicekit import call_context, logs
from servicekit.errors import Unavailable
from servicekit.kafka.connections import (
    RECONNECT_PAUSE_MS,
    REQUEST_TIMEOUT_MS,
    close_in_time,
    translated_errors,
)
from servicekit.kafka.producer import Producer
from servicekit.kafka.records import (
    DEAD_LETTER_HEADER,
    DEAD_LETTER_SUFFIX,
    REPLAY_HEADER,
    PoisonRecord,
    Record,
)
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

CONSUMED = Counter("kafka_consumed", "Records handled.", ["topic", "group", "outcome"])
RETRIES = Counter("kafka_retries", "Failed attempts to handle a record.", ["topic", "group"])

# To connect and join the group. Twice the time that Kafka gives the other members to join again.
_JOIN_SECONDS = 60.0
_REBALANCE_MS = 30_000
_REJOIN_SECONDS = 0.2
_COMMIT_SECONDS = 10.0
# How long a poll waits for records; the first one ends it. Only failures, and the assignment while
# joining, are noticed no sooner.
_POLL_MS = 1_000
_JOINING_POLL_MS = 100
# How long Kafka may hold a fetch that finds nothing; the first record ends it. Four times the
# default, because an idle service spent most of its time on empty fetches. Not longer: after a
# rebalance, new partitions wait behind the fetch for the old ones.
_FETCH_WAIT_MS = 2_000
# The same while a partition is paused: the fetch leaves it out, so none of its records arrive
# before the fetch ends, even if its worker is idle again.
_PAUSED_FETCH_WAIT_MS = 500
# Records that arrive within this time are fetched together, and records that are handled within
# it are committed together: otherwise, at a hundred records per second, Kafka spends more on the
# requests than on the records.
_COLLECT_SECONDS = 0.02
_REVOKE_SECONDS = 5.0
# The most one fetch returns of a partition; small, because a restart handles it again.
_BATCH_BYTES = 64 * 1024
# A partition is paused once more records than these wait for its worker. Not sooner, because of
# the time that the next fetch may be held.
_WAITING_RECORDS = 100
_HANDLING_ATTEMPTS = 3
_DEAD_LETTER_SECONDS = 10.0

# Handles one record; returns the records to publish before its offset is committed.
Handler = Callable[[Record], Awaitable[Sequence[Record]]]


class Consumer:
    """Passes every record of `topic` to `handler`, as a member of `group`.

    Partitions are handled concurrently, the records of one partition in order. A record is
    handled at once, or within 40 ms if others arrived just before it, so that the next ones are
    fetched together. The records that the handler returns are published, then the offset is
    committed, at the earliest 20 ms after the previous commit.

    A handler that raises a transient error (see `is_transient`) or takes more than
    `handler_timeout` seconds is called again until it succeeds, with pauses of up to 5 s; its
    partition waits meanwhile. Any other exception counts as the record's fault: after 3 attempts,
    or after the first that raises PoisonRecord, the record goes to `<topic>.dlq` and the partition
    continues, which breaks the order of that key. Kafka may be unavailable for any length of time.

    After `session_timeout` seconds without a heartbeat, Kafka gives the member's partitions to
    others.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        group: str,
        topic: str,
        handler: Handler,
        handler_timeout: float = 30.0,
        session_timeout: float = 10.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._topic = topic
        self._handler = handler
        self._handler_timeout = handler_timeout
        self._session_timeout = session_timeout

    async def run(self) -> None:
        """Consumes until cancelled."""
        names = {"topic": self._topic, "group": self._group}
        outage = Outage(log, "kafka_unavailable", "kafka_available", **names)
        async with Producer(self._bootstrap) as producer:
            while True:
                member = await retry_while_unavailable(partial(self._join, producer), outage)
                log.info("consuming", **names)
                try:
                    with translated_errors("The connection to Kafka was lost."):
                        await member.run()
                except Unavailable as error:
                    outage.failed(error)
                finally:
                    await member.close()
                await asyncio.sleep(_REJOIN_SECONDS)

    async def _join(self, producer: Producer) -> "_Member":
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_BATCH_BYTES,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            session_timeout_ms=round(self._session_timeout * 1000),
            # A third, as Kafka recommends: two lost heartbeats do not end the membership.
            heartbeat_interval_ms=round(self._session_timeout * 1000 / 3),
            rebalance_timeout_ms=_REBALANCE_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RECONNECT_PAUSE_MS,
        )
        deliver = _Delivery(producer, self._group, self._handler, self._handler_timeout).deliver
        member = _Member(consumer, deliver)
        try:
            with translated_errors("Kafka is unavailable."):
                consumer.subscribe([self._topic], listener=member)
                async with asyncio.timeout(_JOIN_SECONDS):
                    await consumer.start()
                    # Wakes it five times per second by default, although every event that
                    # concerns it wakes it too. No option of the consumer sets it.
                    consumer._fetcher._fetcher_timeout = _FETCH_WAIT_MS / 1000
                    # Kafka may still refuse the group or its settings.
                    while not member.assigned:
                        await member.poll_once(_JOINING_POLL_MS)
        except BaseException:
            await member.close()
            raise
        return member


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One membership of a group: a worker for each partition that has waiting records.

    Polling continues while workers are busy, so that the group does not take a slow member for a
    dead one; records that arrive meanwhile wait for their worker. No worker waits for a commit.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, deliver: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._consumer = consumer
        self._deliver = deliver
        self._workers: dict[TopicPartition, asyncio.Task[None]] = {}
        self._waiting: dict[TopicPartition, deque[Any]] = {}
        # The next offset of each partition with handled records: what to commit.
        self._handled: dict[TopicPartition, int] = {}
        self._progress = asyncio.Event()
        #: Whether Kafka has given this member its partitions, which may be none.
        self.assigned = False

    async def run(self) -> None:
        """Consumes until the membership fails; raises what failed."""
        committer = asyncio.create_task(self._keep_committing())
        try:
            while True:
                await self.poll_once()
                if committer.done():
                    committer.result()
        finally:
            committer.cancel()
            await asyncio.gather(committer, return_exceptions=True)

    async def poll_once(self, wait_ms: int = _POLL_MS) -> None:
        """Gives newly arrived records to the workers; raises what failed."""
        batches = await self._consumer.getmany(timeout_ms=wait_ms)
        for partition, worker in list(self._workers.items()):
            if worker.done():
                del self._workers[partition]
                worker.result()
        for partition, batch in batches.items():
            self._enqueue(partition, batch)
        if batches:
            await asyncio.sleep(_COLLECT_SECONDS)

    async def close(self) -> None:
        """Cancels the workers and leaves the group."""
        await self._cancel(list(self._workers))
        if not await close_in_time(self._consumer.stop):
            # It hung while leaving the group, and has closed no connection yet.
            if self._consumer._fetcher is not None:
                await close_in_time(self._consumer._fetcher.close)
            await close_in_time(self._consumer._client.close)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        # Their next owners begin at the last committed record.
        await self._cancel(revoked)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self.assigned = True
        # None of them is paused.
        self._limit_fetches()

    async def _cancel(self, partitions: Sequence[TopicPartition]) -> None:
        workers = [self._workers.pop(tp) for tp in partitions if tp in self._workers]
        for partition in partitions:
            if partition in self._waiting:
                # A handler that suppresses the cancellation must not be followed by another.
                self._waiting.pop(partition).clear()
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_REVOKE_SECONDS)
        for partition in partitions:
            # The partition may return after other members have committed later offsets.
            self._handled.pop(partition, None)
        for worker in workers:
            if worker.done() and not worker.cancelled() and (error := worker.exception()):
                log.warning("worker_failed", error=type(error).__name__)

    def _enqueue(self, partition: TopicPartition, batch: Sequence[Any]) -> None:
        waiting = self._waiting.setdefault(partition, deque())
        waiting.extend(batch)
        if partition not in self._workers:
            self._workers[partition] = asyncio.create_task(self._work(partition, waiting))
        elif len(waiting) > _WAITING_RECORDS:
            self._consumer.pause(partition)
            self._limit_fetches()

    def _limit_fetches(self) -> None:
        paused = self._consumer.paused()
        # aiokafka reads it for each fetch.
        self._consumer._fetcher._fetch_max_wait_ms = (
            _PAUSED_FETCH_WAIT_MS if paused else _FETCH_WAIT_MS
        )

    async def _work(self, partition: TopicPartition, waiting: deque[Any]) -> None:
        """Handles the waiting records of a partition and ends when there are no more."""
        while waiting:
            consumed = waiting.popleft()
            if len(waiting) == _WAITING_RECORDS:
                self._consumer.resume(partition)
                self._limit_fetches()
            await self._deliver(consumed)
            self._handled[partition] = consumed.offset + 1
            self._progress.set()

    async def _keep_committing(self) -> None:
        """Commits what all workers have handled, in one request; records that are handled during
        a commit, or soon after it, share the next one."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            assigned = self._consumer.assignment()
            offsets = {tp: offset for tp, offset in self._handled.items() if tp in assigned}
            self._handled.clear()
            if not offsets:
                continue
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await self._consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                # The partitions belong to other members now, which handle these records again.
                log.info("commit_refused", partitions=len(offsets))
            await asyncio.sleep(_COLLECT_SECONDS)


class _Delivery:
    """Calls the handler until one record is handled, or is a dead letter."""

    def __init__(
        self, producer: Producer, group: str, handler: Handler, handler_timeout: float
    ) -> None:
        self._producer = producer
        self._group = group
        self._handler = handler
        self._handler_timeout = handler_timeout

    async def deliver(self, consumed: Any) -> None:
        """Returns once the record needs no further attempt."""
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
        position = {
            "topic": consumed.topic,
            "group": self._group,
            "partition": consumed.partition,
            "offset": consumed.offset,
        }
        call_context.request_id.set(f"{consumed.topic}-{consumed.partition}-{consumed.offset}")
        outage = Outage(log, "record_delayed", "record_handled", **position)
        try:
            await retry_while_unavailable(
                partial(self._handle, record),
                outage,
                defect_attempts=_HANDLING_ATTEMPTS,
                final=PoisonRecord,
            )
            outcome = "done"
        except Exception as error:
            log.exception("record_dead_lettered", **position)
            letter = _dead_letter(record, position, error)
            outage = Outage(log, "dead_letter_delayed", "dead_letter_published", **position)
            await retry_while_unavailable(
                partial(self._producer.publish, [letter], _DEAD_LETTER_SECONDS), outage
            )
            outcome = "dead"
        CONSUMED.labels(consumed.topic, self._group, outcome).inc()

    async def _handle(self, record: Record) -> None:
        call_context.set_deadline(self._handler_timeout)
        try:
            async with asyncio.timeout(self._handler_timeout):
                results = await self._handler(record)
                await self._producer.publish(results, self._handler_timeout)
        except Exception:
            RETRIES.labels(record.topic, self._group).inc()
            raise


def _dead_letter(record: Record, position: dict[str, Any], error: Exception) -> Record:
    """The record with its origin. Of the error only the class: a message may hold something
    private."""
    origin = position | {"error": type(error).__name__}
    return Record(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=record.key,
        value=record.value,
        headers=record.headers
        | {DEAD_LETTER_HEADER + name: str(value).encode() for name, value in origin.items()},
    )
