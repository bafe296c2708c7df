"""A provider that charges another amount than asked: it is refunded, never taken as paid."""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from prometheus_client import REGISTRY

from payment_service.domain import ChargeStatus, Money, Payment, PayOrder, Status
from payment_service.errors import (
    ChargeAmountDiffers,
    ProviderRefused,
    ProviderUnavailable,
    ReservationNotFound,
)
from servicekit.errors import Unavailable
from tests.fakes.payment import FakePaymentStore
from tests.fakes.psp import INVALID_AMOUNTS, Psp, http_provider
from tests.payment_service.conftest import Shop

ORDER = PayOrder(reservation_id=9, user_id=42)
PRICE = Decimal("150000.00")
# The last is beyond the range of the column.
OTHER_AMOUNTS = ("1.00", "300000.00", "-5.00", "0.00", "150000.01", "99999999999.00")


def differing() -> float:
    """The value of the metric."""
    return REGISTRY.get_sample_value("payment_charge_amount_differs_total") or 0.0


def stored(shop: Shop, payment_id: int = 1) -> Payment:
    assert isinstance(shop.payments, FakePaymentStore)
    return shop.payments.payments[payment_id]


async def recover(shop: Shop) -> None:
    """Recovers every payment now, without the pauses between attempts."""
    assert isinstance(shop.payments, FakePaymentStore)
    while any(not payment.finished for payment in shop.payments.payments.values()):
        shop.payments._driven_until = dict.fromkeys(shop.payments._driven_until, 0.0)
        await shop.recovery.recover_batch()


