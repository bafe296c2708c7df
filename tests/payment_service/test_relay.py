"""The timing and the batches of the relay, and that it loses no event: with an outbox and a Kafka
in memory, in virtual time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import AbstractAsyncContextManager

import pytest

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.outbox import SHARDS, CommittedEvents, shard_of
from payment_service.ports import OutboxBatch
from payment_service.relay import (
    BATCH,
    COLLECT_SECONDS,
    OLD_SECONDS,
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Relay,
)
from protos.topics import PAYMENT_EVENTS, TOPICS
from servicekit.errors import Unavailable
from servicekit.kafka import Producer, Record, producer
from tests.servicekit.fake_kafka import Partitions, in_virtual_time, now

# Round trips of the fakes: to read or to lock, to publish, to mark.
TRIP_SECONDS = 0.001
POLL_DURATION = 3 * TRIP_SECONDS
AN_INSTANT = 1e-6


class FakeStores:
    """An outbox of committed events, and the events that Kafka has. Each event of a reservation
    follows the one before it."""

    def __init__(self) -> None:
        self.rows: dict[int, Event] = {}
        self.events: dict[str, Event] = {}
        self.committed_at: dict[str, float] = {}
        self.published_at: dict[str, float] = {}
        self.polls: list[float] = []
        self.sent: list[list[Event]] = []
        self.committed = CommittedEvents()
        self._last: dict[int, int] = {}
        self.publish_seconds: Callable[[], float] = lambda: TRIP_SECONDS
        self.trouble: Callable[[], None] = lambda: None

    def commit(
        self, count: int = 1, *, reservation_id: int = 1, elsewhere: bool = False
    ) -> list[bytes]:
        """Commits events of one reservation; `elsewhere`: by another replica. Returns their
        payloads, each of which is unique."""
        payloads = []
        for _ in range(count):
            number = len(self.committed_at) + 1
            payloads.append(f"{reservation_id} e{number:06}".encode())
            event = Event(
                f"e{number:06}",
                reservation_id,
                number,
                payloads[-1],
                after_payment_id=self._last.get(reservation_id, 0),
            )
            self._last[reservation_id] = number
            self.rows[number] = event
            self.events[event.event_id] = event
            self.committed_at[event.event_id] = now()
            if not elsewhere:
                self.committed.add(event)
        return payloads

    def waits(self) -> list[float]:
        """Returns the seconds from the commit to Kafka of every event so far."""
        return [
            self.published_at[event_id] - committed_at
            for event_id, committed_at in self.committed_at.items()
        ]

    def events_sent(self, reservation_id: int) -> list[str]:
        """Returns the event ids of a reservation in the order of their first delivery."""
        ids = [
            e.event_id for batch in self.sent for e in batch if e.reservation_id == reservation_id
        ]
        return list(dict.fromkeys(ids))

    @contextlib.asynccontextmanager
    async def relaying(self, seconds: float = 0.7) -> AsyncIterator[None]:
        """Runs a relay that has been idle for `seconds`. At the end it must stop at once."""
        # What another relay had in memory is lost with it.
        self.committed = CommittedEvents()
        relay = Relay(
            _Outbox(self), _Producer(self), _Producer(self), _Producer(self), self.committed
        )
        task = asyncio.create_task(relay.run())
        await asyncio.sleep(seconds)
        yield
        assert not task.done(), "the relay ended"
        asked = now()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() - asked < AN_INSTANT, "the relay did not stop at once"


class _Outbox:
    """Implements ports.OutboxStore. A batch locks the shards of its rows."""

    def __init__(self, stores: FakeStores) -> None:
        self._stores = stores
        self._locked: set[int] = set()

    def oldest(
        self, limit: int, without: Set[int], *, older_than: float
    ) -> AbstractAsyncContextManager[OutboxBatch]:
        self._stores.polls.append(now())
        old = {
            shard_of(event.reservation_id)
            for event in self._stores.rows.values()
            if now() - self._stores.committed_at[event.event_id] >= older_than
        }
        events = [e for e in self._unlocked() if shard_of(e.reservation_id) in old - without]
        return self._batch(events[:limit], full=len(events) > limit)

    def oldest_of_each(self, shards: Set[int]) -> AbstractAsyncContextManager[OutboxBatch]:
        events = [e for e in self._unlocked() if shard_of(e.reservation_id) in shards]
        oldest = {shard_of(e.reservation_id): e for e in reversed(events)}
        return self._batch(list(oldest.values()), shards=shards - self._locked)

    async def unsent_outcomes(self, payment_ids: Set[int]) -> Set[int]:
        self._stores.trouble()
        await asyncio.sleep(TRIP_SECONDS)
        return payment_ids & self._stores.rows.keys()

    async def mark_sent(self, events: Sequence[Event]) -> None:
        self._stores.trouble()
        await asyncio.sleep(TRIP_SECONDS)
        self._mark_sent(events)
        self._stores.trouble()

    def _mark_sent(self, events: Sequence[Event]) -> None:
        for event in events:
            self._stores.rows.pop(event.payment_id, None)

    def _unlocked(self) -> list[Event]:
        return [
            event
            for event in self._stores.rows.values()
            if shard_of(event.reservation_id) not in self._locked
        ]

    @contextlib.asynccontextmanager
    async def _batch(
        self, events: Sequence[Event], *, shards: Set[int] = frozenset(), full: bool = False
    ) -> AsyncIterator[OutboxBatch]:
        self._stores.trouble()
        shards |= {shard_of(event.reservation_id) for event in events}
        self._locked |= shards
        try:
            # Events that are committed from here on are not in the batch.
            await asyncio.sleep(TRIP_SECONDS)
            batch = OutboxBatch(events, shards, full)
            yield batch
            await asyncio.sleep(TRIP_SECONDS)
            self._mark_sent(batch.published)
        finally:
            self._locked -= shards


class _Producer(Producer):
    def __init__(self, stores: FakeStores) -> None:
        self._stores = stores

    async def publish_each(self, records: Sequence[Record], patience: float) -> list[bool]:
        try:
            async with asyncio.timeout(patience):
                await asyncio.sleep(self._stores.publish_seconds())
            self._stores.trouble()
            batch = [self._stores.events[r.headers[EVENT_ID_HEADER].decode()] for r in records]
            assert [record.key for record in records] == [b"%d" % e.reservation_id for e in batch]
            self._stores.sent.append(batch)
            for event in batch:
                self._stores.published_at.setdefault(event.event_id, now())
            # Kafka acknowledges shortly after it has the events.
            await asyncio.sleep(AN_INSTANT / 10)
            self._stores.trouble()
        except (TimeoutError, Unavailable):
            return [False] * len(records)
        return [True] * len(records)


Scene = Callable[[FakeStores], Awaitable[None]]


def play(scene: Scene) -> FakeStores:
    stores = FakeStores()

    async def main() -> None:
        async with asyncio.timeout(3600):
            await scene(stores)

    in_virtual_time(main)
    return stores


def test_a_single_event_is_sent_at_once() -> None:
    dice = random.Random(1)

    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            for _ in range(300):
                stores.commit()
                # The relay also pauses after a poll that found nothing.
                await asyncio.sleep(dice.uniform(COLLECT_SECONDS + POLL_DURATION, POLL_SECONDS))
        assert max(stores.waits()) <= POLL_DURATION
        assert stores.rows == {}

    play(scene)


def test_events_within_the_collecting_time_share_a_batch() -> None:
    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            # The first is sent at once, the following ones together.
            for _ in range(10):
                stores.commit()
                await asyncio.sleep(COLLECT_SECONDS / 11)
            await asyncio.sleep(COLLECT_SECONDS)

    first, *rest = play(scene).sent
    assert len(first) == 1
    assert [len(batch) for batch in rest] == [9]


def test_a_stream_is_sent_in_few_batches_and_no_event_waits_long() -> None:
    dice = random.Random(2)

    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            began = now()
            for _ in range(2000):
                stores.commit()
                await asyncio.sleep(dice.expovariate(300))
            assert len(stores.sent) <= (now() - began) / COLLECT_SECONDS + 2
            await asyncio.sleep(1)
        assert max(stores.waits()) <= COLLECT_SECONDS + POLL_DURATION
        assert stores.rows == {}

    play(scene)


def test_an_event_waits_for_the_next_batch_at_most() -> None:
    """Commits a second event at small steps, from before the first is sent until after its
    collecting time. An event that is overlooked would wait for seconds."""

    def scene_of(moment: float) -> Scene:
        async def scene(stores: FakeStores) -> None:
            async with stores.relaying():
                stores.commit()
                await asyncio.sleep(moment)
                stores.commit()
                await asyncio.sleep(2 * COLLECT_SECONDS)
            assert max(stores.waits()) <= COLLECT_SECONDS + POLL_DURATION
            assert stores.rows == {}

        return scene

    for step in range(300):
        play(scene_of(step * COLLECT_SECONDS / 250))


def test_after_a_slow_send_the_next_event_is_sent_at_once() -> None:
    async def scene(stores: FakeStores) -> None:
        stores.publish_seconds = lambda: 0.1
        async with stores.relaying():
            stores.commit()
            await asyncio.sleep(0.05)
            stores.commit()
            await asyncio.sleep(0.5)
        first, second = stores.waits()
        assert first <= 0.1 + POLL_DURATION
        assert second <= 0.05 + 0.1 + 2 * POLL_DURATION

    play(scene)


def test_events_of_another_replica_are_sent() -> None:
    dice = random.Random(3)

    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            for _ in range(200):
                stores.commit(elsewhere=True)
                await asyncio.sleep(dice.uniform(0.2, 2))
            await asyncio.sleep(OLD_SECONDS + 2 * POLL_SECONDS)
            # An idle relay polls once per POLL_SECONDS.
            stores.polls.clear()
            await asyncio.sleep(100 * POLL_SECONDS)
            assert len(stores.polls) <= 100
        assert max(stores.waits()) <= OLD_SECONDS + POLL_SECONDS + 2 * POLL_DURATION
        ids = stores.events_sent(1)
        assert ids == sorted(ids)

    play(scene)


def test_full_batches_follow_each_other_without_a_pause() -> None:
    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            stores.commit(10 * BATCH + 1)
            await asyncio.sleep(1)
        assert [len(batch) for batch in stores.sent] == [BATCH] * 10 + [1]
        assert max(stores.waits()) <= 11 * POLL_DURATION
        assert stores.rows == {}

    play(scene)


def test_a_stop_at_any_moment_is_prompt_and_loses_nothing() -> None:
    """Stops at steps of 0.2 ms, during the idle wait, the polls, the sending and the collecting."""

    def scene_of(moment: float) -> Scene:
        async def scene(stores: FakeStores) -> None:
            async def commit_some() -> None:
                for number in range(20):
                    await asyncio.sleep(0.003)
                    stores.commit(reservation_id=number % 3)

            committing = asyncio.create_task(commit_some())
            async with stores.relaying(moment):
                pass
            sent = len(stores.sent)
            await committing
            await asyncio.sleep(1)
            assert len(stores.sent) == sent, "the relay sent events after it was stopped"
            async with stores.relaying():
                pass
            assert stores.rows == {}
            for reservation_id in range(3):
                ids = stores.events_sent(reservation_id)
                assert ids == sorted(ids)
            assert len(stores.published_at) == 20

        return scene

    for step in range(400):
        play(scene_of(step * 0.0002))


def test_failures_lose_nothing_and_keep_the_order() -> None:
    """The database or Kafka fails at random, before or after the effect."""

    def scene_of(seed: int) -> Scene:
        dice = random.Random(seed)

        def fail_sometimes() -> None:
            if dice.random() < 0.1:
                raise Unavailable("unavailable")

        async def scene(stores: FakeStores) -> None:
            stores.trouble = fail_sometimes
            async with stores.relaying():
                for _ in range(50):
                    stores.commit(reservation_id=dice.randrange(3))
                    await asyncio.sleep(dice.choice([0, 0.001, 0.01, 0.1]))
                await asyncio.sleep(60)
            assert stores.rows == {}
            assert len(stores.published_at) == 50
            for reservation_id in range(3):
                ids = stores.events_sent(reservation_id)
                assert ids == sorted(ids)

        return scene

    for seed in range(50):
        play(scene_of(seed))


def commit(stores: FakeStores, reservation_id: int) -> bytes:
    """Commits an event; returns its payload."""
    [payload] = stores.commit(reservation_id=reservation_id)
    return payload


class TestLostPartition:
    """The real producer over partitions in memory; Kafka does not acknowledge those in `lost`."""

    LOST = 2

    @pytest.fixture
    def partitions(self, monkeypatch: pytest.MonkeyPatch) -> Partitions:
        partitions = Partitions(TOPICS[PAYMENT_EVENTS])
        monkeypatch.setattr(producer, "AIOKafkaProducer", partitions.producer)
        return partitions

    @contextlib.asynccontextmanager
    async def relaying(self, stores: FakeStores) -> AsyncIterator[None]:
        async with (
            Producer("any") as usual,
            Producer("any") as backlog,
            Producer("any") as aside,
        ):
            relay = Relay(_Outbox(stores), usual, backlog, aside, stores.committed)
            task = asyncio.create_task(relay.run())
            yield
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def reservations(self, partitions: Partitions, number: int, count: int) -> list[int]:
        return [int(key) for key in partitions.keys(number, count)]

    @pytest.mark.parametrize("backlog", [1, BATCH + 1])
    def test_the_others_are_published_once_and_promptly(
        self, partitions: Partitions, backlog: int
    ) -> None:
        """While a partition is lost for two minutes, whatever waits for it."""
        partitions.lost = {self.LOST}
        dice = random.Random(4)
        lost = self.reservations(partitions, self.LOST, 20)
        others = [
            reservation
            for number in range(partitions.count)
            if number != self.LOST
            for reservation in self.reservations(partitions, number, 4)
        ]

        async def scene(stores: FakeStores) -> None:
            committed: dict[bytes, float] = {}
            of_lost = [commit(stores, dice.choice(lost)) for _ in range(backlog)]
            async with self.relaying(stores):
                while now() < 120:
                    if dice.random() < 0.1:
                        of_lost.append(commit(stores, dice.choice(lost)))
                    committed[commit(stores, dice.choice(others))] = now()
                    await asyncio.sleep(dice.expovariate(3))
                await asyncio.sleep(1)
                published = [value for _, value in partitions.published]
                assert sorted(published) == sorted(committed), "each once, and nothing is lost"
                waits = {p: partitions.published_at[p] - at for p, at in committed.items()}
                # The shards of the lost partition are put aside one after the other.
                assert max(waits.values()) <= PATIENCE_SECONDS + 2 * COLLECT_SECONDS
                later = [wait for p, wait in waits.items() if committed[p] > 60]
                assert max(later) < 2 * COLLECT_SECONDS
                assert len(stores.rows) == len(of_lost)

                partitions.lost = set()
                await asyncio.sleep(30)
            assert stores.rows == {}
            for reservation in lost:
                mine = [p for p in of_lost if p.startswith(b"%d " % reservation)]
                arrived = [p for p in partitions.values(self.LOST) if p in set(mine)]
                assert list(dict.fromkeys(arrived)) == mine, "in order"

        play(scene)

    def test_a_partition_that_refuses_delays_only_its_own(self, partitions: Partitions) -> None:
        partitions.refusing = {self.LOST}
        [refused] = self.reservations(partitions, self.LOST, 1)
        [other] = self.reservations(partitions, self.LOST + 1, 1)

        async def scene(stores: FakeStores) -> None:
            async with self.relaying(stores):
                for _ in range(50):
                    commit(stores, refused)
                    payload = commit(stores, other)
                    began = now()
                    await asyncio.sleep(1)
                    assert partitions.published_at[payload] - began < 0.1
            assert partitions.values(self.LOST) == []
            assert len(partitions.published) == 50

        play(scene)

    def test_a_delay_is_logged_once(
        self, partitions: Partitions, caplog: pytest.LogCaptureFixture
    ) -> None:
        partitions.lost = {self.LOST}
        reservations = self.reservations(partitions, self.LOST, 20)

        async def scene(stores: FakeStores) -> None:
            async with self.relaying(stores):
                for reservation in reservations:
                    commit(stores, reservation)
                    await asyncio.sleep(10)
                partitions.lost = set()
                await asyncio.sleep(30)
            assert stores.rows == {}

        with caplog.at_level("INFO"):
            play(scene)
        events = [record.message for record in caplog.records]
        assert events.count("outbox_delayed") == 1
        assert events.count("outbox_resumed") == 1


def test_a_shard_has_events_of_one_partition() -> None:
    assert SHARDS % TOPICS[PAYMENT_EVENTS] == 0


def test_an_event_waits_for_the_outcome_before_it() -> None:
    """Another replica has committed the failure of the payment before, and crashes."""

    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            stores.commit(elsewhere=True)
            stores.commit()
            stores.commit(reservation_id=2)
            await asyncio.sleep(1)
            assert stores.events_sent(1) == []
            assert stores.events_sent(2) == ["e000003"]
            await asyncio.sleep(OLD_SECONDS + POLL_SECONDS)
        assert stores.events_sent(1) == ["e000001", "e000002"]
        assert stores.rows == {}

    play(scene)


def test_what_does_not_fit_into_memory_is_sent_from_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("payment_service.outbox.CommittedEvents.__init__.__defaults__", (10,))

    async def scene(stores: FakeStores) -> None:
        async with stores.relaying():
            stores.commit(25)
            await asyncio.sleep(1)
            assert len(stores.events_sent(1)) == 10
            await asyncio.sleep(OLD_SECONDS + POLL_SECONDS)
        assert stores.rows == {}
        assert [len(batch) for batch in stores.sent] == [10, 15]

    play(scene)


def test_an_idle_relay_sets_no_timer_but_that_of_its_poll() -> None:
    async def scene(stores: FakeStores) -> None:
        async with stores.relaying(100 * POLL_SECONDS):
            assert len(stores.polls) <= 101
        assert stores.sent == []

    play(scene)
