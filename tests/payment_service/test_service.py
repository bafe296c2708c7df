"""The use cases of payments, over fakes."""

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import grpc
import pytest

from payment_service.consumers import ReservationEvents
from payment_service.domain import Admission, ChargeStatus, Payment, PayOrder, Status
from payment_service.errors import (
    AdmissionEnded,
    IdempotencyKeyReused,
    NotYours,
    PaymentDeclined,
    PaymentInProgress,
    PaymentNotFound,
    ProviderUnavailable,
    RequestInProgress,
    ReservationExpired,
    ReservationNotFound,
)
from servicekit import call_context
from servicekit.errors import InvalidRequest, ServiceError, Unavailable
from servicekit.kafka import Record
from servicekit.rpc_errors import RemoteError
from tests.fakes.payment import FakePaymentStore
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


async def test_paying_again_returns_the_first_payment(shop: Shop) -> None:
    first = await shop.service.pay(ORDER)
    assert await shop.service.pay(ORDER) == first
    assert len(shop.events) == 1
    assert shop.provider.charged == [first.id]


async def test_fifty_concurrent_calls_make_one_payment(shop: Shop) -> None:
    payments = await asyncio.gather(*(shop.service.pay(ORDER) for _ in range(50)))
    assert {p.id for p in payments} == {1}
    assert {p.status for p in payments} == {Status.SUCCEEDED}
    assert shop.provider.charged == [1]
    assert len(shop.events) == 1


async def test_after_a_decline_the_next_call_starts_a_new_payment(shop: Shop) -> None:
    await shop.pay_declined(ORDER)
    assert shop.events[0].failed.reason == "CARD_DECLINED"
    # The event of the decline has not reached the reservation yet.
    assert shop.reservations.paying == {9: 1}
    payment = await shop.service.pay(ORDER)
    assert (payment.id, payment.status) == (2, Status.SUCCEEDED)
    assert shop.event_kinds == ["failed", "succeeded"]


@pytest.fixture
def orders(shop: Shop) -> list[PayOrder]:
    """14 holds of one admission."""
    for reservation_id in range(100, 114):
        shop.reservations.hold(reservation_id, user_id=42)
    return [PayOrder(i, 42, admission=Admission("main", 17)) for i in range(100, 114)]


def kinds(results: list[Payment | BaseException]) -> Counter[str]:
    return Counter(
        r.code if isinstance(r, ServiceError) else r.status.value if isinstance(r, Payment) else "?"
        for r in results
    )


async def test_of_14_payments_of_one_admission_one_succeeds(
    shop: Shop, orders: list[PayOrder]
) -> None:
    results = await asyncio.gather(
        *(shop.service.pay(order) for order in orders), return_exceptions=True
    )
    found = kinds(results)
    assert found.pop("SUCCEEDED") == 1
    assert found.keys() <= {"PAYMENT_IN_PROGRESS", "TOKEN_EXPIRED"}
    assert len(shop.provider.charged) == 1
    assert shop.event_kinds == ["succeeded"]
    # The reservation has not heard of the success yet; the payment is the first one again.
    again = await asyncio.gather(
        *(shop.service.pay(order) for order in orders), return_exceptions=True
    )
    assert kinds(again) == {"SUCCEEDED": 1, "TOKEN_EXPIRED": 13}
    shop.reservations.ended.add(Admission("main", 17))
    with pytest.raises(AdmissionEnded):
        await shop.service.pay(
            next(
                o
                for o, r in zip(orders, again, strict=True)
                if r is not None and not isinstance(r, Payment)
            )
        )
    assert len(shop.provider.charged) == 1


async def test_while_a_payment_of_the_admission_is_pending_the_others_are_in_progress(
    shop: Shop, orders: list[PayOrder]
) -> None:
    await shop.pay_without_answer(orders[0])
    for _ in range(2):
        with pytest.raises(PaymentInProgress):
            await shop.service.pay(orders[1])
    await shop.recover()
    with pytest.raises(AdmissionEnded):
        await shop.service.pay(orders[1])
    assert len(shop.provider.charged) == 1


