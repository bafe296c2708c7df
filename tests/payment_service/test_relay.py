"""When the relay looks, what goes together, and that nothing is lost: on an outbox and a Kafka in
memory and in virtual time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from payment_service.domain import Event
from payment_service.events import EVENT_ID_HEADER
from payment_service.outbox import Outbox
from payment_service.relay import BATCH, COLLECT_SECONDS, POLL_SECONDS, Relay
from servicekit.errors import Unavailable
from servicekit.kafka import Producer, Record
from servicekit.mysql import Database, Transaction
from tests.servicekit.fake_kafka import in_virtual_time, now

# Round trips of the fakes: to lock, to publish, to delete and commit.
TRIP_SECONDS = 0.001
POLL_TAKES = 3 * TRIP_SECONDS
AN_INSTANT = 1e-6


class Office:
    """The outbox as it is committed, and what Kafka has."""

    def __init__(self) -> None:
        self.rows: dict[int, Event] = {}
        self.events: dict[str, Event] = {}
        self.came: dict[str, float] = {}
        self.left: dict[str, float] = {}
        self.looks: list[float] = []
        self.sent: list[list[Event]] = []
        self.committed = asyncio.Event()
        self.publish_seconds: Callable[[], float] = lambda: TRIP_SECONDS
        self.trouble: Callable[[], None] = lambda: None

    def commit(self, count: int = 1, *, reservation_id: int = 1, elsewhere: bool = False) -> None:
        """Events of one reservation, from this replica or from another one."""
        for _ in range(count):
            number = len(self.came)
            event = Event(f"e{number:06}", reservation_id, number, b"payload")
            self.rows[number] = event
            self.events[event.event_id] = event
            self.came[event.event_id] = now()
        if not elsewhere:
            self.committed.set()

    def waits(self) -> list[float]:
        """From the commit to Kafka, in seconds, of every event so far."""
        return [self.left[event_id] - came for event_id, came in self.came.items()]

    def events_sent(self, reservation_id: int) -> list[str]:
        """In order, each when it came first."""
        ids = [
            e.event_id for batch in self.sent for e in batch if e.reservation_id == reservation_id
        ]
        return list(dict.fromkeys(ids))

    @contextlib.asynccontextmanager
    async def relaying(self, seconds: float = 0.7) -> AsyncIterator[None]:
        """A relay that has had nothing to do for so many seconds; at the end it must stop at
        once."""
        relay = Relay(_Database(self), _Outbox(self), _Producer(self), self.committed)
        task = asyncio.create_task(relay.run())
        await asyncio.sleep(seconds)
        yield
        assert not task.done(), "it ended by itself"
        asked = now()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() - asked < AN_INSTANT, "it waited for something before it stopped"


class _Transaction(Transaction):
    def __init__(self) -> None:
        self.deleted: list[int] = []


class _Database(Database):
    def __init__(self, office: Office) -> None:
        self._office = office

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        transaction = _Transaction()
        yield transaction
        await asyncio.sleep(TRIP_SECONDS)
        for row_id in transaction.deleted:
            del self._office.rows[row_id]


class _Outbox(Outbox):
    def __init__(self, office: Office) -> None:
        self._office = office

    async def lock_batch(self, transaction: Transaction, limit: int) -> list[tuple[int, Event]]:
        self._office.looks.append(now())
        self._office.trouble()
        batch = list(self._office.rows.items())[:limit]
        # What is committed after the look is not in it.
        await asyncio.sleep(TRIP_SECONDS)
        return batch

    async def delete(self, transaction: Transaction, ids: Sequence[int]) -> None:
        assert isinstance(transaction, _Transaction)
        transaction.deleted += ids


class _Producer(Producer):
    def __init__(self, office: Office) -> None:
        self._office = office

    async def publish(self, records: Sequence[Record], timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await asyncio.sleep(self._office.publish_seconds())
        self._office.trouble()
        batch = [self._office.events[r.headers[EVENT_ID_HEADER].decode()] for r in records]
        assert [record.key for record in records] == [b"%d" % e.reservation_id for e in batch]
        self._office.sent.append(batch)
        for event in batch:
            self._office.left.setdefault(event.event_id, now())
        # Acknowledged a moment after Kafka has it.
        await asyncio.sleep(AN_INSTANT / 10)
        self._office.trouble()


Scene = Callable[[Office], Awaitable[None]]


def play(scene: Scene) -> Office:
    office = Office()

    async def main() -> None:
        async with asyncio.timeout(3600):
            await scene(office)

    in_virtual_time(main)
    return office


def test_an_event_that_comes_alone_goes_at_once() -> None:
    dice = random.Random(1)

    async def scene(office: Office) -> None:
        async with office.relaying():
            for _ in range(300):
                office.commit()
                # Not after a look that found nothing: from that, too, it pauses.
                await asyncio.sleep(dice.uniform(COLLECT_SECONDS + POLL_TAKES, POLL_SECONDS))
        assert max(office.waits()) <= POLL_TAKES
        assert office.rows == {}

    play(scene)


def test_what_is_committed_within_the_collecting_time_goes_together() -> None:
    async def scene(office: Office) -> None:
        async with office.relaying():
            # The first goes at once, those that follow it together.
            for _ in range(10):
                office.commit()
                await asyncio.sleep(COLLECT_SECONDS / 11)
            await asyncio.sleep(COLLECT_SECONDS)

    first, *rest = play(scene).sent
    assert len(first) == 1
    assert [len(batch) for batch in rest] == [9]


def test_a_stream_is_sent_in_few_looks_and_no_event_waits_long() -> None:
    dice = random.Random(2)

    async def scene(office: Office) -> None:
        async with office.relaying():
            office.looks.clear()
            began = now()
            for _ in range(2000):
                office.commit()
                await asyncio.sleep(dice.expovariate(300))
            assert len(office.looks) <= (now() - began) / COLLECT_SECONDS + 2
            await asyncio.sleep(1)
        assert max(office.waits()) <= COLLECT_SECONDS + POLL_TAKES
        assert office.rows == {}

    play(scene)


def test_an_event_of_any_moment_of_a_look_waits_for_the_next_and_no_longer() -> None:
    """The second one at steps of a tenth of a millisecond, from before the look for the first
    until after its collecting time. One that was overlooked would wait for half a second."""

    def scene_of(moment: float) -> Scene:
        async def scene(office: Office) -> None:
            async with office.relaying():
                office.commit()
                await asyncio.sleep(moment)
                office.commit()
                await asyncio.sleep(0.1)
            assert max(office.waits()) <= COLLECT_SECONDS + POLL_TAKES
            assert office.rows == {}

        return scene

    for step in range(300):
        play(scene_of(step * 0.0001))


def test_after_a_send_that_took_longer_than_the_collecting_the_next_goes_at_once() -> None:
    async def scene(office: Office) -> None:
        office.publish_seconds = lambda: 0.1
        async with office.relaying():
            office.commit()
            await asyncio.sleep(0.05)
            office.commit()
            await asyncio.sleep(0.5)
        first, second = office.waits()
        assert first <= 0.1 + POLL_TAKES
        assert second <= 0.05 + 0.1 + 2 * POLL_TAKES

    play(scene)


def test_what_another_replica_left_is_found() -> None:
    dice = random.Random(3)

    async def scene(office: Office) -> None:
        async with office.relaying():
            for _ in range(200):
                office.commit(elsewhere=True)
                await asyncio.sleep(dice.uniform(0.2, 2))
            await asyncio.sleep(1)
            # At rest it looks no oftener than it must.
            office.looks.clear()
            await asyncio.sleep(100 * POLL_SECONDS)
            assert len(office.looks) <= 100
        assert max(office.waits()) <= POLL_SECONDS + 2 * POLL_TAKES

    play(scene)


def test_full_batches_follow_each_other_without_a_pause() -> None:
    async def scene(office: Office) -> None:
        async with office.relaying():
            office.commit(10 * BATCH + 1)
            await asyncio.sleep(1)
        assert [len(batch) for batch in office.sent] == [BATCH] * 10 + [1]
        assert max(office.waits()) <= 11 * POLL_TAKES
        assert office.rows == {}

    play(scene)


def test_a_stop_at_any_moment_is_prompt_and_loses_nothing() -> None:
    """At steps of a fifth of a millisecond, over the idle waiting, the looks, the sending and the
    collecting."""

    def scene_of(moment: float) -> Scene:
        async def scene(office: Office) -> None:
            async def commit_some() -> None:
                for number in range(20):
                    await asyncio.sleep(0.003)
                    office.commit(reservation_id=number % 3)

            committing = asyncio.create_task(commit_some())
            async with office.relaying(moment):
                pass
            sent = len(office.sent)
            await committing
            await asyncio.sleep(1)
            assert len(office.sent) == sent, "it went on after its end"
            async with office.relaying():
                pass
            assert office.rows == {}
            for reservation_id in range(3):
                ids = office.events_sent(reservation_id)
                assert ids == sorted(ids)
            assert len(office.left) == 20

        return scene

    for step in range(400):
        play(scene_of(step * 0.0002))


def test_troubles_lose_nothing_and_keep_the_order() -> None:
    """The database or Kafka away at random, before or after the effect."""

    def scene_of(seed: int) -> Scene:
        dice = random.Random(seed)

        def fail_sometimes() -> None:
            if dice.random() < 0.1:
                raise Unavailable("away")

        async def scene(office: Office) -> None:
            office.trouble = fail_sometimes
            async with office.relaying():
                for _ in range(50):
                    office.commit(reservation_id=dice.randrange(3))
                    await asyncio.sleep(dice.choice([0, 0.001, 0.01, 0.1]))
                await asyncio.sleep(60)
            assert office.rows == {}
            assert len(office.left) == 50
            for reservation_id in range(3):
                ids = office.events_sent(reservation_id)
                assert ids == sorted(ids)

        return scene

    for seed in range(50):
        play(scene_of(seed))
