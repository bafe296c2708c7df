"""Every invariant is violated once in real stores, and counted."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import redis
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from harness import facts, invariants
from harness.errors import UserError
from harness.facts import RoomSamples, SeatLimits, Stores
from harness.invariants import settled
from harness.local import Stack
from protos.frontrow.payment.v1 import events_pb2

ROOM = [f"{{queue:main}}:{key}" for key in ("state", "admitted", "waiting")]

EMPTY = [
    f"DELETE FROM {table}"
    for table in (
        "reservation.reservation",
        "reservation.reservation_seat",
        "reservation.seat_claim",
        "reservation.schedule_sales",
        "reservation.closed_schedule",
        "payment.payment",
        "payment.sandbox_charge",
    )
]
# Two seats that the house has, two that were sold, one whose money went back, one whose payment was
# declined, and a payment that was rejected before the charge.
ORDINARY = [
    """INSERT INTO reservation.reservation (id, status, payment_id, seats, price, user_id, seat_id,
        schedule_id, seat_num, held_until, lapses_at, created_at, updated_at)
    SELECT id, status, payment_id, seats, 10, 1, id, 1, 'A1', NOW(6), NOW(6) + INTERVAL 1 HOUR,
        NOW(6), NOW(6)
    FROM (SELECT 1 id, 'CONFIRMED' status, 7 payment_id, 2 seats UNION SELECT 2, 'EXPIRED', 8, 1
        UNION SELECT 3, 'HELD', NULL, 1 UNION SELECT 4, 'HELD', NULL, 1) ordinary""",
    """INSERT INTO reservation.reservation_seat (reservation_id, seat_id, seat_num, price)
    VALUES (1, 1, 'A1', 6), (1, 11, 'A2', 4), (2, 2, 'A1', 10), (3, 3, 'A1', 10),
        (4, 4, 'A1', 10)""",
    """INSERT INTO reservation.seat_claim (seat_id, reservation_id, schedule_id)
    VALUES (1, 1, 1), (2, 0, 1), (3, 3, 1), (4, 4, 1), (11, 1, 1)""",
    """INSERT INTO reservation.reservation (id, status, seats, price, user_id, seat_id, schedule_id,
        seat_num, held_until, lapses_at, created_at, updated_at)
    VALUES (-1, 'CONFIRMED', 0, 0, 0, 0, 1, '', NOW(6), NOW(6), NOW(6), NOW(6))""",
    """INSERT INTO reservation.seat_claim (seat_id, reservation_id, schedule_id)
    VALUES (21, -1, 1), (22, -1, 1)""",
    "INSERT INTO reservation.schedule_sales (schedule_id, sold, blocked) VALUES (1, 2, 2)",
    """INSERT INTO payment.payment (id, reservation_id, user_id, status, amount, driven_until)
    VALUES
        (7, 1, 1, 'SUCCEEDED', 10, NOW(6)), (8, 2, 1, 'REFUNDED', 10, NOW(6)),
        (9, 3, 1, 'FAILED', 10, NOW(6)), (10, 4, 1, 'FAILED', NULL, NOW(6))""",
    """INSERT INTO payment.sandbox_charge (payment_id, user_id, amount, status) VALUES
        (7, 1, 10, 'APPROVED'), (8, 1, 10, 'REFUNDED'), (9, 1, 10, 'DECLINED')""",
]
EVENTS = [
    events_pb2.PaymentEvent(event_id="a", payment_id=7, succeeded=events_pb2.PaymentSucceeded()),
    events_pb2.PaymentEvent(event_id="b", payment_id=8, succeeded=events_pb2.PaymentSucceeded()),
    events_pb2.PaymentEvent(event_id="c", payment_id=8, refunded=events_pb2.PaymentRefunded()),
    events_pb2.PaymentEvent(event_id="d", payment_id=9, failed=events_pb2.PaymentFailed()),
]
for event in EVENTS:
    event.occurred_at.GetCurrentTime()
# Two days old, so that its events may have been deleted.
OLD_PAYMENT = """INSERT INTO payment.payment
    (id, reservation_id, user_id, status, amount, driven_until, updated_at)
    VALUES (11, {}, 2, '{}', 10, NOW(6), NOW(6) - INTERVAL 2 DAY)"""
CHARGE = """INSERT INTO payment.sandbox_charge (payment_id, user_id, amount, status)
    VALUES ({}, 2, 10, 'APPROVED')"""
EXPIRED = """UPDATE reservation.reservation r
    JOIN reservation.seat_claim c ON c.reservation_id = r.id
    SET r.status = 'EXPIRED', c.reservation_id = 0 WHERE r.id = 1"""
SOLD = "UPDATE reservation.schedule_sales SET sold = {}"
UNSOLD = SOLD.format(0)
MONEY_BACK = "UPDATE payment.sandbox_charge SET status = 'REFUNDED' WHERE payment_id = 7"

# What happened → statements that make it happen, and the violations.
VIOLATIONS: dict[str, tuple[list[str], dict[str, int]]] = {
    "nothing": ([], {}),
    "a payment without a seat": ([EXPIRED, UNSOLD], {"charges_without_a_seat": 1}),
    "a charge that no payment knows": ([CHARGE.format(12)], {"charges_without_a_seat": 1}),
    "a seat whose payment was another seat's": (
        [
            """UPDATE reservation.reservation SET status = 'CONFIRMED', payment_id = 7
            WHERE id IN (3, 4)""",
            SOLD.format(4),
        ],
        {"seats_without_a_charge": 2},
    ),
    "a seat of an unknown payment": (
        ["UPDATE reservation.reservation SET payment_id = NULL WHERE id = 1"],
        {"charges_without_a_seat": 1, "seats_without_a_charge": 1},
    ),
    "a second charge": (
        [OLD_PAYMENT.format(1, "SUCCEEDED"), CHARGE.format(11)],
        {"reservations_charged_twice": 1, "charges_without_a_seat": 1},
    ),
    "another price": (
        ["UPDATE payment.sandbox_charge SET amount = 9.99 WHERE payment_id = 7"],
        {"seats_charged_at_another_price": 1},
    ),
    "no outcome": ([OLD_PAYMENT.format(5, "INITIATED")], {"payments_without_an_outcome": 1}),
    "a charge that the provider gave back": (
        [MONEY_BACK],
        {"seats_without_a_charge": 1, "payments_unlike_the_book": 1},
    ),
    "a success that the provider does not know": (
        ["DELETE FROM payment.sandbox_charge WHERE payment_id = 7"],
        {"payments_unlike_the_book": 1},
    ),
    "old rows that were removed": (
        [
            # The seat was sold two days ago, by a provider that keeps its book for a day.
            "UPDATE payment.payment SET updated_at = NOW(6) - INTERVAL 2 DAY WHERE id = 7",
            "DELETE FROM payment.sandbox_charge WHERE payment_id IN (7, 9)",
            "DELETE FROM payment.payment WHERE id = 10",
            "DELETE FROM reservation.reservation WHERE id IN (2, 4)",
            "DELETE FROM reservation.reservation_seat WHERE reservation_id IN (2, 4)",
            "UPDATE reservation.seat_claim SET reservation_id = 0 WHERE reservation_id = 4",
        ],
        {},
    ),
    "another provider, a payment without a seat": (
        ["DELETE FROM payment.sandbox_charge", EXPIRED, UNSOLD],
        {"charges_without_a_seat": 1},
    ),
    "a payment that the seat still waits for": (
        ["UPDATE reservation.reservation SET status = 'PAYING', payment_id = 9 WHERE id = 3"],
        {"reservations_stuck_in_payment": 1},
    ),
    "a seat that stayed claimed": (
        ["UPDATE reservation.reservation SET status = 'CANCELLED' WHERE id = 3"],
        {"claims_of_no_live_reservation": 1},
    ),
    "seats of a reservation that was removed": (
        ["DELETE FROM reservation.reservation WHERE id = 3"],
        {"claims_of_no_live_reservation": 1},
    ),
    "a claim of a seat that the reservation does not have": (
        ["UPDATE reservation.seat_claim SET reservation_id = 3 WHERE seat_id = 2"],
        {"claims_of_no_live_reservation": 1},
    ),
    "a claim of another schedule": (
        ["UPDATE reservation.seat_claim SET schedule_id = 2 WHERE seat_id = 3"],
        {"claims_of_no_live_reservation": 1},
    ),
    "one of two seats is free": (
        ["UPDATE reservation.seat_claim SET reservation_id = 0 WHERE seat_id = 11"],
        {"live_reservations_of_a_part": 1},
    ),
    "one of two seats is not there": (
        ["DELETE FROM reservation.seat_claim WHERE seat_id = 11"],
        {"live_reservations_of_a_part": 1},
    ),
    "another reservation has one of two seats": (
        ["UPDATE reservation.seat_claim SET reservation_id = 3 WHERE seat_id = 11"],
        {"claims_of_no_live_reservation": 1, "live_reservations_of_a_part": 1},
    ),
    "a seat of an ended reservation is gone": (
        ["DELETE FROM reservation.reservation_seat WHERE reservation_id = 2"],
        {"reservations_unlike_their_seats": 1},
    ),
    "a total that is not the sum": (
        ["UPDATE reservation.reservation_seat SET price = 4.01 WHERE seat_id = 11"],
        {"reservations_unlike_their_seats": 1},
    ),
    "another first seat": (
        ["UPDATE reservation.reservation SET seat_id = 11, seat_num = 'A2' WHERE id = 1"],
        {"reservations_unlike_their_seats": 1},
    ),
    "another name of the first seat": (
        ["UPDATE reservation.reservation SET seat_num = 'A2' WHERE id = 3"],
        {"reservations_unlike_their_seats": 1},
    ),
    "the house has a seat without its reservation": (
        ["UPDATE reservation.reservation SET schedule_id = 2 WHERE id = -1"],
        {"claims_of_no_house": 2},
    ),
    "the house took a seat that was sold": (
        [
            "UPDATE reservation.seat_claim SET reservation_id = -1 WHERE seat_id = 1",
            "UPDATE reservation.schedule_sales SET blocked = 3",
        ],
        {"seats_of_the_house_and_of_a_user": 1, "live_reservations_of_a_part": 1},
    ),
    "the house took a seat whose hold had run out": (
        [
            "UPDATE reservation.reservation SET lapses_at = NOW(6) WHERE id = 3",
            "UPDATE reservation.seat_claim SET reservation_id = -1 WHERE seat_id = 3",
            "UPDATE reservation.schedule_sales SET blocked = 3",
        ],
        # Nobody has expired it.
        {"live_reservations_of_a_part": 1},
    ),
    "a seat that was released": (
        [
            "UPDATE reservation.seat_claim SET reservation_id = 0 WHERE seat_id = 21",
            "UPDATE reservation.schedule_sales SET blocked = 1",
        ],
        {},
    ),
    "a wrong blocked count": (
        ["UPDATE reservation.seat_claim SET reservation_id = 0 WHERE seat_id = 21"],
        {"schedules_with_a_wrong_blocked_count": 1},
    ),
    "holds of a closed schedule": (
        ["INSERT INTO reservation.closed_schedule VALUES (1, NOW(6))"],
        {"holds_of_closed_schedules": 2},
    ),
    "a wrong sold count": ([UNSOLD], {"schedules_with_a_wrong_sold_count": 1}),
    "an event that was not published": (
        [
            "UPDATE payment.payment SET unsent = 1, unsent_shard = 0 WHERE id = 7",
        ],
        {"events_in_the_outbox": 1},
    ),
    "a refund without its event": (
        [
            "UPDATE payment.payment SET status = 'REFUNDED' WHERE id IN (7, 9)",
            MONEY_BACK,
            EXPIRED,
            UNSOLD,
        ],
        {"payments_with_wrong_events": 2},
    ),
    "the events of another payment": (
        ["UPDATE payment.payment SET id = 12 WHERE id = 9"],
        {"payments_with_wrong_events": 1, "payments_with_events_only": 1},
    ),
}


def topic_with(bootstrap: str, events: Sequence[events_pb2.PaymentEvent]) -> str:
    """Makes a topic of its own with these events and a record that is no event."""
    topic = f"invariants-{uuid.uuid4()}"

    async def fill() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, 2, 1)])
            await producer.start()
            for value in (b"\xff", *(event.SerializeToString() for event in events)):
                await producer.send_and_wait(topic, value)
        finally:
            await producer.stop()
            await admin.close()

    asyncio.run(fill())
    return topic


@pytest.fixture(scope="module")
def topic(kafka_bootstrap: str) -> str:
    return topic_with(kafka_bootstrap, EVENTS)


@pytest.fixture
def stores(
    servers: Stack,
    mysql_urls: dict[str, str],
    kafka_bootstrap: str,
    redis_url: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stores]:
    """The stores of an ordinary shop."""
    monkeypatch.setattr(facts, "PAYMENT_EVENTS", topic)
    stores = Stores(servers.mariadb.administrator, kafka_bootstrap, redis_url)
    execute(stores, *EMPTY, *ORDINARY)
    with redis.Redis.from_url(redis_url) as connection:
        connection.delete(*ROOM)
        yield stores
        connection.delete(*ROOM)
    execute(stores, *EMPTY)


def execute(stores: Stores, *statements: str) -> None:
    with stores.database("payment") as cursor:
        for statement in statements:
            cursor.execute(statement)


def violated(stores: Stores) -> dict[str, int]:
    return invariants.violated(settled(stores, within=0))


@pytest.mark.parametrize(("statements", "expected"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_is_counted(
    stores: Stores, statements: list[str], expected: dict[str, int]
) -> None:
    execute(stores, *statements)
    assert violated(stores) == expected


def test_two_live_reservations_of_a_seat_are_counted(stores: Stores) -> None:
    """One of them has no claim."""
    execute(
        stores,
        "UPDATE reservation.reservation SET seats = 2, price = 20 WHERE id = 3",
        """INSERT INTO reservation.reservation_seat (reservation_id, seat_id, seat_num, price)
        VALUES (3, 11, 'A2', 10)""",
    )
    assert violated(stores) == {
        "seats_with_two_live_reservations": 1,
        "live_reservations_of_a_part": 1,
    }


HALL = "UPDATE reservation.reservation SET {} WHERE id IN (3, 4)"


@pytest.mark.parametrize(
    ("limits", "statements", "expected"),
    [
        (SeatLimits(2, 4), [], {}),
        (SeatLimits(1, 3), [], {"users_above_the_limit", "users_above_the_limit_of_a_schedule"}),
        (SeatLimits(0, 0), [], {}),
        (SeatLimits(1, 3), [HALL.format("user_id = id")], {}),
        (SeatLimits(2, 3), [HALL.format("schedule_id = 2")], {"claims_of_no_live_reservation"}),
        # A hold that has run out counts no more, though it is not expired.
        (SeatLimits(1, 3), [HALL.format("lapses_at = NOW(6)")], {}),
        # A payment that came too late got seats that were still free.
        (
            SeatLimits(2, 3),
            ["UPDATE reservation.reservation SET lapses_at = '2026-01-01' WHERE id = 1"],
            {},
        ),
    ],
)
def test_users_above_the_limits_are_counted(
    stores: Stores, limits: SeatLimits, statements: list[str], expected: set[str]
) -> None:
    execute(stores, *statements)
    counts = violated(dataclasses.replace(stores, limits=limits))
    assert counts.keys() == set(expected)


def test_the_limits_are_those_of_the_settings() -> None:
    assert SeatLimits.from_environ({}) == (8, 8)
    environ = {"RESERVATION_MAX_SEATS": "4", "RESERVATION_MAX_SEATS_PER_SCHEDULE": "0"}
    assert SeatLimits.from_environ(environ) == (4, 0)


def test_two_paid_reservations_of_a_place_are_counted(stores: Stores) -> None:
    """The constraint prevents them, unless a migration loses it."""
    index = "one_payment_a_place"
    table = "reservation.reservation"
    execute(stores, f"ALTER TABLE {table} DROP INDEX {index}")
    try:
        execute(
            stores,
            f"UPDATE {table} SET room = 'main', place_number = 5 WHERE id IN (1, 3)",
            f"UPDATE {table} SET status = 'PAYING', payment_id = 9 WHERE id = 3",
        )
        expected = {"places_with_two_paid_reservations": 1, "reservations_stuck_in_payment": 1}
        assert violated(stores) == expected
    finally:
        execute(stores, *EMPTY, f"ALTER TABLE {table} ADD UNIQUE KEY {index} (paid_place, room)")


def test_wrong_events_are_counted(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event of a success, a second event of a refund; a repeated event is no violation."""
    second = events_pb2.PaymentEvent(event_id="e", payment_id=8)
    second.refunded.SetInParent()
    events = [*EVENTS[1:], *EVENTS[1:], second]
    monkeypatch.setattr(facts, "PAYMENT_EVENTS", topic_with(stores.kafka_bootstrap, events))
    assert violated(stores) == {"payments_with_wrong_events": 2}


