"""The counts that must be 0: each is provoked in real stores, and seen."""

import asyncio
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from aiokafka import AIOKafkaProducer

from harness.errors import UserError
from harness.local import Ports, Stack
from loadtests import verify
from loadtests.target import Target
from loadtests.watch import Watch
from protos.frontrow.payment.v1 import events_pb2
from protos.topics import PAYMENT_EVENTS

ROOM = "{queue:main}:"
_TABLES = {
    "reservation": ("reservation",),
    "payment": ("payment", "outbox", "sandbox_charge"),
}


@pytest.fixture
def target(
    servers: Stack, redis_url: str, mysql_urls: dict[str, str], kafka_bootstrap: str
) -> Iterator[Target]:
    target = Target(
        base_url="http://127.0.0.1:9",
        mysql_urls=mysql_urls,
        redis_url=redis_url,
        kafka_bootstrap=kafka_bootstrap,
        queue_addr="127.0.0.1:9",
        ports=servers.ports,
        own=True,
    )
    clean(target)
    yield target
    clean(target)


def clean(target: Target) -> None:
    for schema, tables in _TABLES.items():
        for table in tables:
            execute(target, schema, f"DELETE FROM {table}")
    with redis.Redis.from_url(target.redis_url) as connection:
        connection.delete(*(ROOM + key for key in ("state", "admitted", "waiting")))


def execute(target: Target, schema: str, sql: str) -> None:
    with target.database(schema) as cursor:
        cursor.execute(sql)


def reservation(
    target: Target, number: int, seat: int, status: str, payment: int | None = None
) -> None:
    execute(
        target,
        "reservation",
        f"""INSERT INTO reservation (id, user_id, seat_id, schedule_id, seat_num, price, status,
            held_until, lapses_at, payment_id, created_at, updated_at)
        VALUES ({number}, 1, {seat}, 1, 'A1', 1, '{status}', NOW(6), NOW(6) + INTERVAL 1 HOUR,
            {payment or "NULL"}, NOW(6), NOW(6))""",
    )


def payment(target: Target, number: int, reservation_id: int, status: str, book: str) -> None:
    execute(
        target,
        "payment",
        f"""INSERT INTO payment (id, reservation_id, user_id, status, amount, driven_until)
        VALUES ({number}, {reservation_id}, {number}, '{status}', 1, NOW(6))""",
    )
    if book:
        execute(
            target,
            "payment",
            f"""INSERT INTO sandbox_charge (payment_id, user_id, amount, status)
            VALUES ({number}, 1, 1, '{book}')""",
        )


def confirmed(target: Target, number: int, *, payment: int | None = None) -> None:
    """A reservation that is sold, of the seat that has its number."""
    reservation(target, number, number, "CONFIRMED", payment)


def charged(target: Target, number: int, *, reservation: int) -> None:
    """A payment that the provider has taken the money for, whatever it says itself."""
    payment(target, number, reservation, "FAILED", "APPROVED")


def violated(target: Target) -> dict[str, int]:
    return {what: number for what, number in verify.count(target).items() if number}


def test_nothing_happened_nothing_is_violated(target: Target) -> None:
    assert violated(target) == {}


def test_money_without_a_seat(target: Target) -> None:
    reservation(target, 1, 1, "EXPIRED", 7)
    charged(target, 7, reservation=1)
    assert violated(target) == {"charged and not confirmed": 1}


def test_a_seat_without_money(target: Target) -> None:
    confirmed(target, 1, payment=7)
    confirmed(target, 2)
    payment(target, 7, 1, "FAILED", "DECLINED")
    assert violated(target) == {"confirmed and not charged": 2}


def test_money_for_one_seat_does_not_pay_for_another(target: Target) -> None:
    confirmed(target, 1, payment=7)
    confirmed(target, 2, payment=7)
    charged(target, 7, reservation=1)
    assert violated(target) == {"confirmed and not charged": 1}


def test_money_that_went_to_another_seat(target: Target) -> None:
    confirmed(target, 1, payment=7)
    charged(target, 7, reservation=2)
    assert violated(target) == {"charged and not confirmed": 1, "confirmed and not charged": 1}


def test_each_seat_without_money_counts(target: Target) -> None:
    for number in range(1, 4):
        confirmed(target, number)
    assert violated(target) == {"confirmed and not charged": 3}


def test_charged_twice(target: Target) -> None:
    confirmed(target, 1, payment=7)
    charged(target, 7, reservation=1)
    charged(target, 8, reservation=1)
    assert violated(target) == {"reservations charged twice": 1, "charged and not confirmed": 1}


def test_without_the_sandbox_the_payment_says_what_was_charged(target: Target) -> None:
    payment(target, 7, 1, "SUCCEEDED", "")
    assert violated(target) == {"charged and not confirmed": 1, "payments without an event": 1}


def test_payments_without_an_end(target: Target) -> None:
    payment(target, 7, 1, "INITIATED", "")
    assert violated(target) == {"payments without an end": 1}


