"""Publishes committed events to Kafka: at least once, in order per reservation.

The events that this process commits go to Kafka from memory, in batches, and are then marked as
sent. Those that are still unsent after OLD_SECONDS are read from the database: a process crashed
before it sent them, or Kafka did not accept them. Events are sharded by their partition and
reservation for that; a relay locks the shards that it reads, so any number of replicas may run.

An event from memory is sent once the outcome that precedes it is marked as sent; otherwise it is
left to the database, where it comes after that. So the events of a reservation stay in order, from
memory and from the database. After a crash, or a pause of a process, an event may arrive once more
later, which consumers ignore.

A shard whose events Kafka does not accept is put aside, so that it neither holds up nor repeats the
others; its oldest event is tried until Kafka takes it.
"""

import asyncio
import functools
from collections.abc import Sequence

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.outbox import CommittedEvents, key_of, shard_of
from payment_service.ports import OutboxStore
from protos.topics import PAYMENT_EVENTS
from servicekit import logs
from servicekit.errors import Unavailable, is_transient
from servicekit.kafka import Producer, Record
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

BATCH = 500
# How long the events of all shards wait for the next acknowledgement before the shards without one
# are put aside. Others are held up for as long, once for each shard of a lost partition.
PATIENCE_SECONDS = 3.0
# The same for the events of the shards that were put aside, which hold up nobody.
ASIDE_PATIENCE_SECONDS = 10.0
# The shortest pause between the starts of two batches from memory: events that are committed
# meanwhile share a batch, and so do their confirmations and the ends of their admissions: a batch
# costs Kafka, both consumers and the database more than its events do. An event after a pause is
# sent at once. With what the consumers collect, an admission still ends everywhere within 100 ms.
COLLECT_SECONDS = 0.04
# The age at which an event is read from the database. It is longer than a relay tries to send an
# event from memory, so that few are sent twice.
OLD_SECONDS = 10.0
# The pause between two looks for such events.
POLL_SECONDS = 1.0


