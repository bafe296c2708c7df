"""What the stores of the shop hold: what `invariants` judges."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
# Reading everybody who is admitted to a larger room would itself be load.
_MOST_ADMITTED_READ = 5_000

#: A payment and its reservation. The payment of one seat must not count for another.
Pair = tuple[int | None, int | None]


class Published(NamedTuple):
    """An event on the topic."""

    kind: str
    occurred_at: datetime


class SeatLimits(NamedTuple):
    """How many seats a user may have; 0 for any number."""

    #: Held and not paid.
    unpaid: int = 8
    #: Held or bought, of one schedule.
    of_schedule: int = 8

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> SeatLimits:
        """Reads the settings of reservation_service."""
        return cls(
            int(environ.get("RESERVATION_MAX_SEATS", cls().unpaid)),
            int(environ.get("RESERVATION_MAX_SEATS_PER_SCHEDULE", cls().of_schedule)),
        )


@dataclass(frozen=True)
class Stores:
    """Where the facts are, and what limits the shop has."""

    #: Opens a cursor in the schema `reservation` or `payment`.
    database: Callable[[str], AbstractContextManager[Cursor]]
    kafka_bootstrap: str
    redis_url: str
    limits: SeatLimits = field(default_factory=SeatLimits)


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
        self.limits = stores.limits
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
            # Those of the house are not for sale.
            "SELECT payment_id, id, price FROM reservation WHERE status = 'CONFIRMED' AND id > 0",
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
