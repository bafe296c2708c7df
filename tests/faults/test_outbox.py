"""Events: none lost while Kafka is unavailable, none counted twice, none stuck behind a bad one."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from harness.files import REPOSITORY
from harness.local.stack import Stack
from protos.topics import PAYMENT_EVENTS, QUEUE_GROUP, RESERVATION_GROUP, TOPICS
from tests.e2e.conftest import in_thread
from tests.e2e.shop import DECLINED, Fan, Shop, assert_problem, eventually, sandbox_user
from tests.faults.invariants import assert_all_hold

PAYERS = 50
DECLINES = 4
DEAD_LETTERS = f"{PAYMENT_EVENTS}.dlq"
GROUPS = (RESERVATION_GROUP, QUEUE_GROUP)


async def publish(stack: Stack, records: Sequence[tuple[int, bytes, bytes, Any]]) -> None:
    """Puts records (partition, key, value, headers) on payment.events."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap, acks="all")
    await producer.start()
    try:
        for partition, key, value, headers in records:
            await producer.send_and_wait(
                PAYMENT_EVENTS, key=key, value=value, partition=partition, headers=headers
            )
    finally:
        await producer.stop()


async def everything_consumed(stack: Stack) -> None:
    """Waits until both groups have committed the end of every partition."""
    partitions = [
        TopicPartition(PAYMENT_EVENTS, number) for number in range(TOPICS[PAYMENT_EVENTS])
    ]
    for group in GROUPS:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=stack.kafka_bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign(partitions)

            async def at_the_end(consumer: AIOKafkaConsumer = consumer) -> None:
                ends = await consumer.end_offsets(partitions)
                for partition, end in ends.items():
                    assert (await consumer.committed(partition) or 0) == end

            await eventually(at_the_end, within=30, every=0.2)
        finally:
            await consumer.stop()


def state(shop: Shop, date_id: int) -> list[list[tuple[Any, ...]]]:
    """Everything that events may change in the databases. Holds of other dates than this one may
    expire meanwhile."""
    return [
        shop.rows(
            "reservation",
            """SELECT id, status, payment_id, updated_at FROM reservation
            WHERE schedule_id = %s OR status NOT IN ('HELD', 'EXPIRED') ORDER BY id""",
            date_id,
        ),
        shop.rows("reservation", "SELECT * FROM schedule_sales ORDER BY schedule_id"),
        shop.rows("reservation", "SELECT * FROM lost_seat ORDER BY payment_id"),
        shop.rows("payment", "SELECT id, status, updated_at FROM payment ORDER BY id"),
        shop.rows("payment", "SELECT payment_id, status FROM sandbox_charge ORDER BY payment_id"),
    ]


async def dead_letters_command(stack: Stack, command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "servicekit.dead_letters", command, DEAD_LETTERS),
        *("--bootstrap", stack.kafka_bootstrap),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_payments_go_on_without_kafka_and_their_events_follow(
    shop: Shop, stack: Stack
) -> None:
    date_ = shop.new_schedule(seats=PAYERS + 1)
    fans = await shop.crowd(PAYERS)
    unlucky = await shop.admitted(user_id=sandbox_user(DECLINED))
    reservations = [await fan.hold(seat) for fan, seat in zip(fans, date_.seats, strict=False)]
    declined = await unlucky.hold(date_.seats[-1])
    ours = [*reservations, declined]

    await in_thread(stack.kafka.kill)
    paid = await asyncio.gather(
        *(fan.pay(reservation) for fan, reservation in zip(fans, reservations, strict=True))
    )
    assert {reply.status_code for reply in paid} == {200}
    for _ in range(DECLINES):
        assert_problem(await unlucky.pay(declined), 402, "PAYMENT_DECLINED")
    assert (
        shop.number("payment", "SELECT COUNT(*) FROM payment WHERE unsent_shard IS NOT NULL")
        == PAYERS + DECLINES
    )
    # The seats are safe meanwhile, though not yet confirmed.
    other = await shop.admitted()
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")

    await in_thread(stack.kafka.start)

    async def confirmed() -> None:
        count = shop.number(
            "reservation",
            "SELECT COUNT(*) FROM reservation WHERE schedule_id = %s AND status = 'CONFIRMED'",
            date_.id,
        )
        assert count == PAYERS

    await eventually(confirmed, within=45)
    await assert_all_hold(shop)
    events = await shop.payment_events(ours)
    for reservation, reply in zip(reservations, paid, strict=True):
        (event,) = _without_repeats(events[reservation])
        assert event.HasField("succeeded")
        assert event.payment_id == reply.json()["paymentId"]
    attempts = [event.payment_id for event in _without_repeats(events[declined])]
    assert len(attempts) == DECLINES
    assert attempts == sorted(attempts)
    # All have left the shop: the other group has joined again too.
    await asyncio.gather(*(fan.until_out(within=45) for fan in fans))


def _without_repeats(events: Sequence[Any]) -> list[Any]:
    """Each event once, in the order of its first delivery."""
    return list({event.event_id: event for event in reversed(events)}.values())[::-1]


