"""Crashes of a driver at each step, and their recovery."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from payment_service import recovery as recovery_module
from payment_service.domain import (
    LONGEST_REFUSED_PARK_SECONDS,
    Charge,
    ChargeStatus,
    Money,
    Outcome,
    Payment,
    PayOrder,
    Status,
)
from payment_service.errors import (
    PaymentDeclined,
    ProviderRefused,
    ProviderUnavailable,
    ReservationExpired,
)
from servicekit.errors import Unavailable
from tests.fakes.payment import FakePaymentStore
from tests.payment_service.conftest import Shop

ORDER = PayOrder(reservation_id=9, user_id=42)


class Lost(BaseException):
    """Simulates kill -9: no exception handler of the service catches it."""


def lose(owner: Any, step: str, *, after: bool) -> None:
    """Crashes the driver before or after one of its steps."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, step)

    async def lost(*arguments: Any, **named: Any) -> Any:
        setattr(owner, step, method)
        if after:
            await method(*arguments, **named)
        raise Lost

    setattr(owner, step, lost)


STEPS = [
    ("reservations", "begin_payment"),
    ("provider", "charge"),
    ("payments", "record_outcome"),
]


async def crash(shop: Shop, owner: str, step: str, *, after: bool) -> None:
    """Pays, and crashes the driver at that step; its lease is over at once."""
    payment = await shop.abandoned(ORDER)
    lose(getattr(shop, owner), step, after=after)
    with pytest.raises(Lost):
        await shop.service._saga.drive(payment)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "step"), STEPS)
@pytest.mark.parametrize("decision", [ChargeStatus.APPROVED, ChargeStatus.DECLINED])
async def test_recovery_finishes_the_payment_of_a_crashed_driver(
    shop: Shop, owner: str, step: str, after: bool, decision: ChargeStatus
) -> None:
    shop.provider.answer = decision
    await crash(shop, owner, step, after=after)
    restarted = shop.restarted()
    await restarted.recover()
    assert len(shop.provider.book) == 1
    if decision is ChargeStatus.APPROVED:
        assert (await restarted.service.pay(ORDER)).status is Status.SUCCEEDED
        assert shop.event_kinds == ["succeeded"]
        assert shop.provider.charged == [1]
    else:
        with pytest.raises(PaymentDeclined):
            await restarted.service.pay(ORDER)
        assert shop.event_kinds == ["failed"]
        assert shop.provider.charged == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "step"), STEPS)
async def test_after_the_hold_expired_recovery_starts_no_charge(
    shop: Shop, owner: str, step: str, after: bool
) -> None:
    await crash(shop, owner, step, after=after)
    shop.reservations.lapse(9)
    restarted = shop.restarted()
    await restarted.recover()
    assert isinstance(shop.payments, FakePaymentStore)
    payment = shop.payments.payments[1]
    if shop.provider.charged:
        # Charged: by this event reservation_service confirms the seat or reports it as lost.
        assert payment.status is Status.SUCCEEDED
        assert shop.event_kinds == ["succeeded"]
    else:
        assert payment.status is Status.FAILED
        assert shop.events == []
        with pytest.raises(ReservationExpired):
            await restarted.service.pay(ORDER)
        assert shop.provider.charged == []


async def test_a_charge_that_arrives_after_recovery_gave_up_is_barred(shop: Shop) -> None:
    payment = await shop.abandoned(ORDER)
    shop.reservations.lapse(9)
    await shop.recover()
    charge = await shop.provider.charge(payment.id, 42, Money(shop.reservations.price))
    assert charge.status is ChargeStatus.DECLINED
    assert shop.provider.charged == []


async def test_two_recoveries_and_a_slow_driver_finish_a_payment_once(shop: Shop) -> None:
    payment = await shop.abandoned(ORDER)
    await asyncio.gather(
        shop.service._saga.drive(payment),
        shop.recovery.recover_batch(),
        shop.restarted().recovery.recover_batch(),
    )
    assert shop.event_kinds == ["succeeded"]
    assert shop.provider.charged == [1]


async def test_the_hold_of_a_pending_charge_is_renewed_until_it_settles(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.PENDING
    payment = await shop.service.pay(ORDER)
    assert payment.status is Status.INITIATED
    await asyncio.sleep(0.55)
    await shop.recovery.recover_batch()
    assert shop.reservations.calls == [1, 1], "the hold was not renewed"
    shop.provider.settle(1, ChargeStatus.APPROVED)
    await shop.recover()
    assert shop.event_kinds == ["succeeded"]


async def test_the_hold_of_an_old_payment_is_renewed_only_once_it_is_charged(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.PENDING
    payment = await shop.service.pay(ORDER)
    old = replace(payment, created_at=payment.created_at - timedelta(hours=1))
    await shop.service._saga.resume(old)
    shop.provider.troubles = [ProviderUnavailable("unavailable")]
    await shop.service._saga.resume(old)
    assert shop.reservations.calls == [1]
    shop.provider.settle(1, ChargeStatus.APPROVED)
    assert (await shop.service._saga.resume(old)).status is Status.SUCCEEDED
    assert shop.reservations.calls == [1, 1]


async def test_recovery_retries_while_reservation_service_is_unavailable(shop: Shop) -> None:
    await shop.abandoned(ORDER)
    shop.reservations.troubles = [Unavailable("unavailable")]
    await shop.recovery.recover_batch()
    assert shop.provider.book == {}
    await shop.recover()
    assert shop.event_kinds == ["succeeded"]


async def test_a_failing_recovery_does_not_stop_the_others(shop: Shop) -> None:
    shop.reservations.hold(10, user_id=42)
    await shop.abandoned(ORDER)
    await shop.abandoned(PayOrder(10, 42))
    shop.reservations.troubles = [ValueError("a defect")]
    await shop.recovery.recover_batch()
    assert shop.provider.charged == [2]


async def test_the_hold_of_an_unpublished_success_is_renewed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "UNPUBLISHED_SECONDS", 0.3)
    await shop.service._saga.drive(await shop.abandoned(ORDER))
    await asyncio.sleep(0.35)
    for _ in range(3):
        await shop.recovery.poll_once()
    assert shop.reservations.calls == [1, 1], "renewed at intervals, not at every poll"


async def test_a_failing_renewal_does_not_stop_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "UNPUBLISHED_SECONDS", 0.0)
    shop.reservations.hold(10, user_id=42)
    for order in (ORDER, PayOrder(10, 42)):
        await shop.service._saga.drive(await shop.abandoned(order))
    shop.reservations.calls.clear()
    shop.reservations.troubles = [ValueError("a defect")]
    await shop.recovery.renew_unpublished()
    assert sorted(shop.reservations.calls) == [1, 2]


