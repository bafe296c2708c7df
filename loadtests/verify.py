"""What must be true after any load, counted in the databases and the topic: all counts are 0.

    python -m loadtests.verify      of the running system; exit status 1 if any is not

The places of the waiting room are looked at while the load runs, see `watch`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from google.protobuf.message import DecodeError

from harness import stopping
from harness.errors import UserError
from harness.local import Ports
from loadtests import command
from loadtests.opening import opened
from loadtests.target import Target
from loadtests.watch import Watch
from protos.frontrow.payment.v1 import events_pb2
from protos.topics import PAYMENT_EVENTS

# Kafka keeps events for a week; older payments cannot be held against the topic.
_DAYS_OF_EVENTS = 1
_KAFKA_SECONDS = 60.0

_TWO_LIVE = """
    SELECT COUNT(*) FROM (
        SELECT seat_id FROM reservation
        WHERE status = 'CONFIRMED'
            OR (status IN ('HELD', 'PAYING') AND lapses_at > NOW(6))
        GROUP BY seat_id HAVING COUNT(*) > 1) twice
"""
_CONFIRMED = "SELECT payment_id, id FROM reservation WHERE status = 'CONFIRMED'"
# Money is where the provider's own book says it is; without that book (another provider than
# the sandbox), where the payment says.
_CHARGED = """
    SELECT p.id, p.reservation_id FROM payment p LEFT JOIN sandbox_charge c ON c.payment_id = p.id
    WHERE COALESCE(c.status = 'APPROVED', p.status = 'SUCCEEDED')
"""
_UNENDED = "SELECT COUNT(*) FROM payment WHERE status = 'INITIATED'"
# A refund has an event of its own.
_TO_BE_TOLD = f"""
    SELECT id, status FROM payment
    WHERE status IN ('SUCCEEDED', 'REFUNDED')
        AND updated_at > NOW(6) - INTERVAL {_DAYS_OF_EVENTS} DAY
"""

#: Status of a payment -> its event, as the topic calls it.
_EVENTS = {"SUCCEEDED": "succeeded", "REFUNDED": "refunded"}


def settled(target: Target, *, within: float = 45.0) -> dict[str, int]:
    """The counts, once everything that is under way has had time to end: as soon as all are 0,
    at the latest after so many seconds. Raises UserError if a store cannot be read."""
    deadline = time.monotonic() + within
    while True:
        counts = count(target)
        if not any(counts.values()) or time.monotonic() > deadline:
            return counts
        stopping.wait(1)


def count(target: Target) -> dict[str, int]:
    """How often each is violated now."""
    with target.database("payment") as cursor:
        cursor.execute(_UNENDED)
        row = cursor.fetchone()
        unended = int(row[0]) if row else 0
        cursor.execute(_TO_BE_TOLD)
        to_be_told = {(row[0], _EVENTS[row[1]]) for row in cursor.fetchall()}
        cursor.execute(_CHARGED)
        charged: list[tuple[int, int]] = list(cursor.fetchall())
    # In this order, so that what is confirmed meanwhile does not look uncharged.
    with target.database("reservation") as cursor:
        cursor.execute(_CONFIRMED)
        confirmed: list[tuple[int | None, int]] = list(cursor.fetchall())
        cursor.execute(_TWO_LIVE)
        row = cursor.fetchone()
        two_live = int(row[0]) if row else 0
    told = stopping.run_async(_payments_told(target.kafka_bootstrap))
    # A payment and its reservation as pairs: money for one seat does not pay for another.
    paid, sold = set(charged), set(confirmed)
    return {
        "seats with two live reservations": two_live,
        "reservations charged twice": len(charged) - len({of for _, of in charged}),
        "charged and not confirmed": sum(pair not in sold for pair in charged),
        "confirmed and not charged": sum(pair not in paid for pair in confirmed),
        "payments without an end": unended,
        "payments without an event": len(to_be_told - told),
    }


async def _payments_told(bootstrap: str) -> set[tuple[int, str]]:
    """Payments, and what the topic tells of them."""
    consumer = AIOKafkaConsumer(
        PAYMENT_EVENTS,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    told: set[tuple[int, str]] = set()
    try:
        async with asyncio.timeout(_KAFKA_SECONDS):
            await consumer.start()
            partitions = consumer.assignment()
            if not partitions:
                raise UserError(f"Kafka at {bootstrap} has no topic {PAYMENT_EVENTS}.")
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        try:
                            event = events_pb2.PaymentEvent.FromString(record.value)
                        except DecodeError:
                            continue  # a poison message, which is the business of the consumers
                        told.add((event.payment_id, event.WhichOneof("event") or ""))
    except (KafkaError, TimeoutError) as error:
        raise UserError(
            f"Kafka at {bootstrap} cannot be read: set QUEUE_KAFKA_BOOTSTRAP to where it is."
        ) from error
    finally:
        await consumer.stop()
    return told


def lines(counts: Mapping[str, int]) -> str:
    """The counts for people, one a line."""
    return "\n".join(
        f"  {number:>6,}  {what}{'' if number == 0 else '   VIOLATED'}"
        for what, number in counts.items()
    )


def main(argv: Sequence[str]) -> int:
    return command.run(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    command.Parser("verify", __doc__).parse_args(argv)
    usual = f"http://{Ports.from_environ(os.environ).address('gateway')}"
    # Given, so that no stack is started if nothing runs.
    environ = {"BASE_URL": usual, **os.environ}
    with opened(environ, "none") as target:
        with Watch(target, {}) as watch:
            counts = settled(target)
        counts["samples with more admitted than the capacity"] = watch.room.over_capacity
        counts["people admitted out of order"] = len(watch.room.overtakers)
    print(lines(counts))
    return 1 if any(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
