"""payment_service over fakes, and the arrange steps that its tests share."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from payment_service.domain import ChargeStatus, Payment, PayOrder, Status
from payment_service.errors import PaymentDeclined
from payment_service.ports import PaymentProvider, PaymentStore
from payment_service.recovery import Recovery
from payment_service.saga import Saga
from payment_service.service import PaymentService
from protos.frontrow.payment.v1 import events_pb2
from tests.fakes.payment import FakePaymentStore, FakeProvider, FakeReservations

LEASE = 5.0


@dataclass
class Shop:
    """One payment_service over fakes. `restarted` is another one over the same fakes: after a
    restart, or a second replica."""

    payments: PaymentStore = field(default_factory=FakePaymentStore)
    reservations: FakeReservations = field(default_factory=FakeReservations)
    provider: FakeProvider = field(default_factory=FakeProvider)
    guard: PaymentProvider | None = None
    lease_seconds: float = LEASE
    wait_seconds: float = 3.0

    def __post_init__(self) -> None:
        saga = Saga(
            self.payments, self.reservations, self.guard or self.provider, renewal_seconds=600
        )
        self.service = PaymentService(
            self.payments,
            self.guard or self.provider,
            saga,
            lease_seconds=self.lease_seconds,
            wait_seconds=self.wait_seconds,
        )
        self.recovery = Recovery(
            self.payments, saga, interval=0.05, lease_seconds=self.lease_seconds
        )

    def restarted(self) -> "Shop":
        return Shop(self.payments, self.reservations, self.provider, self.guard)

    @property
    def events(self) -> list[events_pb2.PaymentEvent]:
        assert isinstance(self.payments, FakePaymentStore)
        return [events_pb2.PaymentEvent.FromString(e.payload) for e in self.payments.events]

    @property
    def event_kinds(self) -> list[str | None]:
        return [event.WhichOneof("event") for event in self.events]

    async def abandoned(self, order: PayOrder) -> Payment:
        """Creates a payment whose driver has crashed: its lease is over at once."""
        attempt = await self.payments.create_payment(order, lease_seconds=0, answer_seconds=0)
        return attempt.payment

    async def pay_without_answer(self, order: PayOrder) -> Payment:
        """Pays; the provider decides, but does not answer in time."""
        self.provider.late_troubles = [TimeoutError()]
        payment = await self.service.pay(order)
        assert payment.status is Status.INITIATED
        return payment

    async def pay_declined(self, order: PayOrder) -> None:
        """Pays; the provider declines this charge and approves later ones."""
        self.provider.answer = ChargeStatus.DECLINED
        with pytest.raises(PaymentDeclined):
            await self.service.pay(order)
        self.provider.answer = ChargeStatus.APPROVED

    async def recover(self) -> None:
        """Runs recovery until every payment is finished."""
        async with asyncio.timeout(10):
            while any(not p.finished for p in self._all()):
                await self.recovery.recover_batch()
                await asyncio.sleep(0.02)

    def _all(self) -> list[Payment]:
        assert isinstance(self.payments, FakePaymentStore)
        return list(self.payments.payments.values())


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    shop.reservations.hold(9, user_id=42)
    yield shop
    await shop.service.drain(5)