def test_old_events_of_removed_payments(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed payment is removed after a day at the earliest, one that moved money never."""
    failed = events_pb2.PaymentEvent(event_id="f", payment_id=98)
    failed.failed.reason = "CARD_DECLINED"
    refunded = events_pb2.PaymentEvent(event_id="g", payment_id=99)
    refunded.refunded.SetInParent()
    for event in (failed, refunded):
        event.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    events = [*EVENTS, failed, refunded]
    monkeypatch.setattr(facts, "PAYMENT_EVENTS", topic_with(stores.kafka_bootstrap, events))
    assert violated(stores) == {"payments_with_events_only": 1}


def test_a_kafka_that_does_not_answer_is_one_sentence(stores: Stores) -> None:
    with pytest.raises(UserError, match="set QUEUE_KAFKA_BOOTSTRAP"):
        settled(dataclasses.replace(stores, kafka_bootstrap="127.0.0.1:9"))


def test_waits_until_the_work_in_progress_has_ended(stores: Stores) -> None:
    execute(stores, UNSOLD)
    timer = threading.Timer(0.5, execute, (stores, SOLD.format(2)))
    timer.start()
    began = time.monotonic()
    assert not any(settled(stores, within=30).values())
    assert 0.5 <= time.monotonic() - began < 20
    timer.join()


@pytest.mark.parametrize(
    ("capacity", "admitted", "waiting", "over", "overtakers"),
    [
        (3, [1, 2, 3], [4, 5], 0, set()),
        (2, [1, 2, 3], [4], 1, set()),
        (9, [1, 5, 6], [3, 4], 0, {5, 6}),
        (9, [1, 2], [], 0, set()),
    ],
)
def test_the_waiting_room_is_sampled(
    stores: Stores,
    capacity: int,
    admitted: list[int],
    waiting: list[int],
    over: int,
    overtakers: set[int],
) -> None:
    room = RoomSamples(stores.redis_url)
    room.sample()
    assert room.samples == 0, "nobody has entered yet"
    with redis.Redis.from_url(stores.redis_url) as connection:
        connection.hset(ROOM[0], "capacity", capacity)
        connection.zadd(ROOM[1], dict.fromkeys(map(str, admitted), 10**13))
        connection.zadd(ROOM[2], {str(place): place for place in [*waiting, 100]})
    counts = settled(stores, room, within=0)
    assert counts["samples_over_capacity"] == over
    assert counts["people_admitted_out_of_order"] == len(overtakers)
    assert (room.samples, room.most_waiting) == (1, len(waiting) + 1)
    assert room.overtakers == overtakers


def test_each_invariant_is_violated_here() -> None:
    provoked = {name for _, expected in VIOLATIONS.values() for name in expected}
    assert {each.name for each in invariants.INVARIANTS} - provoked == {
        "seats_with_two_live_reservations",
        "users_above_the_limit",
        "users_above_the_limit_of_a_schedule",
        "places_with_two_paid_reservations",
        "samples_over_capacity",
        "people_admitted_out_of_order",
    }
