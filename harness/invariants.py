"""The invariants of the shop, in one list: fault tests, load tests and `verify` count these.

Each has a stable name and counts violations over everything that ever happened in the shop. Counts
are meaningful once the work in progress has ended (`settled` waits for it), except those of the
waiting room, which come from samples of Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import redis
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from google.protobuf.message import DecodeError
from pymysql.cursors import Cursor

from harness import stopping
from harness.errors import UserError
from protos.frontrow.payment.v1 import events_pb2
from protos.topics import PAYMENT_EVENTS

_KAFKA_SECONDS = 60.0
_REDIS_SECONDS = 2.0
_POLL_SECONDS = 0.2
# Kafka keeps events for a week, so older payments may have none.
_DAYS_OF_EVENTS = 1
# payment_service keeps failed payments and the sandbox provider's charges for a day at least. An
# hour less, because a payment ends a little after its event.
_HOURS_OF_ROWS = 23
# Reading everybody who is admitted to a larger room would itself be load.
_MOST_ADMITTED_READ = 5_000

#: A payment and its reservation. The payment of one seat must not count for another.
Pair = tuple[int | None, int | None]


class Published(NamedTuple):
    """An event on the topic."""

    kind: str
    occurred_at: datetime


@dataclass(frozen=True)
class Stores:
    """Where the facts are."""

    #: Opens a cursor in the schema `reservation` or `payment`.
    database: Callable[[str], AbstractContextManager[Cursor]]
    kafka_bootstrap: str
    redis_url: str


class RoomSamples:
    """What samples of a waiting room in Redis showed. Calls block for two seconds at most."""

    def __init__(self, redis_url: str, room: str = "main") -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=_REDIS_SECONDS)
        self._prefix = f"{{queue:{room}}}:"
        self.samples = 0
        self.over_capacity = 0
        self.most_waiting = 0
        #: Places that were admitted while an earlier one waited.
        self.overtakers: set[int] = set()

    def sample(self) -> None:
        """Takes one sample, unless nobody has entered the room yet. Raises `UserError`."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hget(self._prefix + "state", "capacity")
        pipe.zcard(self._prefix + "admitted")
        pipe.zcard(self._prefix + "waiting")
        pipe.zrange(self._prefix + "waiting", 0, 0)
        pipe.zrange(self._prefix + "admitted", 0, _MOST_ADMITTED_READ)
        try:
            capacity, admitted, waiting, first, places = pipe.execute()
        except redis.RedisError as error:
            raise UserError(
                "The waiting room's Redis does not answer: set QUEUE_REDIS_URL to where it is."
            ) from error
        if capacity is None:
            return
        self.samples += 1
        self.most_waiting = max(self.most_waiting, waiting)
        self.over_capacity += admitted > int(capacity)
        # Place numbers rise in the order of joining.
        if first:
            self.overtakers.update(place for place in map(int, places) if place > int(first[0]))

    def close(self) -> None:
        self._redis.close()


class Facts:
    """What the stores hold. Facts that several invariants read are read once."""

    def __init__(self, stores: Stores, room: RoomSamples) -> None:
        self._stores = stores
        self.room = room

    def rows(self, schema: str, sql: str) -> list[tuple[Any, ...]]:
        with self._stores.database(schema) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @cached_property
    def charged(self) -> list[tuple[Pair, Decimal]]:
        """Charges that were not refunded, by the sandbox provider's own book; of a payment that is
        not in it (another provider), by the payment."""
        rows = self.rows(
            "payment",
            """SELECT c.payment_id, p.reservation_id, c.amount
            FROM sandbox_charge c LEFT JOIN payment p ON p.id = c.payment_id
            WHERE c.status = 'APPROVED'
            UNION ALL
            SELECT p.id, p.reservation_id, p.amount
            FROM payment p LEFT JOIN sandbox_charge c ON c.payment_id = p.id
            WHERE c.payment_id IS NULL AND p.status = 'SUCCEEDED'""",
        )
        return [((payment, reservation), amount) for payment, reservation, amount in rows]

    @cached_property
    def confirmed(self) -> dict[Pair, Decimal]:
        """Confirmed reservations with their prices."""
        rows = self.rows(
            "reservation",
            "SELECT payment_id, id, price FROM reservation WHERE status = 'CONFIRMED'",
        )
        return {(payment, reservation): price for payment, reservation, price in rows}

    @cached_property
    def unfinished(self) -> set[int]:
        """Payments without an outcome."""
        rows = self.rows("payment", "SELECT id FROM payment WHERE status = 'INITIATED'")
        return {payment for (payment,) in rows}

    @cached_property
    def events(self) -> Mapping[int, dict[str, Published]]:
        """Payment → id of each event → the event. A repeated event has the same id again."""
        events: dict[int, dict[str, Published]] = defaultdict(dict)
        for record in stopping.run_async(read_topic(self._stores.kafka_bootstrap, PAYMENT_EVENTS)):
            try:
                event = events_pb2.PaymentEvent.FromString(record.value)
            except DecodeError:
                continue  # consumers put it on the dead-letter topic
            events[event.payment_id][event.event_id] = Published(
                event.WhichOneof("event") or "", event.occurred_at.ToDatetime(UTC)
            )
        return events


