"""Old rows are removed: the same tests on the fake store and on MariaDB."""

import itertools
import random
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from payment_service import events, retention
from payment_service.domain import ChargeStatus, Money, Outcome, Payment, PayOrder, Status
from payment_service.errors import ChargeAmountDiffers, PaymentDeclined, ReservationExpired
from payment_service.outbox import CommittedEvents
from payment_service.providers.sandbox import SandboxBook, SandboxProvider
from payment_service.repository import PaymentRepository
from payment_service.retention import Retention
from payment_service.settings import Settings
from servicekit.errors import Unavailable
from servicekit.mysql import Database
from servicekit.settings import load
from tests.fakes.payment import FakePaymentStore

PRICE = Decimal("150000.00")
reservation_ids = itertools.count(random.randrange(1, 1 << 40))
payment_ids = itertools.count(random.randrange(1 << 41, 1 << 42))


class RealPaymentStore(PaymentRepository):
    """The repository, and what tests do to the store."""

    async def age(self, payment_id: int, days: float) -> None:
        """Sets the times of a payment back; its event has been sent."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE payment SET unsent = 0, unsent_shard = NULL,"
                " driven_until = driven_until - INTERVAL %s SECOND,"
                " updated_at = updated_at - INTERVAL %s SECOND WHERE id = %s",
                days * 86_400,
                days * 86_400,
                payment_id,
            )


Store = FakePaymentStore | RealPaymentStore


class NoBook(SandboxBook):
    """A sandbox provider without records."""

    def __init__(self) -> None:
        pass

    async def remove_charges(self, older_than_days: int, limit: int) -> int:
        return 0


@pytest.fixture(params=["fake", "real"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakePaymentStore()
        return
    async with Database(request.getfixturevalue("mysql_urls")["payment"]) as database:
        yield RealPaymentStore(database, CommittedEvents())


def removing(store: Store, days: int = 1) -> Retention:
    return Retention(store, NoBook(), interval=1, failed_days=days, sandbox_days=30)


async def ended(store: Store, outcome: Outcome, key: str = "") -> Payment:
    """A payment with this outcome, as new as the test."""
    order = PayOrder(next(reservation_ids), 42, key)
    attempt = await store.create_payment(order, lease_seconds=0, answer_seconds=0)
    return await store.record_outcome(
        attempt.payment, outcome, events.failed(attempt.payment, "ANY")
    )


@pytest.mark.parametrize(
    ("outcome", "days", "removed"),
    [
        (Outcome(Status.FAILED, PRICE, PaymentDeclined.code), 1.01, True),
        (Outcome(Status.FAILED, None, Unavailable.code), 1.01, True),
        (Outcome(Status.FAILED, None, ReservationExpired.code), 1.01, True),
        (Outcome(Status.FAILED, PRICE, PaymentDeclined.code), 0.99, False),
        (Outcome(Status.FAILED, PRICE, ChargeAmountDiffers.code), 4000, False),
        (Outcome(Status.SUCCEEDED, PRICE), 4000, False),
    ],
)
async def test_what_is_removed(store: Store, outcome: Outcome, days: float, removed: bool) -> None:
    payment = await ended(store, outcome)
    await store.age(payment.id, days)
    await removing(store).remove_old_rows()
    assert (await store.get_payment(payment.id) is None) == removed


async def test_a_refunded_and_an_unfinished_payment_are_never_removed(store: Store) -> None:
    refunded = await ended(store, Outcome(Status.SUCCEEDED, PRICE))
    await store.record_refund(refunded.id, events.refunded(refunded))
    order = PayOrder(next(reservation_ids), 42)
    unfinished = (await store.create_payment(order, lease_seconds=0, answer_seconds=0)).payment
    for payment in (refunded, unfinished):
        await store.age(payment.id, 4000)
        await removing(store).remove_old_rows()
        assert await store.get_payment(payment.id) is not None


async def test_0_days_keep_everything(store: Store) -> None:
    payment = await ended(store, Outcome(Status.FAILED, PRICE, PaymentDeclined.code))
    await store.age(payment.id, 4000)
    assert await removing(store, days=0).remove_old_rows() == 0
    assert await store.get_payment(payment.id) is not None


async def test_a_round_removes_a_bounded_number(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await removing(store).remove_old_rows()  # of other tests
    monkeypatch.setattr(retention, "BATCH", 3)
    monkeypatch.setattr(retention, "BATCHES", 2)
    for _ in range(8):
        payment = await ended(store, Outcome(Status.FAILED, PRICE, PaymentDeclined.code))
        await store.age(payment.id, 2)
    assert [await removing(store).remove_old_rows() for _ in range(3)] == [6, 2, 0]


async def test_after_the_removal_a_user_can_pay_again(store: Store) -> None:
    payment = await ended(store, Outcome(Status.FAILED, PRICE, PaymentDeclined.code), "key")
    await store.age(payment.id, 2)
    await removing(store).remove_old_rows()
    order = PayOrder(payment.reservation_id, 42, "key")
    attempt = await store.create_payment(order, lease_seconds=0, answer_seconds=0)
    assert attempt.created
    assert attempt.payment.failed_payment_id == 0


async def test_a_decline_that_was_returned_late_stays_with_its_key(
    mysql_urls: dict[str, str],
) -> None:
    """Another key may have found the payment just before it was a day old."""
    async with Database(mysql_urls["payment"]) as database:
        store = RealPaymentStore(database, CommittedEvents())
        payment = await ended(store, Outcome(Status.FAILED, PRICE, PaymentDeclined.code))
        await store.age(payment.id, 2)
        await store.mark_decline_returned(payment.id)
        await removing(store).remove_old_rows()
        assert await store.get_payment(payment.id) is not None


async def test_old_charges_of_the_sandbox_are_removed(mysql_urls: dict[str, str]) -> None:
    async with Database(mysql_urls["payment"]) as database:
        provider, book = SandboxProvider(database), SandboxBook(database)
        old, new = next(payment_ids), next(payment_ids)
        for payment_id in (old, new):
            await provider.charge(payment_id, 42, Money(PRICE))
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE sandbox_charge SET created_at = NOW(6) - INTERVAL 31 DAY"
                " WHERE payment_id = %s",
                old,
            )
        store = RealPaymentStore(database, CommittedEvents())
        await Retention(store, book, interval=1, failed_days=0, sandbox_days=0).remove_old_rows()
        assert (await provider.get_charge(old)).status is ChargeStatus.APPROVED
        await Retention(store, book, interval=1, failed_days=0, sandbox_days=30).remove_old_rows()
        assert (await provider.get_charge(old)).status is ChargeStatus.UNKNOWN
        assert (await provider.get_charge(new)).status is ChargeStatus.APPROVED


@pytest.mark.parametrize("name", ["LEASE_SECONDS", "HOLD_RENEWAL_SECONDS"])
def test_no_row_is_removed_before_its_payment_ends(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"PAYMENT_{name}", "90000")
    with pytest.raises(SystemExit):
        load(Settings)
    assert "must not be shorter" in capsys.readouterr().err
    monkeypatch.setenv("PAYMENT_FAILED_RETENTION_DAYS", "2")
    assert load(Settings).failed_retention_days == 2
    monkeypatch.setenv("PAYMENT_FAILED_RETENTION_DAYS", "0")
    load(Settings)


async def test_a_payment_with_an_unsent_event_stays(mysql_urls: dict[str, str]) -> None:
    """Kafka has been unavailable for days."""
    async with Database(mysql_urls["payment"]) as database:
        store = RealPaymentStore(database, CommittedEvents())
        payment = await ended(store, Outcome(Status.FAILED, PRICE, PaymentDeclined.code))
        await store.age(payment.id, 2)
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE payment SET unsent = 1, unsent_shard = 0, updated_at = updated_at"
                " WHERE id = %s",
                payment.id,
            )
        await store.remove_failed(1, 1000)
        assert await store.get_payment(payment.id) is not None
        await store.age(payment.id, 0)
        await store.remove_failed(1, 1000)
        assert await store.get_payment(payment.id) is None