async def test_after_a_decline_another_reservation_of_the_admission_is_paid_before_the_event(
    shop: Shop, orders: list[PayOrder]
) -> None:
    await shop.pay_declined(orders[0])
    payment = await shop.service.pay(orders[1])
    assert payment.status is Status.SUCCEEDED
    with pytest.raises(AdmissionEnded):
        await shop.service.pay(orders[0])


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_payment_that_was_refused_for_its_admission_can_be_made_with_the_next_one(
    shop: Shop, orders: list[PayOrder], key: str
) -> None:
    await shop.service.pay(orders[0])
    order = replace(orders[1], idempotency_key=key)
    with pytest.raises(AdmissionEnded):
        await shop.service.pay(order)
    again = replace(order, admission=Admission("main", 18))
    assert (await shop.service.pay(again)).status is Status.SUCCEEDED


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
async def test_a_refused_order_charges_nothing(
    shop: Shop, order: PayOrder, error: type[ServiceError]
) -> None:
    shop.reservations.hold(10, user_id=42)
    shop.reservations.lapse(10)
    for _ in range(2):
        with pytest.raises(error):
            await shop.service.pay(order)
    assert shop.provider.book == {}
    assert shop.events == []


@pytest.mark.parametrize("key", ["", "key"])
@pytest.mark.parametrize(
    ("order", "error"),
    [
        (PayOrder(8, 42), ReservationNotFound),
        (PayOrder(9, 41), NotYours),
        (PayOrder(10, 42), ReservationExpired),
    ],
)
async def test_a_refused_order_leaves_no_payment(
    shop: Shop, order: PayOrder, error: type[ServiceError], key: str
) -> None:
    shop.reservations.hold(10, user_id=42)
    shop.reservations.lapse(10)
    order = replace(order, idempotency_key=key)
    details = set()
    for _ in range(3):
        with pytest.raises(error) as refused:
            await shop.service.pay(order)
        details.add(refused.value.detail)
    assert len(details) == 1
    assert isinstance(shop.payments, FakePaymentStore)
    assert shop.payments.payments == {}
    assert shop.events == []
    assert len(shop.reservations.calls) == (1 if key else 3), "a key keeps the first answer"


async def test_a_key_keeps_a_refusal_whatever_becomes_of_the_reservation(shop: Shop) -> None:
    order = PayOrder(8, 42, "key")
    with pytest.raises(ReservationNotFound):
        await shop.service.pay(order)
    shop.reservations.hold(8, user_id=42)
    with pytest.raises(ReservationNotFound):
        await shop.service.pay(order)
    assert (await shop.service.pay(PayOrder(8, 42))).status is Status.SUCCEEDED


@pytest.mark.parametrize("key", ["", "key"])
async def test_any_other_refusal_leaves_no_payment_and_no_answer(shop: Shop, key: str) -> None:
    """A later version of reservation_service may refuse with a code of its own."""
    order = replace(ORDER, idempotency_key=key)
    shop.reservations.troubles = [
        RemoteError("OTHER_REASON", grpc.StatusCode.FAILED_PRECONDITION, "Because."),
        PaymentInProgress("Another payment of the admission is in progress."),
    ]
    for _ in range(2):
        with pytest.raises(ServiceError):
            await shop.service.pay(order)
        assert isinstance(shop.payments, FakePaymentStore)
        assert shop.payments.payments == {}
    assert shop.events == []
    assert (await shop.service.pay(order)).status is Status.SUCCEEDED