class Relay:
    """Sends the events of `committed`, and those of `outbox` that nobody sent.

    `aside` is another producer than `producer`: a producer drops what it has in flight when Kafka
    does not accept one of its records. So is `backlog`: it sends beside the other two.
    """

    def __init__(
        self,
        outbox: OutboxStore,
        producer: Producer,
        backlog: Producer,
        aside: Producer,
        committed: CommittedEvents,
    ) -> None:
        self._outbox = outbox
        self._producer = producer
        self._backlog = backlog
        self._aside = aside
        self._committed = committed
        # The shards that are put aside, and whether there are any.
        self._delayed: set[int] = set()
        self._any_delayed = asyncio.Event()
        self._delay = Outage(log, "outbox_delayed", "outbox_resumed")
        # Whether shards have returned, with what has waited behind their oldest events.
        self._returned = asyncio.Event()

    async def run(self) -> None:
        """Sends events until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_committed())
            tasks.create_task(self._send_backlog())
            tasks.create_task(self._send_delayed())

    async def _send_committed(self) -> None:
        outage = Outage(log, "outbox_delayed", "outbox_resumed")
        loop = asyncio.get_running_loop()
        while True:
            events = await self._committed.take(BATCH)
            started = loop.time()
            try:
                await self.send_committed(events)
            except Exception as error:
                if not is_transient(error):
                    raise
                # Those that are not marked are unsent in the database, and are read from there.
                outage.failed(error)
            else:
                outage.succeeded()
            finally:
                self._committed.done(events)
            if len(events) < BATCH:
                await asyncio.sleep(COLLECT_SECONDS - (loop.time() - started))

    async def _send_backlog(self) -> None:
        outage = Outage(log, "outbox_delayed", "outbox_resumed")
        loop = asyncio.get_running_loop()
        # What is older than this moment waits for nobody else: at the start, what a process before
        # this one has left; later what has waited for a shard that was put aside.
        moment: float | None = loop.time()
        while True:
            self._returned.clear()
            age = OLD_SECONDS if moment is None else min(OLD_SECONDS, loop.time() - moment)
            send = functools.partial(self.send_batch, age)
            if not await retry_while_unavailable(send, outage):
                returned = await self._shards_return_within(POLL_SECONDS)
                moment = loop.time() if returned else None

    async def _send_delayed(self) -> None:
        while True:
            await self._any_delayed.wait()
            await retry_while_unavailable(self.send_delayed, self._delay)
            if not self._delayed:
                self._any_delayed.clear()
            self._returned.set()

    async def send_committed(self, events: Sequence[Event]) -> None:
        """Sends events that were committed just now, and marks those as sent that Kafka has. Puts
        aside the shards of the others.

        Leaves out the events of shards that are put aside, and those that follow an unsent outcome
        of another batch. Raises Unavailable and TimeoutError if the database cannot be read or
        written; the published events are then sent again.
        """
        events = [e for e in events if shard_of(e.reservation_id) not in self._delayed]
        published = await self._publish(
            await self._without_followers(events), self._producer, PATIENCE_SECONDS
        )
        if published:
            await self._outbox.mark_sent(published)

    async def send_batch(self, older_than: float = 0.0) -> bool:
        """Sends about BATCH of the oldest events of the shards that have one older than
        `older_than` seconds and are not put aside, without the reservations of which this process
        is sending an event from memory. Returns whether there may be more.

        Puts aside the shards whose events Kafka does not accept. If published events cannot be
        marked afterwards, they are sent again.
        """
        async with self._outbox.oldest(BATCH, self._delayed, older_than=older_than) as batch:
            events = [e for e in batch.events if not self._committed.in_hand(e.reservation_id)]
            batch.published.extend(await self._publish(events, self._backlog, PATIENCE_SECONDS))
        return batch.full and bool(batch.published)

    async def send_delayed(self) -> None:
        """Sends the oldest events of each shard that is put aside; the shards of those that Kafka
        accepts, and those without events, return to the others. Raises Unavailable while any is
        left."""
        # Meanwhile others may be put aside.
        tried = frozenset(self._delayed)
        async with self._outbox.oldest_of_each(tried) as batch:
            batch.published.extend(
                await self._publish(batch.events, self._aside, ASIDE_PATIENCE_SECONDS)
            )
        self._delayed -= batch.shards - _shards_of(batch.events, without=batch.published)
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

    async def _without_followers(self, events: Sequence[Event]) -> list[Event]:
        """Leaves out the events that follow an unsent outcome which is not among them."""
        ours = {event.payment_id for event in events}
        before = {event.after_payment_id for event in events} - {0} - ours
        # Rare: the user tried again within milliseconds, at another replica.
        waiting = set(await self._outbox.unsent_outcomes(before)) if before else set()
        found = []
        for event in events:
            if event.after_payment_id in waiting:
                waiting.add(event.payment_id)
            else:
                found.append(event)
        return found

    async def _publish(
        self, events: Sequence[Event], producer: Producer, patience: float
    ) -> list[Event]:
        """Returns those of `events` that Kafka has acknowledged. Puts aside the shards of the
        others."""
        if not events:
            return []
        acknowledged = await self.publish(events, producer, patience)
        published = [event for event, has in zip(events, acknowledged, strict=True) if has]
        if unpublished := _shards_of(events, without=published):
            self._delayed |= unpublished
            self._delay.failed(Unavailable("Kafka does not accept the events of a shard."))
            self._any_delayed.set()
        return published

    async def _shards_return_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._returned.wait()
        except TimeoutError:
            return False


def _shards_of(events: Sequence[Event], *, without: Sequence[Event]) -> set[int]:
    others = {event.event_id for event in without}
    return {shard_of(event.reservation_id) for event in events if event.event_id not in others}