async def test_the_holds_of_many_unpublished_successes_are_all_renewed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "UNPUBLISHED_SECONDS", 0.0)
    for reservation_id in range(1000, 1500):
        shop.reservations.hold(reservation_id, user_id=42)
        await shop.service._saga.drive(await shop.abandoned(PayOrder(reservation_id, 42)))
    shop.reservations.calls.clear()
    begin = shop.reservations.begin_payment
    at_once = most_at_once = 0

    async def count(payment: Payment) -> Money:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        try:
            return await begin(payment)
        finally:
            at_once -= 1

    shop.reservations.begin_payment = count  # type: ignore[method-assign]
    await shop.recovery.poll_once()
    assert sorted(shop.reservations.calls) == list(range(1, 501))
    assert most_at_once == recovery_module.BATCH, "others wait behind them"
    await shop.recovery.poll_once()
    assert len(shop.reservations.calls) == 500, "renewed before the interval was over"


async def test_renewals_that_take_long_do_not_delay_unfinished_payments(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "UNPUBLISHED_SECONDS", 0.0)
    monkeypatch.setattr(recovery_module, "BATCH", 1)
    monkeypatch.setattr(recovery_module, "LONGEST_RENEWING_SECONDS", 0.0)
    for reservation_id in (10, 11):
        shop.reservations.hold(reservation_id, user_id=42)
        await shop.service._saga.drive(await shop.abandoned(PayOrder(reservation_id, 42)))
    await shop.abandoned(ORDER)
    shop.reservations.calls.clear()
    await shop.recovery.poll_once()
    assert shop.reservations.calls == [1, 3], "the second renewal waits for the next time"
    assert shop.provider.charged == [1, 2, 3]


async def test_a_charge_that_the_provider_refuses_is_given_up(shop: Shop) -> None:
    shop.provider.troubles = [ProviderRefused("422")]
    assert (await shop.service.pay(ORDER)).status is Status.INITIATED
    await asyncio.sleep(0.55)
    charge = shop.provider.charge

    async def refuse(*_: Any) -> Charge:
        raise ProviderRefused("422")

    shop.provider.charge = refuse  # type: ignore[method-assign,assignment]
    await shop.recovery.recover_batch()
    payment = await shop.payments.get_payment(1)
    assert payment is not None
    assert (payment.status, payment.failure_code) == (Status.FAILED, Unavailable.code)
    assert shop.event_kinds == ["failed"], "the seat goes back to its hold"
    assert (await charge(1, 42, Money(shop.reservations.price))).status is ChargeStatus.DECLINED
    shop.provider.charge = charge  # type: ignore[method-assign]
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_refused_reads_and_refunds_are_logged_and_retried_less_and_less_often(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    parks: list[float] = []
    park = shop.payments.park

    async def measured(payment: Payment, seconds: float) -> None:
        parks.append(seconds)
        await park(payment, 0)

    shop.payments.park = measured  # type: ignore[method-assign]
    abandoned = await shop.abandoned(ORDER)
    refused = [ProviderRefused("401") for _ in range(12)]
    shop.provider.troubles = list[Exception](refused)
    for _ in range(6):
        await shop.recovery.recover_batch()
    renewals = len(shop.reservations.calls)
    assert renewals == 6, "it may have been charged, so its hold is renewed"
    assert await shop.payments.give_up(replace(abandoned, attempts=6), ReservationExpired.code)
    for _ in range(6):
        await shop.recovery.recover_batch()
    assert len(shop.reservations.calls) == renewals, "it will not be charged: no renewal"
    assert parks == sorted(parks)
    assert parks[0] == 1
    assert parks[-1] == LONGEST_REFUSED_PARK_SECONDS
    assert caplog.text.count("provider_refused") == 12
    await shop.recovery.recover_batch()
    ended = await shop.payments.get_payment(abandoned.id)
    assert ended is not None
    assert ended.failure_code == ReservationExpired.code
    assert ended.finished
    assert shop.events == []


async def test_a_finished_payment_does_not_change(shop: Shop) -> None:
    payment = await shop.service.pay(ORDER)
    now = await shop.payments.record_outcome(payment, Outcome(Status.FAILED), None)
    assert now == payment
    assert shop.provider.book[payment.id] == Charge(ChargeStatus.APPROVED, payment.due)