async def test_a_defect_of_reservation_service_keeps_the_payment_and_its_event(
    shop: Shop,
) -> None:
    """The payment may have begun, so the reservation has to learn that it failed."""
    shop.reservations.troubles = [
        RemoteError("INTERNAL", grpc.StatusCode.INTERNAL, "The service did not answer.")
    ]
    with pytest.raises(Unavailable):
        await shop.service.pay(ORDER)
    assert shop.event_kinds == ["failed"]


async def test_a_call_finds_another_replicas_payment_that_is_rejected(shop: Shop) -> None:
    """Only the other replica knows why, so this one asks by itself."""
    order = PayOrder(8, 42)
    other = await shop.payments.create_payment(order, lease_seconds=60, answer_seconds=0)
    paying = asyncio.create_task(shop.service.pay(order))
    await asyncio.sleep(0.1)
    assert not paying.done()
    assert await shop.payments.discard_rejected(other.payment)
    with pytest.raises(ReservationNotFound):
        await paying


async def test_two_keys_of_one_rejected_payment_both_keep_the_answer(shop: Shop) -> None:
    orders = [PayOrder(8, 42, key) for key in ("one", "two")]
    for _ in range(2):
        answers = await asyncio.gather(
            *(shop.service.pay(order) for order in orders), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [ReservationNotFound] * 2
    shop.reservations.hold(8, user_id=42)
    for order in orders:
        with pytest.raises(ReservationNotFound):
            await shop.service.pay(order)


async def test_another_users_call_does_not_delay_the_owner(shop: Shop) -> None:
    stranger, owner = await asyncio.gather(
        shop.service.pay(PayOrder(9, 41)), shop.service.pay(ORDER), return_exceptions=True
    )
    assert isinstance(stranger, NotYours)
    assert not isinstance(owner, BaseException)
    assert owner.status is Status.SUCCEEDED


async def test_while_reservation_service_is_unavailable_nothing_is_charged(shop: Shop) -> None:
    shop.reservations.troubles = [Unavailable("unavailable")]
    with pytest.raises(Unavailable):
        await shop.service.pay(ORDER)
    await shop.recover()
    assert shop.provider.book == {}
    assert shop.event_kinds == ["failed"]
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_without_an_answer_of_the_provider_a_payment_is_pending_and_settles_once(
    shop: Shop,
) -> None:
    payment = await shop.pay_without_answer(ORDER)
    assert shop.events == []
    paying = asyncio.create_task(shop.service.pay(ORDER))
    await shop.recover()
    assert (await paying).status is Status.SUCCEEDED
    assert shop.provider.charged == [payment.id]
    assert shop.event_kinds == ["succeeded"]


async def test_an_unreported_decline_is_reported_once_by_pay(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.DECLINED
    await shop.pay_without_answer(ORDER)
    await shop.recover()
    shop.provider.answer = ChargeStatus.APPROVED
    with pytest.raises(PaymentDeclined):
        await shop.service.pay(ORDER)
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_an_unreported_decline_is_reported_once_by_a_read(shop: Shop) -> None:
    shop.provider.answer = ChargeStatus.DECLINED
    await shop.pay_without_answer(ORDER)
    assert (await shop.service.payment_of_reservation(9, 42)).status is Status.INITIATED
    await shop.recover()
    with pytest.raises(PaymentDeclined):
        await shop.service.payment_of_reservation(9, 42)
    with pytest.raises(PaymentNotFound):
        await shop.service.payment_of_reservation(9, 42)


async def test_while_the_provider_is_unavailable_a_payment_is_pending(shop: Shop) -> None:
    shop.provider.troubles = [
        ProviderUnavailable("unavailable"),
        ProviderUnavailable("unavailable"),
    ]
    assert (await shop.service.pay(ORDER)).status is Status.INITIATED
    await shop.recover()
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED
    assert shop.provider.charged == [1]


async def test_at_the_callers_deadline_a_payment_is_pending_and_its_driver_continues(
    shop: Shop,
) -> None:
    gate = asyncio.Event()
    begin = shop.reservations.begin_payment

    async def slow(payment):  # type: ignore[no-untyped-def]
        await gate.wait()
        # The deadline of the caller does not apply to the driver.
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


async def test_the_driver_continues_after_its_caller_disconnects(shop: Shop) -> None:
    callers = [asyncio.create_task(shop.service.pay(ORDER)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await shop.service.drain(5)
    assert shop.event_kinds == ["succeeded"]


async def test_the_outcome_can_be_read_without_paying(shop: Shop) -> None:
    service = shop.service
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 42)
    with pytest.raises(NotYours):
        await service.pay(PayOrder(9, 41))
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 41)
    await shop.pay_declined(ORDER)
    # Pay has reported the decline; another attempt needs an admission again.
    with pytest.raises(PaymentNotFound):
        await service.payment_of_reservation(9, 42)
    payment = await service.pay(ORDER)
    assert await service.payment_of_reservation(9, 42) == payment
    with pytest.raises(NotYours):
        await service.payment_of_reservation(9, 41)


class TestIdempotencyKey:
    ORDER = PayOrder(9, 42, "key")

    async def test_a_repeat_returns_the_first_result(self, shop: Shop) -> None:
        first = await shop.service.pay(self.ORDER)
        assert await shop.service.pay(self.ORDER) == first

    async def test_a_key_keeps_its_decline_and_another_key_starts_a_new_payment(
        self, shop: Shop
    ) -> None:
        await shop.pay_declined(self.ORDER)
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
        # The same key of another user is another key.
        shop.reservations.hold(10, user_id=43)
        assert (await shop.service.pay(PayOrder(10, 43, "key"))).status is Status.SUCCEEDED

    async def test_while_the_first_request_is_in_progress(self, shop: Shop) -> None:
        answers = await asyncio.gather(
            *(shop.service.pay(self.ORDER) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(answer, RequestInProgress) for answer in answers) == 9
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED

    async def test_after_pending_a_repeat_returns_the_outcome(self, shop: Shop) -> None:
        shop.provider.answer = ChargeStatus.DECLINED
        await shop.pay_without_answer(self.ORDER)
        asking = asyncio.create_task(shop.service.pay(self.ORDER))
        await shop.recover()
        for answer in (asking, shop.service.pay(self.ORDER)):
            with pytest.raises(PaymentDeclined):
                await answer

    async def test_a_key_does_not_keep_unavailable(self, shop: Shop) -> None:
        shop.reservations.troubles = [Unavailable("unavailable")]
        with pytest.raises(Unavailable):
            await shop.service.pay(self.ORDER)
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED

    async def test_after_a_failed_driver_a_payment_is_pending_and_its_key_is_free(
        self, shop: Shop
    ) -> None:
        record = shop.payments.record_outcome

        async def lost(*_: object) -> Payment:
            raise Unavailable("The database is unavailable.")

        shop.payments.record_outcome = lost  # type: ignore[method-assign,assignment]
        payment = await shop.service.pay(self.ORDER)
        assert payment.status is Status.INITIATED
        assert shop.provider.charged == [payment.id]
        shop.payments.record_outcome = record  # type: ignore[method-assign]
        # Recovery claims it after its driver's lease.
        await shop.payments.park(payment, 0)
        asking = asyncio.create_task(shop.service.pay(self.ORDER))
        await shop.recover()
        assert (await asking).status is Status.SUCCEEDED
        assert shop.provider.charged == [payment.id]

    async def test_after_the_database_failed_while_waiting_the_key_is_free(
        self, shop: Shop
    ) -> None:
        await shop.payments.create_payment(self.ORDER, lease_seconds=60, answer_seconds=0)
        get = shop.payments.get_payment

        async def lost(_: int) -> Payment | None:
            raise Unavailable("The database is unavailable.")

        shop.payments.get_payment = lost  # type: ignore[method-assign,assignment]
        with pytest.raises(Unavailable):
            await shop.service.pay(self.ORDER)
        shop.payments.get_payment = get  # type: ignore[method-assign]
        attempt = await shop.payments.create_payment(self.ORDER, lease_seconds=60, answer_seconds=0)
        assert not attempt.created

    async def test_a_key_that_cannot_be_released_does_not_change_the_answer(
        self, shop: Shop
    ) -> None:
        async def lost(_: PayOrder) -> None:
            raise Unavailable("The database is unavailable.")

        shop.payments.release_key = lost  # type: ignore[method-assign,assignment]
        await shop.pay_without_answer(self.ORDER)

    async def test_after_a_crash_the_key_is_free(self, shop: Shop) -> None:
        await shop.payments.create_payment(self.ORDER, lease_seconds=0, answer_seconds=0.1)
        with pytest.raises(RequestInProgress):
            await shop.service.pay(self.ORDER)
        await shop.recover()
        assert (await shop.service.pay(self.ORDER)).status is Status.SUCCEEDED


class TestRefund:
    async def test_a_lost_seat_is_refunded_once(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        for _ in range(2):
            await shop.service.refund(payment.id, 9)
        assert shop.provider.refunds == [payment.id]
        assert shop.event_kinds == ["succeeded", "refunded"]
        assert (await shop.service.pay(ORDER)).status is Status.REFUNDED
        assert (await shop.service.payment_of_reservation(9, 42)).status is Status.REFUNDED

    async def test_a_refund_can_be_repeated_after_the_provider_was_unavailable(
        self, shop: Shop
    ) -> None:
        payment = await shop.service.pay(ORDER)
        shop.provider.troubles = [ProviderUnavailable("unavailable")]
        with pytest.raises(ProviderUnavailable):
            await shop.service.refund(payment.id, 9)
        assert shop.event_kinds == ["succeeded"]
        await shop.service.refund(payment.id, 9)
        assert shop.event_kinds == ["succeeded", "refunded"]

    async def test_a_crash_after_the_refund_refunds_once(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        await shop.provider.refund(payment.id)
        await shop.service.refund(payment.id, 9)
        assert shop.provider.refunds == [payment.id]
        assert shop.event_kinds == ["succeeded", "refunded"]

    async def test_the_payment_of_another_reservation_is_not_refunded(self, shop: Shop) -> None:
        payment = await shop.service.pay(ORDER)
        with pytest.raises(InvalidRequest):
            await shop.service.refund(payment.id, 10)
        assert shop.provider.refunds == []

    async def test_a_payment_that_did_not_succeed_cannot_be_refunded(self, shop: Shop) -> None:
        with pytest.raises(PaymentNotFound):
            await shop.service.refund(77, 9)
        await shop.pay_declined(ORDER)
        with pytest.raises(InvalidRequest):
            await shop.service.refund(1, 9)
        assert shop.provider.refunds == []


async def test_the_outcome_of_another_replicas_payment_is_returned(shop: Shop) -> None:
    other = shop.restarted()
    payments = await asyncio.gather(
        *(replica.service.pay(ORDER) for replica in (shop, other) for _ in range(10))
    )
    assert {(p.id, p.status) for p in payments} == {(1, Status.SUCCEEDED)}
    assert isinstance(shop.payments, FakePaymentStore)
    assert len(shop.payments.payments) == 1


async def test_while_an_unknown_payment_is_in_progress_nothing_is_charged(
    shop: Shop,
) -> None:
    shop.reservations.paying[9] = 77
    with pytest.raises(PaymentInProgress):
        await shop.service.pay(ORDER)
    assert shop.events == []
    del shop.reservations.paying[9]
    assert (await shop.service.pay(ORDER)).status is Status.SUCCEEDED


async def test_an_unknown_reservation_event_is_refused(shop: Shop) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        await ReservationEvents(shop.service).handle([Record("reservation.events", b"1", b"")])