async def test_a_second_delivery_changes_nothing(shop: Shop, stack: Stack) -> None:
    date_ = shop.new_schedule()
    fans = await shop.crowd(3)
    unlucky = await shop.admitted(user_id=sandbox_user(DECLINED))
    for fan, seat in zip(fans, date_.seats, strict=False):
        assert (await fan.pay(await fan.hold(seat))).status_code == 200
    declined = await unlucky.hold(date_.seats[4])
    assert_problem(await unlucky.pay(declined), 402, "PAYMENT_DECLINED")
    await assert_all_hold(shop)
    await everything_consumed(stack)
    # A user who enters again after paying has a new place, which the old event must not end.
    again = await shop.admitted(user_id=fans[0].user_id)
    # Nor may the old decline disturb a newer hold of the same seat.
    assert (await unlucky.cancel(declined)).status_code == 204
    newer = await again.hold(date_.seats[4])
    before = state(shop, date_.id)

    records = await shop.records(PAYMENT_EVENTS)
    assert len(records) >= 4
    for _ in range(2):
        await publish(stack, [(r.partition, r.key, r.value, list(r.headers)) for r in records])
    await everything_consumed(stack)
    assert state(shop, date_.id) == before
    assert (await again.concerts()).status_code == 200
    assert (await again.pay(newer)).status_code == 200
    await assert_all_hold(shop)


async def test_a_bad_record_goes_to_the_dead_letters_and_the_rest_goes_on(
    shop: Shop, stack: Stack
) -> None:
    await dead_letters_command(stack, "replay")
    await everything_consumed(stack)
    known = len(await shop.records(DEAD_LETTERS))
    garbage = b"\xff not an event"
    headers = [("event-id", b"no-event")]
    await publish(
        stack, [(number, b"bad", garbage, headers) for number in range(TOPICS[PAYMENT_EVENTS])]
    )
    # In whatever partition it lands, it is behind a bad one.
    date_ = shop.new_schedule()
    fan = await shop.admitted()
    reservation = await fan.hold(date_.seats[0])
    assert (await fan.pay(reservation)).status_code == 200

    async def confirmed() -> None:
        assert (await fan.reservation(reservation)).json()["status"] == "CONFIRMED"

    await eventually(confirmed, within=30)
    await fan.until_out()
    await everything_consumed(stack)
    letters = (await shop.records(DEAD_LETTERS))[known:]
    # One for each partition from each group.
    assert len(letters) == TOPICS[PAYMENT_EVENTS] * len(GROUPS)
    for letter in letters:
        assert (letter.key, letter.value) == (b"bad", garbage)
        headers_of_letter = dict(letter.headers)
        assert headers_of_letter["event-id"] == b"no-event"
        assert headers_of_letter["dlq-topic"] == PAYMENT_EVENTS.encode()
        assert headers_of_letter["dlq-group"].decode() in GROUPS
        assert headers_of_letter["dlq-error"]
    assert str(known + len(letters)) in await dead_letters_command(stack, "list")
    # Replayed, they are as bad as before and come back; nothing else happens.
    before = state(shop, date_.id)
    assert f"{len(letters)} replayed" in await dead_letters_command(stack, "replay")
    await everything_consumed(stack)
    assert state(shop, date_.id) == before
    assert len(await shop.records(DEAD_LETTERS)) == known + 2 * len(letters)
    await assert_all_hold(shop)


async def test_what_failed_is_replayed_once_its_cause_is_mended(shop: Shop, stack: Stack) -> None:
    """A table that is missing, as after a migration that was forgotten."""
    date_ = shop.new_schedule(seats=3)
    fans: list[Fan] = await shop.crowd(3)
    reservations = [await fan.hold(seat) for fan, seat in zip(fans, date_.seats, strict=True)]
    await dead_letters_command(stack, "replay")
    await everything_consumed(stack)
    known = len(await shop.records(DEAD_LETTERS))

    with stack.mariadb.administrator("reservation") as cursor:
        cursor.execute("RENAME TABLE schedule_sales TO schedule_sales_renamed")
        try:
            for fan, reservation in zip(fans, reservations, strict=True):
                assert (await fan.pay(reservation)).status_code == 200

            async def given_up() -> None:
                letters = (await shop.records(DEAD_LETTERS))[known:]
                assert {letter.key for letter in letters} >= {
                    str(reservation).encode() for reservation in reservations
                }

            await eventually(given_up, within=30, every=0.3)
        finally:
            cursor.execute("RENAME TABLE schedule_sales_renamed TO schedule_sales")
    # Paid for and not confirmed, but nobody else's either.
    for fan, reservation in zip(fans, reservations, strict=True):
        assert (await fan.reservation(reservation)).json()["status"] == "PAYING"

    assert "replayed" in await dead_letters_command(stack, "replay")

    async def confirmed() -> None:
        for fan, reservation in zip(fans, reservations, strict=True):
            assert (await fan.reservation(reservation)).json()["status"] == "CONFIRMED"

    await eventually(confirmed, within=30)
    await assert_all_hold(shop)
    # Again there is nothing to replay but what is bad for ever.
    await everything_consumed(stack)
    await dead_letters_command(stack, "replay")
    await assert_all_hold(shop)