def assert_refused(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Asserts that payment 1 is FAILED with its event, is counted, and was logged once as error."""
    payment = stored(shop)
    assert (payment.status, payment.failure_code) == (Status.FAILED, ChargeAmountDiffers.code)
    assert payment.amount_due == PRICE
    assert [event.failed.reason for event in shop.events] == [ChargeAmountDiffers.code]
    errors = [r for r in caplog.records if r.message == "charge_amount_differs"]
    assert [record.levelname for record in errors] == ["ERROR"]


@pytest.fixture
def count() -> float:
    """How many such charges there were before the test."""
    return differing()


class TestFake:
    @pytest.mark.parametrize("amount", [*OTHER_AMOUNTS, "NaN", "sNaN", "Infinity"])
    async def test_by_the_response(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, count: float, amount: str
    ) -> None:
        shop.provider.amount = Decimal(amount)
        with pytest.raises(ChargeAmountDiffers):
            await shop.service.pay(ORDER)
        assert_refused(shop, caplog)
        assert shop.provider.refunds == [1]
        assert differing() == count + 1
        # The user pays again within the hold.
        shop.provider.amount = None
        assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED

    @pytest.mark.parametrize("amount", OTHER_AMOUNTS)
    async def test_later_by_a_read(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, amount: str
    ) -> None:
        shop.provider.amount = Decimal(amount)
        await shop.pay_without_answer(ORDER)
        assert stored(shop).amount_due == PRICE, "recovery knows the amount due"
        await recover(shop)
        assert_refused(shop, caplog)
        assert shop.provider.refunds == [1]
        with pytest.raises(ChargeAmountDiffers):
            await shop.service.pay(ORDER)

    @pytest.mark.parametrize("amount", OTHER_AMOUNTS)
    async def test_once_a_pending_charge_settles(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, amount: str
    ) -> None:
        shop.provider.answer = ChargeStatus.PENDING
        shop.provider.amount = Decimal(amount)
        await shop.service.pay(ORDER)
        shop.provider.settle(1, ChargeStatus.APPROVED)
        await recover(shop)
        assert_refused(shop, caplog)

    @pytest.mark.parametrize("amount", OTHER_AMOUNTS)
    async def test_on_a_retry_by_recovery(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, amount: str
    ) -> None:
        shop.provider.amount = Decimal(amount)
        shop.provider.troubles = [ProviderUnavailable("unavailable")]
        await shop.service.pay(ORDER)
        await recover(shop)
        assert_refused(shop, caplog)

    async def test_another_currency_is_another_amount(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, count: float
    ) -> None:
        shop.provider.currency = "EUR"
        with pytest.raises(ChargeAmountDiffers):
            await shop.service.pay(ORDER)
        assert_refused(shop, caplog)
        assert shop.provider.refunds == [1]
        assert differing() == count + 1
        [record] = [r for r in caplog.records if r.message == "charge_amount_differs"]
        assert (record.due, record.charged) == ("150000.00 KRW", "150000.00 EUR")  # type: ignore[attr-defined]

    async def test_a_key_keeps_the_answer(self, shop: Shop) -> None:
        shop.provider.amount = Decimal(1)
        for _ in range(2):
            with pytest.raises(ChargeAmountDiffers):
                await shop.service.pay(PayOrder(9, 42, "key"))
        assert shop.provider.refunds == [1]


class TestCurrency:
    @pytest.mark.parametrize(("price", "currency"), [("12.345", "KWD"), ("7.50", "EUR")])
    async def test_a_payment_has_that_of_its_reservation(
        self, shop: Shop, price: str, currency: str
    ) -> None:
        shop.reservations.price, shop.reservations.currency = Decimal(price), currency
        payment = await shop.service.pay(ORDER)
        assert (payment.status, payment.due) == (Status.SUCCEEDED, (Decimal(price), currency))
        assert shop.provider.book[1].amount == (Decimal(price), currency)
        [event] = shop.events
        assert (event.succeeded.amount, event.succeeded.currency) == (price, currency)

    async def test_recovery_knows_it(self, shop: Shop) -> None:
        shop.reservations.currency = "EUR"
        await shop.pay_without_answer(ORDER)
        assert stored(shop).currency == "EUR"
        await recover(shop)
        assert (stored(shop).status, stored(shop).currency) == (Status.SUCCEEDED, "EUR")


class TestNothingDue:
    @pytest.fixture
    async def shop(self, shop: Shop) -> Shop:
        """A free seat, and a provider that is unavailable."""
        shop.reservations.price = Decimal("0.00")
        shop.provider.troubles = [ProviderUnavailable("unavailable")] * 5
        return shop

    async def test_is_paid_without_a_charge(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        assert (payment.status, payment.amount) == (Status.SUCCEEDED, Decimal(0))
        assert [event.succeeded.amount for event in shop.events] == ["0.00"]
        assert shop.provider.book == {}

    async def test_needs_no_refund(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        await shop.service.refund(payment.id, 9)
        assert stored(shop).status is Status.REFUNDED
        assert shop.event_kinds == ["succeeded", "refunded"]
        assert shop.provider.book == {}

    @pytest.mark.parametrize("available", [False, True])
    async def test_recovery_needs_no_charge_either(self, shop: Shop, available: bool) -> None:
        await shop.abandoned(ORDER)
        if available:
            shop.provider.troubles.clear()
        await shop.recovery.recover_batch()
        assert (stored(shop).status, stored(shop).amount) == (Status.SUCCEEDED, Decimal(0))
        assert shop.provider.book == {}


class TestHttp:
    @pytest.fixture
    def psp(self) -> Psp:
        return Psp()

    @pytest.fixture
    async def shop(self, psp: Psp) -> AsyncIterator[Shop]:
        async with http_provider(psp) as provider:
            shop = Shop(guard=provider)
            shop.reservations.hold(9, user_id=42)
            yield shop
            await shop.service.drain(5)

    @pytest.mark.parametrize("amount", [*OTHER_AMOUNTS, *INVALID_AMOUNTS])
    async def test_by_the_response(
        self, shop: Shop, psp: Psp, caplog: pytest.LogCaptureFixture, amount: object
    ) -> None:
        psp.amount = amount
        with pytest.raises(ChargeAmountDiffers):
            await shop.service.pay(ORDER)
        assert_refused(shop, caplog)
        assert psp.charges["1"] == {"status": "REFUNDED"}

    @pytest.mark.parametrize("amount", [*OTHER_AMOUNTS, *INVALID_AMOUNTS])
    async def test_later_by_a_read(
        self, shop: Shop, psp: Psp, caplog: pytest.LogCaptureFixture, amount: object
    ) -> None:
        psp.amount = amount
        psp.decision = "PENDING"
        assert (await shop.service.pay(ORDER)).status is Status.INITIATED
        psp.charges["1"]["status"] = "APPROVED"
        await recover(shop)
        assert_refused(shop, caplog)
        assert psp.charges["1"] == {"status": "REFUNDED"}

    async def test_an_operator_refunds_what_the_provider_refuses_to_refund(
        self, shop: Shop, psp: Psp
    ) -> None:
        psp.amount, psp.refuses_refunds = "1.00", True
        assert (await shop.service.pay(ORDER)).status is Status.INITIATED
        psp.charges["1"]["status"] = "REFUNDED"
        await shop.payments.park(stored(shop), 0)
        await shop.recovery.recover_batch()
        assert stored(shop).failure_code == ChargeAmountDiffers.code
        assert stored(shop).finished


class TestCrashes:
    """The driver's process is lost at a step; recovery refunds."""

    @pytest.mark.parametrize("lapsed", [False, True])
    async def test_before_the_amount_due_was_stored(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, lapsed: bool
    ) -> None:
        payment = await shop.abandoned(ORDER)
        shop.provider.amount = Decimal(1)
        await shop.provider.charge(payment.id, 42, await shop.reservations.begin_payment(payment))
        if lapsed:
            shop.reservations.lapse(9)
        await recover(shop)
        assert_refused(shop, caplog)
        assert shop.provider.charged == []

    async def test_without_reservation_service_the_payment_waits(self, shop: Shop) -> None:
        payment = await shop.abandoned(ORDER)
        await shop.provider.charge(payment.id, 42, Money(PRICE))
        shop.reservations.lapse(9)

        async def unavailable(_: Payment) -> Money:
            raise Unavailable("unavailable")

        price_of = shop.reservations.price_of
        shop.reservations.price_of = unavailable  # type: ignore[method-assign,assignment]
        await shop.recovery.recover_batch()
        assert not stored(shop).finished
        shop.reservations.price_of = price_of  # type: ignore[method-assign]
        await recover(shop)
        assert stored(shop).status is Status.SUCCEEDED, "the amount is right"

    async def test_a_charge_for_a_removed_reservation_is_refunded(self, shop: Shop) -> None:
        payment = await shop.abandoned(ORDER)
        await shop.provider.charge(payment.id, 42, Money(PRICE))
        shop.reservations.owners.clear()
        await recover(shop)
        assert shop.provider.refunds == [1]
        assert stored(shop).failure_code == ReservationNotFound.code

    async def test_between_the_refund_and_the_outcome(self, shop: Shop) -> None:
        shop.provider.amount = Decimal(1)
        record = shop.payments.record_outcome

        async def lost(*_: object) -> Payment:
            raise Unavailable("The database is unavailable.")

        shop.payments.record_outcome = lost  # type: ignore[method-assign,assignment]
        assert (await shop.service.pay(ORDER)).status is Status.INITIATED
        shop.payments.record_outcome = record  # type: ignore[method-assign]
        await shop.payments.park(stored(shop), 0)
        await recover(shop)
        assert shop.provider.refunds == [1]
        assert stored(shop).failure_code == ChargeAmountDiffers.code


class TestRefundFails:
    async def test_while_the_provider_is_unavailable_the_payment_waits(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.provider.amount = Decimal(1)
        refund = shop.provider.refund

        async def unavailable(_: int) -> None:
            raise ProviderUnavailable("unavailable")

        shop.provider.refund = unavailable  # type: ignore[method-assign,assignment]
        assert (await shop.service.pay(ORDER)).status is Status.INITIATED
        assert await shop.payments.count_unrefunded() == 1
        shop.provider.refund = refund  # type: ignore[method-assign]
        await recover(shop)
        assert_refused(shop, caplog)
        assert await shop.payments.count_unrefunded() == 0

    async def test_a_refused_refund_is_held_for_an_operator_and_its_seat_is_not(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.provider.amount = Decimal(1)

        async def refuse(_: int) -> None:
            raise ProviderRefused("409")

        shop.provider.refund = refuse  # type: ignore[method-assign,assignment]
        assert (await shop.service.pay(ORDER)).status is Status.INITIATED
        renewals = len(shop.reservations.calls)
        for _ in range(3):
            await shop.payments.park(stored(shop), 0)
            await shop.recovery.recover_batch()
        assert not stored(shop).finished
        assert stored(shop).failure_code == ChargeAmountDiffers.code
        assert len(shop.reservations.calls) == renewals, "its hold ends"
        assert shop.events == []
        assert caplog.text.count("provider_refused") == 4
        assert await shop.payments.count_unrefunded() == 1
