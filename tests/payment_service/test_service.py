"""Paying, with fakes for everything outside."""

import asyncio
from decimal import Decimal

import pytest

from payment_service.domain import (
    Admission,
    ChargeStatus,
    IdempotencyKeyReused,
    InProgress,
    NotYours,
    Payment,
    PaymentDeclined,
    PaymentNotFound,
    PayOrder,
    ProviderUnavailable,
    ReservationExpired,
    ReservationNotFound,
    Status,
)
from servicekit import call_context
from servicekit.errors import InvalidRequest, ServiceError, Unavailable
from tests.fakes.payments import MemoryPayments
from tests.payment_service.conftest import Shop

ORDER = PayOrder(reservation_id=9, user_id=42)


async def test_a_payment_succeeds_with_one_event(shop: Shop) -> None:
    order = PayOrder(9, 42, admission=Admission("main", 17))
    payment = await shop.service.pay(order)
    assert payment.status is Status.SUCCEEDED
    assert payment.amount == Decimal("150000.00")
    [event] = shop.events
    assert event.succeeded.amount == "150000.00"
    assert event.succeeded.admission.room == "main"
    assert event.succeeded.admission.place_number == 17
    assert (event.payment_id, event.reservation_id, event.user_id) == (payment.id, 9, 42)


async def test_paying_again_gets_the_first_payment(shop: Shop) -> None:
    first = await shop.service.pay(ORDER)
    assert await shop.service.pay(ORDER) == first
    assert len(shop.events) == 1
    assert shop.provider.charged == [first.id]


async def test_fifty_at_once_are_one_payment(shop: Shop) -> None:
    payments = await asyncio.gather(*(shop.service.pay(ORDER) for _ in range(50)))
    assert {p.id for p in payments} == {1}
    assert {p.status for p in payments} == {Status.SUCCEEDED}
    assert shop.provider.charged == [1]
    assert len(shop.events) == 1


async def test_a_decline_keeps_the_hold_and_the_next_call_tries_again(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.DECLINED
    with pytest.raises(PaymentDeclined):
        await shop.service.pay(ORDER)
    assert shop.events[0].failed.reason == "CARD_DECLINED"
    shop.provider.answer = ChargeStatus.APPROVED
    # The event of the decline has not reached the reservation yet.
    assert shop.reservations.paying == {9: 1}
    payment = await shop.service.pay(ORDER)
    assert (payment.id, payment.status) == (2, Status.SUCCEEDED)
    assert shop.event_kinds == ["failed", "succeeded"]


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (PayOrder(8, 42), ReservationNotFound),
        (PayOrder(9, 41), NotYours),
        (PayOrder(10, 42), ReservationExpired),
        (PayOrder(0, 42), InvalidRequest),
        (PayOrder(9, -1), InvalidRequest),
        (PayOrder(9, 42, "k" * 256), InvalidRequest),
    ],
)
async def test_what_cannot_be_paid_is_refused_and_charges_nothing(
    shop: Shop, order: PayOrder, error: type[ServiceError]
) -> None:
    shop.reservations.hold(10, user_id=42)
    shop.reservations.lapse(10)
    for _ in range(2):
        with pytest.raises(error):
            await shop.service.pay(order)
    assert shop.provider.book == {}
    assert shop.events == []


async def test_a_stranger_keeps_no_owner_waiting(shop: Shop) -> None:
    stranger, owner = await asyncio.gather(
        shop.service.pay(PayOrder(9, 41)), shop.service.pay(ORDER), return_exceptions=True
    )
    assert isinstance(stranger, NotYours)
    assert not isinstance(owner, BaseException)
    assert owner.status is Status.SUCCEEDED


async def test_reservations_away_charge_nothing_then_or_later(shop: Shop) -> None:
    shop.reservations.troubles = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await shop.service.pay(ORDER)
    await shop.recover()
    assert shop.provider.book == {}
    assert shop.event_kinds == ["failed"]
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_a_silent_provider_is_pending_and_settles_once(shop: Shop) -> None:
    shop.provider.late_troubles = [TimeoutError()]
    payment = await shop.service.pay(ORDER)
    assert payment.status is Status.INITIATED
    assert shop.events == []
    paying = asyncio.create_task(shop.service.pay(ORDER))
    await shop.recover()
    assert (await paying).status is Status.SUCCEEDED
    assert shop.provider.charged == [payment.id]
    assert shop.event_kinds == ["succeeded"]


