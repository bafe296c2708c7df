"""Publishes committed events to Kafka: at least once, in order per reservation.

Events are sharded by their partition and reservation. A relay locks the shards that it sends, so
any number of replicas may run and no two of them send events of one reservation at the same time.

A shard whose events Kafka does not accept is put aside, so that it neither holds up nor repeats the
others; its oldest event is tried until Kafka takes it.
"""

import asyncio
from collections.abc import Sequence

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.outbox import key_of
from payment_service.ports import OutboxBatch, OutboxStore
from protos.topics import PAYMENT_EVENTS
from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.kafka import Producer, Record
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

BATCH = 500
# How long the events of all shards wait for the next acknowledgement before the shards without one
# are put aside. Others are held up for as long, once for each shard of a lost partition.
PATIENCE_SECONDS = 3.0
# The same for the events of the shards that were put aside, which hold up nobody.
ASIDE_PATIENCE_SECONDS = 10.0
# The longest pause between two batches. It finds what another replica committed and could not send;
# this replica's own commits wake the relay at once.
POLL_SECONDS = 0.5
# The shortest pause between the starts of two batches: events that are committed meanwhile share a
# batch. At a hundred payments per second, a batch for each cost as much as the payments. An event
# after a pause is sent at once.
COLLECT_SECONDS = 0.02


class Relay:
    """Sends the events of the outbox. `committed` wakes it, at most every COLLECT_SECONDS.

    `aside` is another producer than `producer`: a producer drops what it has in flight when Kafka
    does not accept one of its records.
    """

    def __init__(
        self,
        outbox: OutboxStore,
        producer: Producer,
        aside: Producer,
        committed: asyncio.Event,
    ) -> None:
        self._outbox = outbox
        self._producer = producer
        self._aside = aside
        self._committed = committed
        # The shards that are put aside, and whether there are any.
        self._delayed: set[int] = set()
        self._any_delayed = asyncio.Event()
        self._delay = Outage(log, "outbox_delayed", "outbox_resumed")

    async def run(self) -> None:
        """Sends events until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._send_delayed())

    async def _send(self) -> None:
        outage = Outage(log, "outbox_delayed", "outbox_resumed")
        loop = asyncio.get_running_loop()
        while True:
            self._committed.clear()
            started = loop.time()
            if await retry_while_unavailable(self.send_batch, outage) < BATCH:
                await self._wait_for_commit()
                await asyncio.sleep(COLLECT_SECONDS - (loop.time() - started))

    async def _send_delayed(self) -> None:
        while True:
            await self._any_delayed.wait()
            await retry_while_unavailable(self.send_delayed, self._delay)
            if not self._delayed:
                self._any_delayed.clear()
            # What has waited behind the oldest events.
            self._committed.set()

    async def send_batch(self) -> int:
        """Sends the oldest events, at most BATCH, of the shards that are not put aside. Returns how
        many there were.

        Puts aside the shards whose events Kafka does not accept. If published events cannot be
        deleted from the outbox afterwards, they are sent again.
        """
        async with self._outbox.oldest(BATCH, self._delayed) as batch:
            await self._publish(batch, self._producer, PATIENCE_SECONDS)
        if batch.unpublished_shards:
            self._delayed |= batch.unpublished_shards
            self._delay.failed(Unavailable("Kafka does not accept the events of a shard."))
            self._any_delayed.set()
        return len(batch.rows)

    async def send_delayed(self) -> None:
        """Sends the oldest event of each shard that is put aside; those that Kafka accepts return
        to the others. Raises Unavailable while any is left."""
        # Meanwhile others may be put aside.
        tried = frozenset(self._delayed)
        async with self._outbox.oldest_of_each(tried) as batch:
            await self._publish(batch, self._aside, ASIDE_PATIENCE_SECONDS)
        self._delayed -= tried - batch.unpublished_shards
        if self._delayed:
            raise Unavailable("Kafka does not accept the events of a shard.")

    async def publish(
        self, events: Sequence[Event], producer: Producer, patience: float
    ) -> list[bool]:
        """Returns for each of `events` whether Kafka has acknowledged it."""
        return await producer.publish_each(
            [
                Record(
                    topic=PAYMENT_EVENTS,
                    key=key_of(event.reservation_id),
                    value=event.payload,
                    headers={EVENT_ID_HEADER: event.event_id.encode()},
                )
                for event in events
            ],
            patience,
        )

    async def _publish(self, batch: OutboxBatch, producer: Producer, patience: float) -> None:
        if not batch.rows:
            return
        acknowledged = await self.publish([row.event for row in batch.rows], producer, patience)
        batch.published.update(
            row.id for row, has in zip(batch.rows, acknowledged, strict=True) if has
        )

    async def _wait_for_commit(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            return
