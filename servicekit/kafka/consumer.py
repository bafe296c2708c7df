"""Consumes a topic as a member of a group and commits what is handled."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.kafka.connections import (
    RECONNECT_PAUSE_MS,
    REQUEST_TIMEOUT_MS,
    close_in_time,
    translated_errors,
)
from servicekit.kafka.delivery import Delivery, Handler
from servicekit.kafka.producer import Producer
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

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
# before the fetch ends, even if the partition is idle again.
_PAUSED_FETCH_WAIT_MS = 500
# Records that arrive within this time are fetched together, and then handled together: otherwise,
# at a hundred records per second, all spend more on the requests than on the records.
_COLLECT_SECONDS = 0.02
# The pause between two commits. After a crash, the records of this time are handled again.
_COMMIT_PAUSE_SECONDS = 0.2
_REVOKE_SECONDS = 5.0
# The most one fetch returns of a partition; small, because a restart handles it again.
_BATCH_BYTES = 64 * 1024
# A partition is paused while more records than these wait. Not sooner, because of the time that the
# next fetch may be held.
_WAITING_RECORDS = 100
# The most that a handler gets in one call.
_RECORDS_TOGETHER = 100


class Consumer:
    """Passes every record of `topic` to `handler`, as a member of `group`.

    One call of the handler gets at most 100 records: what waits, of all partitions that are not
    being handled. The records of one partition are in order and are handled in order. A record that
    comes alone is handled at once; one that comes within 20 ms of others at most 40 ms later, with
    those that came meanwhile. The records that the handler returns are published, then the offsets
    are committed, at the earliest 200 ms after the previous commit.

    If the handler raises for several records, or takes more than 5 s, it gets each by itself; then
    the partitions do not wait for each other. If it raises a transient error for one record (see
    `is_transient`), or takes more than `handler_timeout` seconds, it is called again until it
    succeeds, with pauses of up to 5 s; the partition waits meanwhile. Any other exception counts as
    the record's fault: after 3 attempts, or after the first that raises PoisonRecord, the record
    goes to `<topic>.dlq` and the partition continues, which breaks the order of that key. Kafka may
    be unavailable for any length of time.

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
        delivery = Delivery(producer, self._group, self._handler, self._handler_timeout)
        member = _Member(consumer, delivery)
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


