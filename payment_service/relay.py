"""Brings committed events to Kafka: at least once, in order per reservation.

Events are sharded by reservation. A relay locks the shards it sends, so any number of replicas
may run, and no two of them send events of one reservation at once.
"""

import asyncio

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.outbox import Outbox
from protos.topics import PAYMENT_EVENTS
from servicekit import logs
from servicekit.kafka import Producer, Record
from servicekit.mysql import Database
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

BATCH = 500
PUBLISH_SECONDS = 10.0
# Finds what another replica committed and could not send; our own commits wake us at once.
LOOK_SECONDS = 0.5
# From one look to the next: what is committed meanwhile goes together. An event that comes alone
# goes at once; at a hundred payments a second a look for each cost as much as the payments.
COLLECT_SECONDS = 0.02


class Relay:
    """Sends the outbox; `committed` wakes it, at most every COLLECT_SECONDS."""

    def __init__(
        self, database: Database, outbox: Outbox, producer: Producer, committed: asyncio.Event
    ) -> None:
        self._database = database
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
        """Sends the oldest events, at most BATCH; returns how many Kafka took.

        They are deleted in the transaction that locks their shards: if it ends badly, they are
        sent again.
        """
        async with self._database.transaction() as transaction:
            batch = await self._outbox.lock_batch(transaction, BATCH)
            if batch:
                await self.publish([event for _, event in batch])
                await self._outbox.delete(transaction, [row_id for row_id, _ in batch])
        return len(batch)

    async def publish(self, events: list[Event]) -> None:
        """Returns once Kafka has all of them."""
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
            async with asyncio.timeout(LOOK_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            return