@dataclass(frozen=True)
class Invariant:
    name: str
    #: What must be true.
    sentence: str
    count: Callable[[Facts], int]


def _rows(schema: str, sql: str) -> Callable[[Facts], int]:
    """Counts the rows of a query."""
    return lambda facts: len(facts.rows(schema, sql))


def _stuck_in_payment(facts: Facts) -> int:
    paying = facts.rows(
        "reservation",
        "SELECT payment_id FROM reservation WHERE status = 'PAYING' AND lapses_at > NOW(6)",
    )
    return sum(payment not in facts.unfinished for (payment,) in paying)


def _wrong_events(facts: Facts) -> int:
    payments = facts.rows(
        "payment",
        f"""SELECT id, status, amount IS NOT NULL FROM payment
        WHERE updated_at > NOW(6) - INTERVAL {_DAYS_OF_EVENTS} DAY""",
    )
    return sum(
        sorted(event.kind for event in facts.events.get(payment, {}).values())
        not in _right_events(status, bool(charged))
        for payment, status, charged in payments
    )


def _right_events(status: str, charge_was_tried: bool) -> list[list[str]]:
    match status:
        case "SUCCEEDED":
            return [["succeeded"]]
        case "REFUNDED":
            return [["refunded", "succeeded"]]
        case "FAILED" if charge_was_tried:
            return [["failed"]]
        case _:
            # Rejected before the charge: with or without an event for the reservation.
            return [[], ["failed"]]


def _events_only(facts: Facts) -> int:
    known = {payment for (payment,) in facts.rows("payment", "SELECT id FROM payment")}
    kept_since = datetime.now(UTC) - timedelta(hours=_HOURS_OF_ROWS)
    return sum(
        any(event.kind != "failed" or event.occurred_at > kept_since for event in events.values())
        for payment, events in facts.events.items()
        if payment not in known
    )


