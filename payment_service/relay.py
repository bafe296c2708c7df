"""Publishes committed events to Kafka: at least once, in order per reservation.

Events are sharded by reservation. A relay locks the shards that it sends, so any number of replicas
may run and no two of them send events of one reservation at the same time.
"""

import asyncio
from collections.abc import Sequence

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.ports import OutboxStore
from protos.topics import PAYMENT_EVENTS
from servicekit import logs
from servicekit.kafka import Producer, Record
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

BATCH = 500
PUBLISH_SECONDS = 10.0
# The longest pause between two batches. It finds what another replica committed and could not send;
# this replica's own commits wake the relay at once.
POLL_SECONDS = 0.5
# The shortest pause between the starts of two batches: events that are committed meanwhile share a
# batch. At a hundred payments per second, a batch for each cost as much as the payments. An event
# after a pause is sent at once.
COLLECT_SECONDS = 0.02


class Relay:
    """Sends the events of the outbox. `committed` wakes it, at most every COLLECT_SECONDS."""

    def __init__(self, outbox: OutboxStore, producer: Producer, committed: asyncio.Event) -> None:
        self._outbox = outbox
        self._producer = producer
        self._committed = committed

    async def run(self) -> None:
        """Sends events until cancelled."""
        outage = Outage(log, "outbox_delayed", "outbox_resumed")
        loop = asyncio.get_running_loop()
        while True:
            self._committed.clear()
            started = loop.time()
            if await retry_while_unavailable(self.send_batch, outage) < BATCH:
                await self._wait_for_commit()
                await asyncio.sleep(COLLECT_SECONDS - (loop.time() - started))

    async def send_batch(self) -> int:
        """Sends the oldest events, at most BATCH; returns how many Kafka acknowledged.

        If they cannot be deleted from the outbox afterwards, they are sent again.
        """
        async with self._outbox.batch(BATCH) as events:
            if events:
                await self.publish(events)
        return len(events)

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns once Kafka has acknowledged all `events`. Raises Unavailable after
        PUBLISH_SECONDS."""
        await self._producer.publish(
            [
                Record(
                    topic=PAYMENT_EVENTS,
                    key=str(event.reservation_id).encode(),
                    value=event.payload,
                    headers={EVENT_ID_HEADER: event.event_id.encode()},
                )
                for event in events
            ],
            PUBLISH_SECONDS,
        )

    async def _wait_for_commit(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            return
