"""How many statements a payment costs MariaDB, over both services, by MariaDB's own counters."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from payment_service.domain import Event, Payment, PayOrder, Status
from payment_service.outbox import CommittedEvents, OutboxRepository
from payment_service.providers.sandbox import SandboxProvider
from payment_service.relay import Relay
from payment_service.repository import PaymentRepository
from payment_service.saga import Saga
from payment_service.service import PaymentService
from protos.topics import PAYMENT_EVENTS
from reservation_service.consumers import PaymentEvents
from reservation_service.domain import Reservation
from reservation_service.service import ReservationService
from servicekit.kafka import Producer, Record
from servicekit.mysql import Database
from tests.payment_service.test_republish_outcomes import Reservations
from tests.reservation_service.conftest import RealReservationStore, make_service, new_seats

MOST_STATEMENTS = 11
CROWD = 24

# Every statement of ours counts; BEGIN and COMMIT as well. The rest are the test's own questions.
COUNTERS = "SHOW GLOBAL STATUS LIKE 'Com\\_%'"


class Kafka(Producer):
    """Acknowledges every record and keeps it."""

    def __init__(self) -> None:
        super().__init__("none")
        self.records: list[Record] = []

    async def publish_each(self, records: Sequence[Record], patience: float) -> list[bool]:
        self.records.extend(records)
        return [True] * len(records)


@dataclass
class Shop:
    """Both services in one process, without their background work."""

    database: Database
    reservations: ReservationService
    service: PaymentService
    relay: Relay
    committed: CommittedEvents
    kafka: Kafka
    paid: list[Payment] = field(default_factory=list)

    async def hold(self, count: int) -> list[Reservation]:
        return [
            await self.reservations.hold_seat(user_id, seat, "")
            for user_id, seat in enumerate(new_seats(count), 1)
        ]

    async def pay(self, held: Sequence[Reservation]) -> None:
        """Pays reservations at the same time, from the call to the confirmation."""
        payments = await asyncio.gather(
            *(self.service.pay(PayOrder(each.id, each.user_id)) for each in held)
        )
        assert {payment.status for payment in payments} == {Status.SUCCEEDED}
        events: list[Event] = await self.committed.take(10 * CROWD)
        await self.relay.send_committed(events)
        assert {record.topic for record in self.kafka.records} == {PAYMENT_EVENTS}
        await PaymentEvents(self.reservations).handle(self.kafka.records)
        self.kafka.records.clear()

    async def counted(self) -> dict[str, int]:
        async with self.database.connection() as connection:
            rows = await connection.fetch_all(COUNTERS)
        counts = {str(name): int(value) for name, value in rows}
        # The question itself.
        del counts["Com_show_status"]
        return counts


@pytest.fixture
async def shop(mysql_urls: dict[str, str]) -> AsyncIterator[Shop]:
    async with (
        Database(mysql_urls["payment"]) as database,
        Database(mysql_urls["payment"]) as book,
        Database(mysql_urls["reservation"]) as reservation_database,
    ):
        reservations = make_service(RealReservationStore(reservation_database))
        committed, kafka = CommittedEvents(), Kafka()
        payments = PaymentRepository(database, committed)
        provider = SandboxProvider(book)
        saga = Saga(payments, Reservations(reservations), provider, renewal_seconds=600)
        service = PaymentService(payments, provider, saga, lease_seconds=30, wait_seconds=30)
        relay = Relay(OutboxRepository(database), kafka, kafka, kafka, committed)
        shop = Shop(database, reservations, service, relay, committed, kafka)
        # Opens the connections.
        await shop.pay(await shop.hold(CROWD))
        yield shop
        await service.drain(5)


async def spent(shop: Shop, count: int) -> dict[str, int]:
    """Returns the statements of `count` payments at once, by their kind."""
    held = await shop.hold(count)
    before = await shop.counted()
    await shop.pay(held)
    after = await shop.counted()
    for each in held:
        assert (
            await shop.reservations.get_reservation(each.id, each.user_id)
        ).status == "CONFIRMED"
    return {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}


async def test_a_payment_alone_takes_few_statements(shop: Shop) -> None:
    statements = await spent(shop, 1)
    assert sum(statements.values()) <= MOST_STATEMENTS, statements
    # One transaction of several statements; the others are one statement each.
    assert statements["Com_begin"] == statements["Com_commit"] == 1, statements


async def test_payments_at_once_share_their_transactions(shop: Shop) -> None:
    """The calls of reservation_service are not shared here: that is done by its client."""
    statements = await spent(shop, CROWD)
    assert sum(statements.values()) <= 7 * CROWD, statements
    # The first two of each step, and the groups of the others.
    assert statements["Com_commit"] < 10, statements