#: Those that read Kafka come last, so that `settled` reads it once the others hold.
INVARIANTS = (
    Invariant(
        "seats_with_two_live_reservations",
        "A seat has at most one live reservation.",
        _rows(
            "reservation",
            """SELECT seat_id FROM reservation
            WHERE status = 'CONFIRMED' OR (status IN ('HELD', 'PAYING') AND lapses_at > NOW(6))
            GROUP BY seat_id HAVING COUNT(*) > 1""",
        ),
    ),
    Invariant(
        "places_with_two_paid_reservations",
        "Of the reservations of one place in a waiting room at most one is being paid or paid.",
        _rows(
            "reservation",
            """SELECT room, place_number FROM reservation
            WHERE place_number IS NOT NULL
              AND (status = 'CONFIRMED' OR (status = 'PAYING' AND lapses_at > NOW(6)))
            GROUP BY room, place_number HAVING COUNT(*) > 1""",
        ),
    ),
    Invariant(
        "reservations_charged_twice",
        "A reservation is charged at most once.",
        lambda facts: len(facts.charged) - len({pair[1] for pair, _ in facts.charged}),
    ),
    Invariant(
        "charges_without_a_seat",
        "Every charge that was not refunded pays for a confirmed reservation.",
        lambda facts: sum(pair not in facts.confirmed for pair, _ in facts.charged),
    ),
    Invariant(
        "seats_without_a_charge",
        "Every confirmed reservation was charged by its own payment.",
        lambda facts: len(facts.confirmed.keys() - dict(facts.charged).keys()),
    ),
    Invariant(
        "seats_charged_at_another_price",
        "A confirmed reservation was charged at its price.",
        lambda facts: sum(
            facts.confirmed.get(pair, amount) != amount for pair, amount in facts.charged
        ),
    ),
    Invariant(
        "payments_without_an_outcome",
        "Every payment has an outcome.",
        lambda facts: len(facts.unfinished),
    ),
    Invariant(
        "payments_unlike_the_book",
        "A payment has succeeded if and only if the sandbox provider's book has its charge.",
        # An empty book belongs to a shop with another provider. Old charges leave the book.
        _rows(
            "payment",
            f"""SELECT p.id FROM payment p LEFT JOIN sandbox_charge c ON c.payment_id = p.id
            WHERE (p.status = 'SUCCEEDED') <> (COALESCE(c.status, '') = 'APPROVED')
                AND (c.payment_id IS NOT NULL
                    OR p.updated_at > NOW(6) - INTERVAL {_HOURS_OF_ROWS} HOUR)
                AND EXISTS (SELECT 1 FROM sandbox_charge)""",
        ),
    ),
    Invariant(
        "reservations_stuck_in_payment",
        "A live reservation is in payment only while its payment has no outcome.",
        _stuck_in_payment,
    ),
    Invariant(
        "schedules_with_a_wrong_sold_count",
        "The sold count of a schedule is the number of its confirmed reservations.",
        _rows(
            "reservation",
            """SELECT COALESCE(MAX(s.sold), 0) counted, SUM(r.status = 'CONFIRMED') confirmed
            FROM reservation r LEFT JOIN schedule_sales s ON s.schedule_id = r.schedule_id
            GROUP BY r.schedule_id HAVING counted <> confirmed""",
        ),
    ),
    Invariant(
        "events_in_the_outbox",
        "Every event has been published.",
        _rows("payment", "SELECT event_id FROM outbox"),
    ),
    Invariant(
        "samples_over_capacity",
        "The waiting room never admits more people than its capacity.",
        lambda facts: facts.room.over_capacity,
    ),
    Invariant(
        "people_admitted_out_of_order",
        "Nobody is admitted while a person who joined earlier waits.",
        lambda facts: len(facts.room.overtakers),
    ),
    Invariant(
        "payments_with_wrong_events",
        "Each outcome of a payment has exactly one event, however often it was published.",
        _wrong_events,
    ),
    Invariant("payments_with_events_only", "Every event belongs to a payment.", _events_only),
)


def settled(
    stores: Stores, room: RoomSamples | None = None, *, within: float = 45.0
) -> dict[str, int]:
    """Counts the violations of each invariant, by name, as soon as all hold, at the latest after
    `within` seconds. Adds samples to those of `room`, if it is given.

    Recovery and consumers need the time: a consumer group notices a member that was killed after
    ten seconds. Blocks. Raises `UserError` if Kafka or Redis cannot be read, `Stopped`, and what
    `stores.database` raises.
    """
    deadline = time.monotonic() + within
    room = room or RoomSamples(stores.redis_url)
    while True:
        room.sample()
        facts = Facts(stores, room)
        if time.monotonic() >= deadline or not any(each.count(facts) for each in INVARIANTS):
            return {each.name: each.count(facts) for each in INVARIANTS}
        stopping.wait(_POLL_SECONDS)


def violated(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0."""
    return {name: number for name, number in counts.items() if number}


async def read_topic(bootstrap: str, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
    """Reads everything on the topic; within a partition in order. Raises `UserError`."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    found: list[ConsumerRecord[bytes, bytes]] = []
    try:
        async with asyncio.timeout(_KAFKA_SECONDS):
            await consumer.start()
            partitions = consumer.assignment()
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
    except (KafkaError, TimeoutError) as error:
        raise UserError(
            f"Kafka at {bootstrap} cannot be read: set QUEUE_KAFKA_BOOTSTRAP to where it is."
        ) from error
    finally:
        await consumer.stop()
    return found