def test_two_live_reservations_of_a_seat_are_seen_if_the_constraint_is_gone(
    target: Target,
) -> None:
    index = "one_live_reservation_a_seat"
    execute(target, "reservation", f"ALTER TABLE reservation DROP INDEX {index}")
    try:
        reservation(target, 1, 5, "HELD")
        reservation(target, 2, 5, "HELD")
        reservation(target, 3, 6, "HELD")
        assert violated(target) == {"seats with two live reservations": 1}
    finally:
        execute(target, "reservation", "DELETE FROM reservation")
        execute(
            target,
            "reservation",
            f"ALTER TABLE reservation ADD UNIQUE KEY {index} (live_seat_id)",
        )


async def tell(bootstrap: str, **event: Any) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        message = events_pb2.PaymentEvent(event_id="e", **event)
        await producer.send_and_wait(PAYMENT_EVENTS, message.SerializeToString())
        await producer.send_and_wait(PAYMENT_EVENTS, b"poison")
    finally:
        await producer.stop()


def test_each_success_and_each_refund_has_its_event(target: Target) -> None:
    told = 10_000 + random.randrange(10**9)  # the topic remembers other tests
    untold = told + 1
    for number in (told, untold):
        payment(target, number, number, "REFUNDED", "REFUNDED")
    payment(target, told + 2, told + 2, "SUCCEEDED", "REFUNDED")
    for number in (told, untold):
        succeeded = events_pb2.PaymentSucceeded(amount="1.00")
        asyncio.run(tell(target.kafka_bootstrap, payment_id=number, succeeded=succeeded))
    assert violated(target) == {"payments without an event": 3}
    refunded = events_pb2.PaymentRefunded()
    asyncio.run(tell(target.kafka_bootstrap, payment_id=told, refunded=refunded))
    assert violated(target) == {"payments without an event": 2}


def test_waits_until_what_is_under_way_has_ended(target: Target) -> None:
    payment(target, 7, 1, "INITIATED", "")

    def end_it() -> None:
        execute(target, "payment", "UPDATE payment SET status = 'FAILED'")

    timer = threading.Timer(1.5, end_it)
    timer.start()
    began = time.monotonic()
    try:
        assert not any(verify.settled(target, within=30).values())
    finally:
        timer.join()
    assert 1.5 <= time.monotonic() - began < 20


def test_does_not_wait_for_ever(target: Target) -> None:
    payment(target, 7, 1, "INITIATED", "")
    assert verify.settled(target, within=0.1)["payments without an end"] == 1


@pytest.mark.parametrize(
    ("capacity", "inside", "line", "over", "overtakers"),
    [
        (3, [1, 2, 3], [4, 5], False, set()),
        (2, [1, 2, 3], [4], True, set()),
        (9, [1, 5, 6], [3, 4], False, {5, 6}),
        (9, [1, 2], [], False, set()),
    ],
)
def test_the_waiting_room_is_watched(
    target: Target,
    capacity: int,
    inside: list[int],
    line: list[int],
    over: bool,
    overtakers: set[int],
) -> None:
    with redis.Redis.from_url(target.redis_url) as connection:
        connection.hset(ROOM + "state", "capacity", capacity)
        connection.zadd(ROOM + "admitted", dict.fromkeys(map(str, inside), 10**13))
        if line:
            connection.zadd(ROOM + "waiting", {str(place): place for place in line})
    watch = Watch(target, {})
    watch._look_at_room()
    watch._redis.close()
    assert watch.room.over_capacity == int(over)
    assert watch.room.overtakers == overtakers
    assert watch.room.most_waiting == len(line)


def test_a_store_that_is_away_is_one_sentence(target: Target) -> None:
    away = Target(**{**vars(target), "mysql_urls": {"payment": "mysql://a:b@127.0.0.1:9/payment"}})
    with pytest.raises(UserError, match=r"payment at 127\.0\.0\.1:9 cannot be read"):
        verify.count(away)


def test_a_database_that_is_not_seeded_is_one_sentence(target: Target) -> None:
    assert urlsplit(target.mysql_urls["concert"]).path == "/concert"
    with pytest.raises(
        UserError, match=r"not seeded: .* make stop and then make run .* make up SEED"
    ):
        target.volume()


def test_a_schema_without_tables_is_one_sentence(target: Target) -> None:
    url = target.mysql_urls["concert"]
    wrong = Target(**{**vars(target), "mysql_urls": {**target.mysql_urls, "payment": url}})
    with pytest.raises(UserError, match=r"payment .* does not answer as it should .*is it mig"):
        verify.count(wrong)


def test_a_database_that_does_not_show_what_was_sold_is_another(target: Target) -> None:
    before = target.sold()
    reservation(target, before + 1, 1, "HELD")
    target.require_sold(before, 1)
    with pytest.raises(UserError, match=r"shows 1 reservations .* gateway gave 2"):
        target.require_sold(before, 2)


def test_a_process_that_has_just_ended_is_left_out(target: Target) -> None:
    child = subprocess.Popen(["sleep", "0"])
    child.wait()
    with Watch(target, {"gone": child.pid, "here": os.getpid()}) as watch:
        deadline = time.monotonic() + 20
        while not watch.points and time.monotonic() < deadline:
            time.sleep(0.1)
    assert watch.points[0]["cpu"].keys() == {"here"}


def test_listeners_are_found(target: Target) -> None:
    assert {"redis", "mariadb", "kafka"} <= target.pids().keys()
    assert Target(**{**vars(target), "ports": Ports.free()}).pids() == {}