async def test_a_decline_that_nobody_was_told_is_told_once(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.DECLINED
    shop.provider.late_troubles = [TimeoutError()]
    assert (await shop.service.pay(ORDER)).status is Status.INITIATED
    await shop.recover()
    shop.provider.answer = ChargeStatus.APPROVED
    with pytest.raises(PaymentDeclined):
        await shop.service.pay(ORDER)
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_a_decline_that_nobody_was_told_is_told_once_to_whoever_asks(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.DECLINED
    shop.provider.late_troubles = [TimeoutError()]
    assert (await shop.service.pay(ORDER)).status is Status.INITIATED
    assert (await shop.service.payment_of_reservation(9, 42)).status is Status.INITIATED
    await shop.recover()
    with pytest.raises(PaymentDeclined):
        await shop.service.payment_of_reservation(9, 42)
    with pytest.raises(PaymentNotFound):
        await shop.service.payment_of_reservation(9, 42)


async def test_a_provider_away_is_pending(shop: Shop) -> None:
    shop.provider.troubles = [ProviderUnavailable("away"), ProviderUnavailable("away")]
    assert (await shop.service.pay(ORDER)).status is Status.INITIATED
    await shop.recover()
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED
    assert shop.provider.charged == [1]


async def test_a_deadline_that_comes_first_is_pending_and_the_driver_goes_on(shop: Shop) -> None:
    gate = asyncio.Event()
    begin = shop.reservations.begin_payment

    async def slow(payment):  # type: ignore[no-untyped-def]
        await gate.wait()
        # The driver has a budget of its own.
        assert call_context.remaining(4.0) > 3.0
        return await begin(payment)

    shop.reservations.begin_payment = slow  # type: ignore[method-assign]

    async def call() -> Status:
        call_context.set_deadline(0.4)
        return (await shop.service.pay(ORDER)).status

    assert await asyncio.create_task(call()) is Status.INITIATED
    gate.set()
    await shop.service.drain(5)
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_a_caller_that_hangs_up_stops_nothing(shop: Shop) -> None:
    callers = [asyncio.create_task(shop.service.pay(ORDER)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await shop.service.drain(5)
    assert shop.event_kinds == ["succeeded"]


async def test_the_outcome_can_be_asked_for_without_paying(shop: Shop) -> None:
    service = shop.service
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 42)
    with pytest.raises(NotYours):
        await service.pay(PayOrder(9, 41))
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 41)
    shop.provider.answer = ChargeStatus.DECLINED
    with pytest.raises(PaymentDeclined):
        await service.pay(ORDER)
    # The decline has been told; for another try the caller needs an admission again.
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 42)
    shop.provider.answer = ChargeStatus.APPROVED
    payment = await service.pay(ORDER)
    assert await service.payment_of_reservation(9, 42) == payment
    with pytest.raises(NotYours):
        await service.payment_of_reservation(9, 41)


class TestIdempotencyKey:
    ORDER = PayOrder(9, 42, "key")

    async def test_a_repeat_gets_the_first_answer(self, shop: Shop) -> None:
        first = await shop.service.pay(self.ORDER)
        assert await shop.service.pay(self.ORDER) == first

    async def test_a_decline_is_remembered_and_another_key_tries_again(self, shop: Shop) -> None:
        shop.provider.answer = ChargeStatus.DECLINED
        with pytest.raises(PaymentDeclined):
            await shop.service.pay(self.ORDER)
        shop.provider.answer = ChargeStatus.APPROVED
        for _ in range(2):
            with pytest.raises(PaymentDeclined):
                await shop.service.pay(self.ORDER)
        assert (await shop.service.pay(PayOrder(9, 42, "other"))).status is Status.SUCCEEDED
        with pytest.raises(PaymentDeclined):
            await shop.service.pay(self.ORDER)

    async def test_another_reservation_is_refused(self, shop: Shop) -> None:
        await shop.service.pay(self.ORDER)
        with pytest.raises(IdempotencyKeyReused):
            await shop.service.pay(PayOrder(10, 42, "key"))
        # Another user's key of the same name is another key.
        shop.reservations.hold(10, user_id=43)
        assert (await shop.service.pay(PayOrder(10, 43, "key"))).status is Status.SUCCEEDED

    async def test_while_the_first_is_in_flight(self, shop: Shop) -> None:
        answers = await asyncio.gather(
            *(shop.service.pay(self.ORDER) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(answer, InProgress) for answer in answers) == 9
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED

    async def test_after_pending_asking_again_tells(self, shop: Shop) -> None:
        shop.provider.answer = ChargeStatus.DECLINED
        shop.provider.late_troubles = [TimeoutError()]
        assert (await shop.service.pay(self.ORDER)).status is Status.INITIATED
        asking = asyncio.create_task(shop.service.pay(self.ORDER))
        await shop.recover()
        for answer in (asking, shop.service.pay(self.ORDER)):
            with pytest.raises(PaymentDeclined):
                await answer

    async def test_unavailable_is_not_remembered(self, shop: Shop) -> None:
        shop.reservations.troubles = [Unavailable("away")]
        with pytest.raises(Unavailable):
            await shop.service.pay(self.ORDER)
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED

    async def test_a_driver_that_fails_is_pending_and_sticks_no_key(self, shop: Shop) -> None:
        record = shop.payments.record_outcome

        async def lost(*_: object) -> Payment:
            raise Unavailable("The database is away.")

        shop.payments.record_outcome = lost  # type: ignore[method-assign,assignment]
        payment = await shop.service.pay(self.ORDER)
        assert payment.status is Status.INITIATED
        assert shop.provider.charged == [payment.id]
        shop.payments.record_outcome = record  # type: ignore[method-assign]
        # Recovery takes it up when its driver's lease is over.
        await shop.payments.park(payment, 0)
        asking = asyncio.create_task(shop.service.pay(self.ORDER))
        await shop.recover()
        assert (await asking).status is Status.SUCCEEDED
        assert shop.provider.charged == [payment.id]

    async def test_a_database_lost_while_waiting_sticks_no_key(self, shop: Shop) -> None:
        await shop.payments.create_payment(self.ORDER, lease_seconds=60, answer_seconds=0)
        get = shop.payments.get_payment

        async def lost(_: int) -> Payment | None:
            raise Unavailable("The database is away.")

        shop.payments.get_payment = lost  # type: ignore[method-assign,assignment]
        with pytest.raises(Unavailable):
            await shop.service.pay(self.ORDER)
        shop.payments.get_payment = get  # type: ignore[method-assign]
        attempt = await shop.payments.create_payment(self.ORDER, lease_seconds=60, answer_seconds=0)
        assert not attempt.created

    async def test_a_key_that_cannot_be_released_spoils_no_answer(self, shop: Shop) -> None:
        async def lost(_: PayOrder) -> None:
            raise Unavailable("The database is away.")

        shop.payments.release_key = lost  # type: ignore[method-assign,assignment]
        shop.provider.late_troubles = [TimeoutError()]
        assert (await shop.service.pay(self.ORDER)).status is Status.INITIATED

    async def test_a_crash_sticks_no_key(self, shop: Shop) -> None:
        await shop.payments.create_payment(self.ORDER, lease_seconds=0, answer_seconds=0.1)
        with pytest.raises(InProgress):
            await shop.service.pay(self.ORDER)
        await shop.recover()
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED


class TestRefund:
    async def test_a_lost_seat_gives_the_money_back_once(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        for _ in range(2):
            await shop.service.refund(payment.id)
        assert shop.provider.refunds == [payment.id]
        assert shop.event_kinds == ["succeeded", "refunded"]
        assert (await shop.service.pay(ORDER)).status is Status.REFUNDED
        assert (await shop.service.payment_of_reservation(9, 42)).status is Status.REFUNDED

    async def test_a_provider_away_is_asked_again(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        shop.provider.troubles = [ProviderUnavailable("away")]
        with pytest.raises(ProviderUnavailable):
            await shop.service.refund(payment.id)
        assert shop.event_kinds == ["succeeded"]
        await shop.service.refund(payment.id)
        assert shop.event_kinds == ["succeeded", "refunded"]

    async def test_a_crash_after_the_refund_refunds_once(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        await shop.provider.refund(payment.id)
        await shop.service.refund(payment.id)
        assert shop.provider.refunds == [payment.id]
        assert shop.event_kinds == ["succeeded", "refunded"]

    async def test_what_did_not_succeed_is_a_mistake(self, shop: Shop) -> None:
        with pytest.raises(PaymentNotFound):
            await shop.service.refund(77)
        shop.provider.answer = ChargeStatus.DECLINED
        with pytest.raises(PaymentDeclined):
            await shop.service.pay(ORDER)
        with pytest.raises(InvalidRequest):
            await shop.service.refund(1)
        assert shop.provider.refunds == []


async def test_answers_of_another_replica_are_found(shop: Shop) -> None:
    other = shop.again()
    payments = await asyncio.gather(
        *(replica.service.pay(ORDER) for replica in (shop, other) for _ in range(10))
    )
    assert {(p.id, p.status) for p in payments} == {(1, Status.SUCCEEDED)}
    assert isinstance(shop.payments, MemoryPayments)
    assert len(shop.payments.payments) == 1


async def test_an_earlier_payment_still_being_wound_up_is_unavailable_for_a_while(
    shop: Shop,
) -> None:
    shop.reservations.paying[9] = 77
    with pytest.raises(Unavailable):
        await shop.service.pay(ORDER)
    assert shop.events == []
    del shop.reservations.paying[9]
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED
