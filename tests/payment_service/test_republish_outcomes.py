"""Republishing after a restore: events that the consumers have passed, but the databases lack.

Both services run on MariaDB and Kafka. A consumer that skips an event stands for one whose work the
restore has undone: its offset is after the event, its database is from before the event.
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from payment_service import events
from payment_service.consumers import ReservationEvents
from payment_service.domain import Admission, Money, Outcome, Payment, PayOrder, Status
from payment_service.errors import PaymentDeclined
from payment_service.outbox import CommittedEvents, OutboxRepository
from payment_service.providers import sandbox
from payment_service.providers.sandbox import SandboxProvider
from payment_service.relay import Relay
from payment_service.repository import PaymentRepository
from payment_service.republish_outcomes import republish_outcomes
from payment_service.republish_repository import RepublishRepository
from payment_service.saga import Saga
from payment_service.service import PaymentService
from protos.frontrow.payment.v1 import events_pb2
from protos.frontrow.reservation.v1 import events_pb2 as reservation_events_pb2
from protos.topics import PAYMENT_EVENTS, RESERVATION_EVENTS
from reservation_service.consumers import PaymentEvents
from reservation_service.domain import Reservation
from reservation_service.service import ReservationService
from servicekit.kafka import Consumer, Producer, Record
from servicekit.mysql import Connection, Database, Row
from tests.payment_service.test_with_servers import running, until
from tests.reservation_service.conftest import RealReservationStore, make_service, new_seats
from tests.servicekit.handlers import in_turn

USER = 42
DECLINED = sandbox.DECLINED * sandbox.MAGIC + 1
HOUR = 3600.0
SUCCEEDED = Outcome(Status.SUCCEEDED, Decimal("150000.00"))


class Reservations:
    """reservation_service, called without gRPC."""

    def __init__(self, service: ReservationService) -> None:
        self._service = service

    async def begin_payment(self, payment: Payment) -> Money:
        reservation = await self._service.begin_payment(
            payment.reservation_id, payment.user_id, payment.id, payment.failed_payment_id
        )
        return Money(reservation.price)

    async def price_of(self, payment: Payment) -> Money:
        reservation = await self._service.get_reservation(payment.reservation_id, payment.user_id)
        return Money(reservation.price)


@dataclass
class Restored:
    """Two services, their topics, and consumers whose work can be undone."""

    store: RealReservationStore
    reservations: ReservationService
    payments: PaymentRepository
    service: PaymentService
    relay: Relay
    database: Database
    #: Whether the restored database has the effects of the consumer.
    confirming: bool = True
    refunding: bool = True
    published: list[events_pb2.PaymentEvent] = field(default_factory=list)
    asked_for_refunds: list[int] = field(default_factory=list)
    ours: set[int] = field(default_factory=set)

    async def on_payment_event(self, record: Record) -> Sequence[Record]:
        event = events_pb2.PaymentEvent.FromString(record.value)
        if event.payment_id not in self.ours:
            return ()
        results: Sequence[Record] = ()
        if self.confirming:
            results = await PaymentEvents(self.reservations).handle([record])
        self.published.append(event)
        return results

    async def on_reservation_event(self, record: Record) -> Sequence[Record]:
        event = reservation_events_pb2.ReservationEvent.FromString(record.value)
        payment_id = event.seat_lost.payment_id
        if payment_id not in self.ours:
            return ()
        self.asked_for_refunds.append(payment_id)
        if self.refunding:
            await ReservationEvents(self.service).handle([record])
        return ()

    async def hold(self, user_id: int = USER) -> Reservation:
        (seat,) = new_seats(1)
        return await self.reservations.hold_seat(user_id, seat, "")

    async def pay(self, held: Reservation) -> Payment:
        """Pays a hold; the event is in the outbox and not sent."""
        order = PayOrder(held.id, held.user_id, admission=Admission("main", 17))
        with contextlib.suppress(PaymentDeclined):
            await self.service.pay(order)
        found = await self._fetch("SELECT MAX(id) FROM payment WHERE reservation_id = %s", held.id)
        payment = await self.payments.get_payment(found)
        assert payment is not None
        self.ours.add(payment.id)
        return payment

    async def send(self) -> None:
        """Sends the outbox and waits until the consumers have passed its events."""
        sent = len(self.published)
        while unsent := await self.payments.count_unsent():
            sent += unsent
            await self.relay.send_batch()
        await until(lambda: len(self.published) >= sent)

    async def republish_outcomes(self, seconds: float = HOUR) -> tuple[int, int]:
        return await republish_outcomes(RepublishRepository(self.database), seconds)

    async def becomes(self, payment: Payment, status: Status) -> None:
        async with asyncio.timeout(30):
            while True:
                now = await self.payments.get_payment(payment.id)
                if now is not None and now.status is status:
                    return
                await asyncio.sleep(0.02)

    async def stored(self, held: Reservation) -> str:
        return str(await self.store.stored(held.id))

    async def charged(self, payment: Payment) -> bool:
        sql = "SELECT status FROM sandbox_charge WHERE payment_id = %s"
        return bool(await self._fetch(sql, payment.id) == "APPROVED")

    async def in_outbox(self) -> int:
        return await self.payments.count_unsent()

    async def ends_at(self, payment: Payment, hours_ago: float) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                """UPDATE payment SET driven_until = driven_until - INTERVAL %s SECOND,
                updated_at = updated_at - INTERVAL %s SECOND WHERE id = %s""",
                hours_ago * HOUR,
                hours_ago * HOUR,
                payment.id,
            )

    async def _fetch(self, sql: str, *values: object) -> Any:
        async with self.database.connection() as connection:
            row = await connection.fetch_one(sql, *values)
        assert row is not None
        return row[0]


@pytest.fixture
async def shop(mysql_urls: dict[str, str], kafka_bootstrap: str) -> AsyncIterator[Restored]:
    async with (
        Database(mysql_urls["payment"]) as database,
        Database(mysql_urls["reservation"]) as reservation_database,
        Producer(kafka_bootstrap) as producer,
    ):
        async with database.transaction() as transaction:
            # Those of other tests on the same schema, with their events.
            await transaction.execute("DELETE FROM payment")
        store = RealReservationStore(reservation_database)
        reservations = make_service(store)
        payments = PaymentRepository(database, CommittedEvents())
        provider = SandboxProvider(database)
        saga = Saga(payments, Reservations(reservations), provider, renewal_seconds=600)
        shop = Restored(
            store=store,
            reservations=reservations,
            payments=payments,
            service=PaymentService(payments, provider, saga, lease_seconds=30, wait_seconds=30),
            relay=Relay(
                OutboxRepository(database), producer, producer, producer, CommittedEvents()
            ),
            database=database,
        )

        def consumer(
            topic: str, handle: Callable[[Record], Awaitable[Sequence[Record]]]
        ) -> Coroutine[Any, Any, None]:
            return Consumer(
                bootstrap=kafka_bootstrap,
                group=f"test-{random.getrandbits(64):x}",
                topic=topic,
                handler=in_turn(handle),
            ).run()

        async with running(
            consumer(PAYMENT_EVENTS, shop.on_payment_event),
            consumer(RESERVATION_EVENTS, shop.on_reservation_event),
        ):
            yield shop
        await shop.service.drain(5)


async def test_a_paid_seat_is_confirmed_although_the_consumer_has_passed_its_event(
    shop: Restored,
) -> None:
    held, lapsed, tidied = [await shop.hold() for _ in range(3)]
    paid = [await shop.pay(each) for each in (held, lapsed, tidied)]
    assert {payment.status for payment in paid} == {Status.SUCCEEDED}
    shop.confirming = False
    await shop.send()
    # The restore happens hours after the dump.
    await shop.store.lapse(lapsed.id)
    await shop.store.lapse(tidied.id)
    await shop.reservations.expire_holds()
    assert [await shop.stored(each) for each in (held, tidied)] == ["PAYING", "EXPIRED"]
    assert await shop.in_outbox() == 0

    shop.confirming = True
    assert await shop.republish_outcomes() == (3, 0)
    await shop.send()
    for each, payment in zip((held, lapsed, tidied), paid, strict=True):
        assert await shop.stored(each) == "CONFIRMED"
        assert await shop.charged(payment)
    # The event ids are the same, so consumers that store ids recognise them.
    first, again = shop.published[:3], shop.published[3:]
    assert {event.event_id for event in first} == {event.event_id for event in again}
    assert {e.succeeded.admission.place_number for e in again} == {17}
    assert {e.succeeded.amount for e in again} == {"150000.00"}


@pytest.mark.parametrize("sold", [False, True])
async def test_a_seat_that_another_user_took_is_refunded(shop: Restored, sold: bool) -> None:
    held = await shop.hold()
    paid = await shop.pay(held)
    shop.confirming = False
    await shop.send()
    await shop.store.lapse(held.id)
    taken = await shop.reservations.hold_seat(USER + 1, held.seats[0].id, "")

    shop.confirming = True
    if sold:
        await shop.pay(taken)
        await shop.send()
    await shop.republish_outcomes()
    await shop.send()
    await shop.becomes(paid, Status.REFUNDED)
    assert not await shop.charged(paid)
    assert await shop.stored(taken) == ("CONFIRMED" if sold else "HELD")
    await shop.send()
    assert {event.WhichOneof("event") for event in shop.published} == {"succeeded", "refunded"}


async def test_a_requested_refund_is_requested_again(shop: Restored) -> None:
    """reservation_service has no outbox: its SeatLost event is in Kafka only."""
    held = await shop.hold()
    paid = await shop.pay(held)
    await shop.store.lapse(held.id)
    taken = await shop.reservations.hold_seat(USER + 1, held.seats[0].id, "")
    shop.refunding = False
    await shop.send()
    await until(lambda: shop.asked_for_refunds == [paid.id])
    assert await shop.charged(paid)
    # Also if the seat is free again: the refund may be in progress.
    await shop.reservations.cancel_reservation(taken.id, USER + 1)

    shop.refunding = True
    assert await shop.republish_outcomes() == (1, 0)
    await shop.send()
    await shop.becomes(paid, Status.REFUNDED)
    assert not await shop.charged(paid)
    assert await shop.stored(held) != "CONFIRMED"
    assert shop.asked_for_refunds == [paid.id] * 2


async def test_a_declined_seat_returns_to_its_hold(shop: Restored) -> None:
    held = await shop.hold(DECLINED)
    await shop.pay(held)
    shop.confirming = False
    await shop.send()
    assert await shop.stored(held) == "PAYING"
    shop.confirming = True
    await shop.republish_outcomes()
    await shop.send()
    assert await shop.stored(held) == "HELD"
    first, again = shop.published
    assert first.event_id == again.event_id
    assert (first.failed.reason, again.failed.reason) == ("CARD_DECLINED", "CARD_DECLINED")


async def test_handled_events_have_no_further_effect(shop: Restored) -> None:
    confirmed, tried_again, returned = [await shop.hold() for _ in range(3)]
    await shop.pay(confirmed)
    # Both are declined; then one is paid and one has a payment in progress.
    for held in (tried_again, returned):
        order = PayOrder(held.id, USER)
        attempt = await shop.payments.create_payment(order, lease_seconds=30, answer_seconds=30)
        shop.ours.add(attempt.payment.id)
        await Reservations(shop.reservations).begin_payment(attempt.payment)
        failed = Outcome(Status.FAILED, Decimal("150000.00"), PaymentDeclined.code)
        event = events.failed(attempt.payment, "CARD_DECLINED")
        await shop.payments.record_outcome(attempt.payment, failed, event)
        await shop.payments.mark_decline_returned(attempt.payment.id)
    await shop.send()
    await shop.pay(tried_again)
    order = PayOrder(returned.id, USER)
    under_way = await shop.payments.create_payment(order, lease_seconds=30, answer_seconds=30)
    await Reservations(shop.reservations).begin_payment(under_way.payment)
    # And one that was refunded.
    lost = await shop.hold()
    refunded = await shop.pay(lost)
    await shop.store.lapse(lost.id)
    await shop.reservations.hold_seat(USER + 1, lost.seats[0].id, "")
    await shop.send()
    await shop.becomes(refunded, Status.REFUNDED)
    await shop.send()
    everything = [confirmed, tried_again, returned, lost]
    before = [await shop.store.get(each.id) for each in everything]
    assert [str(each and each.stored_status) for each in before] == [
        *("CONFIRMED", "CONFIRMED", "PAYING", "EXPIRED")
    ]
    sold = await shop.reservations.count_seats([each.schedule_id for each in everything])
    known = {event.event_id for event in shop.published}

    assert await shop.republish_outcomes() == (5, 0)
    await shop.send()
    after = [await shop.store.get(each.id) for each in everything]
    for was, now in zip(before, after, strict=True):
        assert was is not None
        assert now is not None
        assert replace(now, read_at=was.read_at) == was
    assert sold == await shop.reservations.count_seats([e.schedule_id for e in everything])
    assert {event.event_id for event in shop.published} == known
    assert shop.asked_for_refunds == [refunded.id]


async def test_a_second_run_adds_nothing(shop: Restored) -> None:
    for _ in range(3):
        await shop.pay(await shop.hold())
    # The events are in the outbox of the dump, not sent.
    assert await shop.republish_outcomes() == (0, 3)
    await shop.send()
    assert await shop.republish_outcomes() == (3, 0)
    assert await shop.republish_outcomes() == (0, 3)
    assert await shop.in_outbox() == 3


async def test_the_window_ends_at_the_newest_change(shop: Restored) -> None:
    old, older, newest = [await shop.pay(await shop.hold()) for _ in range(3)]
    await shop.send()
    # As if the restore happened days later.
    for payment, hours in ((newest, 50), (old, 50.5), (older, 52)):
        await shop.ends_at(payment, hours)
    assert await shop.republish_outcomes(HOUR) == (2, 0)
    shop.published.clear()
    await shop.send()
    assert {event.payment_id for event in shop.published} == {old.id, newest.id}
    # The time of the outcome, not of the second event.
    assert all(
        e.occurred_at.ToDatetime() < newest.created_at.replace(tzinfo=None) for e in shop.published
    )


async def test_payments_that_finished_at_the_same_time_are_all_found(
    shop: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_service.republish_outcomes.BATCH", 7)
    values = ", ".join(
        f"({number}, {USER}, '{status}', 1, '{code}', '2026-01-01 00:00:0{number // 20}')"
        for number, (status, code) in enumerate(
            [("SUCCEEDED", ""), ("FAILED", PaymentDeclined.code), ("FAILED", "NOT_YOURS")] * 40, 1
        )
    )
    async with shop.database.connection() as connection:
        await connection.execute(
            "INSERT INTO payment (reservation_id, user_id, status, amount, failure_code,"
            f" driven_until) VALUES {values}"
        )
    # The others were refused by their reservation and have no event.
    assert await shop.republish_outcomes() == (80, 0)
    assert await shop.republish_outcomes() == (0, 80)
    assert await shop.in_outbox() == 80
    async with OutboxRepository(shop.database).oldest(10_000, set(), older_than=0) as batch:
        assert len({event.event_id for event in batch.events}) == 80
        batch.published.extend(batch.events)


async def test_it_reads_no_more_than_it_publishes(
    shop: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.database.connection() as connection:
        # One payment per minute.
        await connection.execute(
            """INSERT INTO payment (reservation_id, user_id, status, amount, driven_until)
            SELECT seq, 1, 'SUCCEEDED', 1, '2026-01-01' + INTERVAL seq MINUTE
            FROM seq_1_to_20000"""
        )
    plan: list[Row] = []
    fetch_all = Connection.fetch_all

    async def explained(self: Connection, sql: str, *values: object) -> Sequence[Row]:
        plan.extend(await fetch_all(self, f"EXPLAIN {sql}", *values))
        return await fetch_all(self, sql, *values)

    monkeypatch.setattr(Connection, "fetch_all", explained)
    assert await shop.republish_outcomes(HOUR) == (66, 0)
    monkeypatch.undo()
    # MariaDB reads the newest change from the end of the index.
    of_payments = [row for row in plan if row[2] == "payment"]
    assert {(kind, key) for _, _, _, kind, _, key, *_ in of_payments} == {("range", "recovery")}
    assert sum(int(rows) for *_, rows, _ in of_payments) < 300


def run(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "payment_service.republish_outcomes"],
        env={**os.environ, "PAYMENT_MYSQL_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_command_reports_what_it_did(shop: Restored, mysql_urls: dict[str, str]) -> None:
    await shop.pay(await shop.hold())
    await shop.send()
    for republished, present in ((1, 0), (0, 1)):
        ran = await asyncio.to_thread(run, mysql_urls["payment"])
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == (
            f"Put the outcomes of {republished} payments back into the outbox, from the last 1800 s"
            f" before the newest change; {present} were in it already.\n"
        )
    assert await shop.in_outbox() == 1


async def test_an_error_is_one_sentence(mysql_urls: dict[str, str]) -> None:
    unavailable = "mysql://payment:secret@127.0.0.1:1/payment"
    stranger = mysql_urls["payment"].replace("//payment:", "//stranger:")
    for url, says in ((unavailable, "does not answer"), (stranger, "refuses: error 1045")):
        ran = await asyncio.to_thread(run, url)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert says in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert "secret" not in ran.stderr