@dataclass
class _Assignment:
    """What is in hand of the partitions of one assignment."""

    #: Of each partition with records that nobody handles yet.
    waiting: dict[TopicPartition, deque[Any]] = field(default_factory=dict)
    #: The partitions with records that are being handled.
    busy: set[TopicPartition] = field(default_factory=set)
    #: The next offset of each partition with handled records: what to commit.
    handled: dict[TopicPartition, int] = field(default_factory=dict)


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One membership of a group.

    Polling continues while records are handled, so that the group does not take a slow member for a
    dead one; records that arrive meanwhile wait. Handling waits for no commit.
    """

    def __init__(self, consumer: AIOKafkaConsumer, delivery: Delivery) -> None:
        self._consumer = consumer
        self._delivery = delivery
        self._workers: set[asyncio.Task[None]] = set()
        self._assignment = _Assignment()
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
        """Has newly arrived records handled; raises what failed."""
        batches = await self._consumer.getmany(timeout_ms=wait_ms)
        for worker in [worker for worker in self._workers if worker.done()]:
            self._workers.remove(worker)
            worker.result()
        for partition, batch in batches.items():
            self._assignment.waiting.setdefault(partition, deque()).extend(batch)
        if batches:
            self._handle_waiting()
            await asyncio.sleep(_COLLECT_SECONDS)

    async def close(self) -> None:
        """Cancels the workers and leaves the group."""
        await self._drop_assignment()
        if not await close_in_time(self._consumer.stop):
            # It hung while leaving the group, and has closed no connection yet.
            if self._consumer._fetcher is not None:
                await close_in_time(self._consumer._fetcher.close)
            await close_in_time(self._consumer._client.close)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        # All of them. Their next owners begin at the last committed record.
        await self._drop_assignment()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self.assigned = True
        # None of them is paused.
        self._limit_fetches()

    async def _drop_assignment(self) -> None:
        self._assignment = _Assignment()
        workers, self._workers = self._workers, set()
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_REVOKE_SECONDS)
        for worker in workers:
            if worker.done() and not worker.cancelled() and (error := worker.exception()):
                log.warning("worker_failed", error=type(error).__name__)

    def _handle_waiting(self) -> None:
        """Starts to handle the records of all idle partitions, together if there are several."""
        batches = self._take_waiting()
        if sum(map(len, batches.values())) > 1:
            self._start(self._work_together(self._assignment, batches))
        else:
            self._start_each(batches)
        self._pause_crowded()

    def _take_waiting(self) -> dict[TopicPartition, list[Any]]:
        waiting, busy = self._assignment.waiting, self._assignment.busy
        batches: dict[TopicPartition, list[Any]] = {}
        room = _RECORDS_TOGETHER
        for partition in [partition for partition in waiting if partition not in busy]:
            if room > 0:
                records = waiting.pop(partition)
                batch = [records.popleft() for _ in range(min(room, len(records)))]
                room -= len(batch)
                batches[partition] = batch
                if records:
                    waiting[partition] = records  # next time after the others
        busy.update(batches)
        return batches

    def _pause_crowded(self) -> None:
        waiting = self._assignment.waiting
        crowded = {tp for tp, records in waiting.items() if len(records) > _WAITING_RECORDS}
        paused = self._consumer.paused()
        if crowded != paused:
            self._consumer.pause(*crowded - paused)
            self._consumer.resume(*paused - crowded)
            self._limit_fetches()

    def _limit_fetches(self) -> None:
        paused = self._consumer.paused()
        # aiokafka reads it for each fetch.
        self._consumer._fetcher._fetch_max_wait_ms = (
            _PAUSED_FETCH_WAIT_MS if paused else _FETCH_WAIT_MS
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._workers.add(asyncio.create_task(work))

    def _start_each(self, batches: dict[TopicPartition, list[Any]]) -> None:
        for partition, batch in batches.items():
            self._start(self._work_one_by_one(self._assignment, partition, batch))

    async def _work_together(
        self, assignment: _Assignment, batches: dict[TopicPartition, list[Any]]
    ) -> None:
        together = [consumed for batch in batches.values() for consumed in batch]
        succeeded = await self._delivery.deliver_together(together)
        if assignment is not self._assignment:
            return  # the handler has suppressed its cancellation
        if succeeded:
            for partition, batch in batches.items():
                self._note_handled(partition, batch[-1])
            self._end_work(*batches)
        else:
            self._start_each(batches)

    async def _work_one_by_one(
        self, assignment: _Assignment, partition: TopicPartition, batch: list[Any]
    ) -> None:
        for consumed in batch:
            await self._delivery.deliver(consumed)
            if assignment is not self._assignment:
                return  # as above
            self._note_handled(partition, consumed)
        self._end_work(partition)

    def _note_handled(self, partition: TopicPartition, last: Any) -> None:
        self._assignment.handled[partition] = last.offset + 1
        self._progress.set()

    def _end_work(self, *partitions: TopicPartition) -> None:
        self._assignment.busy.difference_update(partitions)
        self._handle_waiting()

    async def _keep_committing(self) -> None:
        """Commits what all workers have handled, in one request; records that are handled during
        a commit, or soon after it, share the next one."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            offsets = dict(self._assignment.handled)
            self._assignment.handled.clear()
            if not offsets:
                continue
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await self._consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                # The partitions belong to other members now, which handle these records again.
                log.info("commit_refused", partitions=len(offsets))
            await asyncio.sleep(_COMMIT_PAUSE_SECONDS)
