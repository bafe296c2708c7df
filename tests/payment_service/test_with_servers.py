"""payment_service on MariaDB, the sandbox and Kafka; only reservation_service is a fake."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import grpc
import pytest

from harness.local.stack import Stack
from payment_service.consumers import ReservationEvents
from payment_service.domain import Admission, Event, PayOrder, Status
from payment_service.errors import (
    ChargeAmountDiffers,
    NotYours,
    PaymentDeclined,
    ReservationNotFound,
)
from payment_service.outbox import SHARDS, CommittedEvents, OutboxRepository, shard_of
from payment_service.providers import sandbox
from payment_service.providers.breaker import CircuitBreaker
from payment_service.providers.guarded import GuardedProvider
from payment_service.providers.sandbox import SandboxProvider
from payment_service.relay import Relay
from payment_service.repository import PaymentRepository
from payment_service.servicer import PaymentServicer
from protos.frontrow.payment.v1 import events_pb2, payment_pb2, payment_pb2_grpc
from protos.frontrow.reservation.v1 import events_pb2 as reservation_events_pb2
from protos.topics import PAYMENT_EVENTS, RESERVATION_EVENTS
from servicekit.kafka import Consumer, Producer, Record
from servicekit.mysql import Database
from tests.payment_service.conftest import Shop
from tests.servicekit.handlers import in_turn

reservation_ids = itertools.count(random.randrange(1, 1 << 40))


class Real:
    """One replica on real stores."""

    def __init__(self, database: Database, bootstrap: str, *producers: Producer) -> None:
        self.database = database
        self.bootstrap = bootstrap
        self.committed = CommittedEvents()
        payments = PaymentRepository(database, self.committed)
        # Generous, so that a busy machine changes no outcome.
        self.guard = GuardedProvider(
            SandboxProvider(database), timeout=20, breaker=CircuitBreaker(100, 1)
        )
        self.shop = Shop(payments=payments, guard=self.guard, lease_seconds=30, wait_seconds=30)
        producer, backlog, aside = producers
        outbox = OutboxRepository(database)
        self.relay = Relay(outbox, producer, backlog, aside, self.committed)
        # It has nothing in memory.
        self.relay_after_a_restart = Relay(outbox, producer, backlog, aside, CommittedEvents())

    def hold(self, user_id: int = 42) -> PayOrder:
        # A payment ends its admission, so each reservation has one of its own.
        number = next(reservation_ids)
        order = PayOrder(number, user_id, admission=Admission("main", number))
        self.shop.reservations.hold(order.reservation_id, user_id)
        return order

    async def count(self, sql: str, *values: object) -> int:
        async with self.database.connection() as connection:
            row = await connection.fetch_one(sql, *values)
        assert row is not None
        return int(row[0])


@pytest.fixture
async def real(mysql_urls: dict[str, str], kafka_bootstrap: str) -> AsyncIterator[Real]:
    async with (
        Database(mysql_urls["payment"]) as database,
        Producer(kafka_bootstrap) as producer,
        Producer(kafka_bootstrap) as backlog,
        Producer(kafka_bootstrap) as aside,
    ):
        async with database.transaction() as transaction:
            # Left by tests of the same schema.
            await transaction.execute("DELETE FROM payment")
        real = Real(database, kafka_bootstrap, producer, backlog, aside)
        yield real
        await real.shop.service.drain(5)


@contextlib.asynccontextmanager
async def running(*works: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def listening(bootstrap: str) -> AsyncIterator[list[events_pb2.PaymentEvent]]:
    """All payment events, as a consumer gets them."""
    events: list[events_pb2.PaymentEvent] = []

    async def handle(record: Record) -> Sequence[Record]:
        event = events_pb2.PaymentEvent.FromString(record.value)
        assert record.key == str(event.reservation_id).encode()
        assert record.headers == {"event-id": event.event_id.encode()}
        events.append(event)
        return ()

    group = f"test-{random.getrandbits(64):x}"
    async with running(
        Consumer(
            bootstrap=bootstrap, group=group, topic=PAYMENT_EVENTS, handler=in_turn(handle)
        ).run()
    ):
        yield events


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # any condition, not an event
            await asyncio.sleep(0.02)


def of(events: list[events_pb2.PaymentEvent], order: PayOrder) -> list[str | None]:
    return [e.WhichOneof("event") for e in events if e.reservation_id == order.reservation_id]


async def test_fifty_calls_make_one_charge_one_row_one_event(real: Real) -> None:
    order = real.hold()
    async with listening(real.bootstrap) as events, running(real.relay.run()):
        payments = await asyncio.gather(*(real.shop.service.pay(order) for _ in range(50)))
        [payment] = set(payments)
        assert payment.status is Status.SUCCEEDED
        await until(lambda: of(events, order) == ["succeeded"])
        await asyncio.sleep(0.2)
    assert of(events, order) == ["succeeded"]
    rows = "SELECT COUNT(*) FROM payment WHERE reservation_id = %s"
    assert await real.count(rows, order.reservation_id) == 1
    charges = "SELECT SUM(calls) FROM sandbox_charge WHERE payment_id = %s"
    assert await real.count(charges, payment.id) == 1
    assert await real.shop.payments.count_unsent() == 0
    [event] = [e for e in events if e.reservation_id == order.reservation_id]
    assert event.succeeded.admission.place_number == order.reservation_id


async def test_a_refused_order_leaves_the_row_of_its_key_only(real: Real) -> None:
    stranger = PayOrder(real.hold().reservation_id, 43)
    missing = PayOrder(next(reservation_ids), 42)
    key = f"key {random.random()}"
    for order, error in ((stranger, NotYours), (missing, ReservationNotFound)):
        for again in (order, order, replace(order, idempotency_key=key)):
            with pytest.raises(error):
                await real.shop.service.pay(again)
    assert await real.count("SELECT COUNT(*) FROM payment") == 0
    assert await real.shop.payments.count_unsent() == 0
    assert await real.count("SELECT COUNT(*) FROM idempotency_key WHERE idem_key = %s", key) == 2


async def test_a_decline_then_a_success_arrive_in_order(real: Real) -> None:
    order = real.hold(sandbox.DECLINED * sandbox.MAGIC + 1)
    async with listening(real.bootstrap) as events, running(real.relay.run()):
        for _ in range(5):
            with pytest.raises(PaymentDeclined):
                await real.shop.service.pay(order)
        await until(lambda: of(events, order) == ["failed"] * 5)
        ids = [e.payment_id for e in events if e.reservation_id == order.reservation_id]
        assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("kind", "event"), [(sandbox.SILENT_APPROVED, "succeeded"), (sandbox.SILENT_DECLINED, "failed")]
)
async def test_a_charge_without_an_answer_is_pending_and_settled_by_recovery(
    real: Real, monkeypatch: pytest.MonkeyPatch, kind: int, event: str
) -> None:
    monkeypatch.setattr(sandbox, "SETTLING_SECONDS", 0.7)
    monkeypatch.setattr(real.guard, "_timeout", 0.5)
    order = real.hold(kind * sandbox.MAGIC)
    async with (
        listening(real.bootstrap) as events,
        running(real.relay.run(), real.shop.recovery.run()),
    ):
        assert (await real.shop.service.pay(order)).status is Status.INITIATED
        if event == "succeeded":
            assert (await real.shop.service.pay(order)).status is Status.SUCCEEDED
        else:
            with pytest.raises(PaymentDeclined):
                await real.shop.service.pay(order)
        await until(lambda: of(events, order) == [event])


@pytest.mark.parametrize(
    "kind", [sandbox.OTHER_AMOUNT, sandbox.SILENT_OTHER_AMOUNT, sandbox.OTHER_CURRENCY]
)
async def test_a_charge_of_another_amount_is_refunded(
    real: Real, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    monkeypatch.setattr(sandbox, "SETTLING_SECONDS", 0.7)
    monkeypatch.setattr(real.guard, "_timeout", 0.5)
    order = real.hold(kind * sandbox.MAGIC)
    async with running(real.shop.recovery.run()):
        if kind == sandbox.SILENT_OTHER_AMOUNT:
            assert (await real.shop.service.pay(order)).status is Status.INITIATED
        with pytest.raises(ChargeAmountDiffers):
            await real.shop.service.pay(order)
    book = "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s AND status = 'REFUNDED'"
    assert await real.count(book, order.user_id) == 1


@pytest.mark.parametrize("amount", ["-5.00", "0.00", "99999999999999.00"])
async def test_an_amount_that_no_column_can_hold_ends(real: Real, amount: str) -> None:
    """Until this was compared, MariaDB refused the outcome, and recovery tried it for ever."""
    shop = Shop(payments=PaymentRepository(real.database, CommittedEvents()))
    shop.provider.amount = Decimal(amount)
    order = PayOrder(next(reservation_ids), 42)
    shop.reservations.hold(order.reservation_id, 42)
    with pytest.raises(ChargeAmountDiffers):
        await shop.service.pay(order)
    assert shop.provider.charged == []
    await shop.service.drain(5)


async def test_two_relays_keep_the_order_of_each_reservation(real: Real) -> None:
    declined = sandbox.DECLINED * sandbox.MAGIC
    orders = [real.hold(declined + number) for number in range(40)]

    async def pay_five_times(order: PayOrder) -> None:
        for _ in range(5):
            with pytest.raises(PaymentDeclined):
                await real.shop.service.pay(order)

    async with (
        Producer(real.bootstrap) as producer,
        Producer(real.bootstrap) as backlog,
        Producer(real.bootstrap) as aside,
        listening(real.bootstrap) as events,
    ):
        other = Real(real.database, real.bootstrap, producer, backlog, aside)
        async with running(real.relay.run(), other.relay.run()):
            await asyncio.gather(*(pay_five_times(order) for order in orders))
            await until(lambda: all(len(of(events, order)) == 5 for order in orders))
    for order in orders:
        ids = [e.payment_id for e in events if e.reservation_id == order.reservation_id]
        assert ids == sorted(set(ids))


async def test_events_survive_a_relay_that_dies_between_publishing_and_deleting(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = real.hold()
    await real.shop.service.pay(order)

    publish = real.relay_after_a_restart.publish

    async def publish_and_die(
        events: Sequence[Event], producer: Producer, patience: float
    ) -> list[bool]:
        assert await publish(events, producer, patience) == [True]
        raise OSError("killed")

    async with listening(real.bootstrap) as events:
        with monkeypatch.context() as patch:
            patch.setattr(real.relay_after_a_restart, "publish", publish_and_die)
            with pytest.raises(OSError, match="killed"):
                await real.relay_after_a_restart.send_batch()
        assert await real.shop.payments.count_unsent() == 1
        assert not await real.relay_after_a_restart.send_batch()
        assert await real.shop.payments.count_unsent() == 0
        await real.relay_after_a_restart.send_batch()
        await until(lambda: of(events, order) == ["succeeded"] * 2)
        [event_id] = {e.event_id for e in events if e.reservation_id == order.reservation_id}
        assert event_id


async def test_the_outbox_marks_what_is_published_and_keeps_the_rest(real: Real) -> None:
    outbox = OutboxRepository(real.database)
    orders = [real.hold() for _ in range(40)]
    for order in orders:
        await real.shop.service.pay(order)
    async with outbox.oldest(30, set(), older_than=0) as batch:
        ids = [event.payment_id for event in batch.events]
        assert ids == sorted(ids)
        assert 0 < len(ids) <= 30
        assert batch.full
        assert batch.shards == {shard_of(event.reservation_id) for event in batch.events}
        assert batch.shards <= set(range(SHARDS))
        async with outbox.oldest(30, set(), older_than=0) as other:
            assert other.events == ()
        async with outbox.oldest_of_each(batch.shards) as locked:
            assert (locked.events, locked.shards) == ((), frozenset())
        # One in three is published.
        batch.published.extend(batch.events[::3])
    delayed = {shard_of(e.reservation_id) for e in batch.events if e not in batch.published}
    async with outbox.oldest(1000, delayed, older_than=0) as healthy:
        assert not healthy.shards & delayed
        healthy.published.extend(healthy.events)
    async with outbox.oldest_of_each(delayed) as oldest:
        assert sorted(shard_of(e.reservation_id) for e in oldest.events) == sorted(delayed)
    async with outbox.oldest(1200, set(), older_than=0) as rest:
        assert not rest.full
        assert rest.shards == delayed
        assert not set(rest.events) & {*batch.published, *healthy.published}
        everything = {*rest.events, *batch.published, *healthy.published}
        assert {event.reservation_id for event in everything} == {o.reservation_id for o in orders}
        first = {shard_of(e.reservation_id): e for e in reversed(rest.events)}
        assert set(first.values()) == set(oldest.events)
    healthy_shards = set(range(SHARDS)) - delayed
    async with outbox.oldest_of_each(healthy_shards) as none:
        assert (none.events, none.shards) == ([], healthy_shards)
    # Nothing is old yet.
    async with outbox.oldest(1000, set(), older_than=60) as young:
        assert young.events == ()
    async with real.database.connection() as connection:
        await connection.execute(
            """UPDATE payment SET updated_at = NOW(6) - INTERVAL 61 SECOND WHERE id = %s""",
            rest.events[0].payment_id,
        )
    async with outbox.oldest(1200, set(), older_than=60) as old:
        assert old.shards == {shard_of(rest.events[0].reservation_id)}
        assert {event.payment_id for event in old.events} == {
            e.payment_id for e in rest.events if shard_of(e.reservation_id) in old.shards
        }
        await outbox.mark_sent(rest.events)
    assert await real.shop.payments.count_unsent() == 0


async def test_events_committed_while_kafka_is_unavailable_arrive_later(
    real: Real, servers: Stack
) -> None:
    orders = [real.hold() for _ in range(50)]
    async with listening(real.bootstrap) as events, running(real.relay.run()):
        warm_up = real.hold()
        await real.shop.service.pay(warm_up)
        await until(lambda: of(events, warm_up) == ["succeeded"])
        await asyncio.to_thread(servers.kafka.stop)
        payments = await asyncio.gather(*(real.shop.service.pay(order) for order in orders))
        assert {payment.status for payment in payments} == {Status.SUCCEEDED}
        await asyncio.sleep(1)
        assert await real.shop.payments.count_unsent() == 50
        await asyncio.to_thread(servers.kafka.start)
        await until(lambda: all(of(events, order) for order in orders), seconds=60)
        # Deleted once acknowledged, a moment after they have arrived.
        async with asyncio.timeout(10):
            while await real.shop.payments.count_unsent():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    # What was on its way when the broker went may come twice, but it is the same event.
    ours = {order.reservation_id for order in orders}
    assert len({event.event_id for event in events if event.reservation_id in ours}) == 50
    assert all(set(of(events, order)) == {"succeeded"} for order in orders)


async def test_a_lost_seat_is_refunded_once(real: Real, kafka_bootstrap: str) -> None:
    order = real.hold()
    payment = await real.shop.service.pay(order)
    lost = reservation_events_pb2.ReservationEvent(reservation_id=order.reservation_id)
    lost.seat_lost.payment_id = payment.id
    record = Record(
        RESERVATION_EVENTS, str(order.reservation_id).encode(), lost.SerializeToString()
    )
    consumer = Consumer(
        bootstrap=kafka_bootstrap,
        group=f"test-{random.getrandbits(64):x}",
        topic=RESERVATION_EVENTS,
        handler=ReservationEvents(real.shop.service).handle,
    ).run()
    async with (
        Producer(kafka_bootstrap) as producer,
        listening(kafka_bootstrap) as events,
        running(real.relay.run(), consumer),
    ):
        await producer.publish([record, record], timeout=10)
        await until(lambda: of(events, order) == ["succeeded", "refunded"])
        await producer.publish([record], timeout=10)
        await asyncio.sleep(0.5)
    assert of(events, order) == ["succeeded", "refunded"]
    assert (await real.shop.service.payment_of_reservation(*order_ids(order))).status is (
        Status.REFUNDED
    )
    book = "SELECT COUNT(*) FROM sandbox_charge WHERE payment_id = %s AND status = 'REFUNDED'"
    assert await real.count(book, payment.id) == 1


def order_ids(order: PayOrder) -> tuple[int, int]:
    return order.reservation_id, order.user_id


async def test_pay_and_read_over_grpc(real: Real) -> None:
    order = real.hold()
    server = grpc.aio.server()
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(
        PaymentServicer(real.shop.service), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = payment_pb2_grpc.PaymentServiceStub(channel)
        request = payment_pb2.PayRequest(
            reservation_id=order.reservation_id,
            user_id=42,
            idempotency_key="k",
            admission=payment_pb2.Admission(room="main", place_number=3),
        )
        paid = await stub.Pay(request, timeout=5)
        asked = await stub.GetPaymentOfReservation(
            payment_pb2.GetPaymentOfReservationRequest(
                reservation_id=order.reservation_id, user_id=42
            ),
            timeout=5,
        )
    await server.stop(None)
    assert asked.SerializeToString() == paid.SerializeToString()
    assert paid.status == payment_pb2.PAYMENT_STATUS_SUCCEEDED
    assert paid.amount == "150000.00"
