"""The contract of the payment store, tested on the fake and on MariaDB."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest

from payment_service import events
from payment_service.domain import Admission, Attempt, Money, Outcome, Payment, PayOrder, Status
from payment_service.errors import (
    ChargeAmountDiffers,
    IdempotencyKeyReused,
    NotYours,
    PaymentDeclined,
    RequestInProgress,
)
from payment_service.outbox import CommittedEvents, OutboxRepository
from payment_service.ports import PaymentStore
from payment_service.repository import PaymentRepository
from servicekit.errors import Unavailable
from servicekit.mysql import Database, DatabaseError
from tests.fakes.payment import FakePaymentStore

# The tests share a schema, so each has reservations of its own.
reservation_ids = itertools.count(random.randrange(1, 1 << 40))

SUCCEEDED = Outcome(Status.SUCCEEDED, Decimal("150000.00"))
DECLINED = Outcome(Status.FAILED, Decimal("150000.00"), PaymentDeclined.code)
STUCK = Outcome(Status.FAILED, failure_code=Unavailable.code)


def new_order(key: str = "", user_id: int = 42) -> PayOrder:
    return PayOrder(next(reservation_ids), user_id, key, Admission("main", 17))


async def create(
    payments: PaymentStore, order: PayOrder, lease: float = 60, answer: float = 60
) -> Attempt:
    return await payments.create_payment(order, lease_seconds=lease, answer_seconds=answer)


async def end(payments: PaymentStore, payment: Payment, outcome: Outcome) -> Payment:
    return await payments.record_outcome(payment, outcome, events.failed(payment, "ANY"))


async def claimed(payments: PaymentStore, payment: Payment) -> bool:
    claim = await payments.claim_unfinished(lease_seconds=60, limit=1000)
    return payment.id in [p.id for p in claim]


class Contract:
    async def test_an_order_creates_one_payment(self, payments: PaymentStore) -> None:
        order = new_order()
        attempts = await asyncio.gather(*(create(payments, order) for _ in range(30)))
        assert sum(attempt.created for attempt in attempts) == 1
        assert len({attempt.payment.id for attempt in attempts}) == 1
        payment = attempts[0].payment
        assert (payment.reservation_id, payment.user_id) == (order.reservation_id, 42)
        assert payment.status is Status.INITIATED
        assert payment.amount is None
        assert payment.admission == Admission("main", 17)
        assert await payments.get_payment(payment.id) == payment
        assert await payments.get_payment(payment.id + 1_000_000) is None

    async def test_users_have_separate_payments(self, payments: PaymentStore) -> None:
        order = new_order()
        stranger = PayOrder(order.reservation_id, 43)
        assert (await create(payments, order)).created
        assert (await create(payments, stranger)).created

    async def test_the_first_outcome_stays(self, payments: PaymentStore) -> None:
        payment = (await create(payments, new_order())).payment
        before = await payments.count_unsent()
        ended = await end(payments, payment, SUCCEEDED)
        assert (ended.status, ended.amount) == (Status.SUCCEEDED, Decimal("150000.00"))
        assert await end(payments, payment, DECLINED) == ended
        assert await payments.count_unsent() == before + 1

    async def test_a_repeated_order_finds_a_success_or_a_refund(
        self, payments: PaymentStore
    ) -> None:
        order = new_order()
        payment = (await create(payments, order)).payment
        ended = await end(payments, payment, SUCCEEDED)
        assert await create(payments, order) == Attempt(ended, created=False)
        before = await payments.count_unsent()
        for _ in range(2):
            await payments.record_refund(payment.id, events.refunded(payment))
        assert await payments.count_unsent() == before + 1
        again = await create(payments, order)
        assert (again.payment.status, again.created) == (Status.REFUNDED, False)

    async def test_only_a_success_is_refunded(self, payments: PaymentStore) -> None:
        payment = (await create(payments, new_order())).payment
        before = await payments.count_unsent()
        await payments.record_refund(payment.id, events.refunded(payment))
        assert await payments.count_unsent() == before
        assert await payments.get_payment(payment.id) == payment

    async def test_a_repeated_order_finds_a_decline_until_it_was_returned(
        self, payments: PaymentStore
    ) -> None:
        order = new_order()
        payment = (await create(payments, order)).payment
        await end(payments, payment, DECLINED)
        repeated = await create(payments, order)
        assert (repeated.payment.id, repeated.created) == (payment.id, False)
        await payments.mark_decline_returned(payment.id)
        second = await create(payments, order)
        assert second.created
        assert second.payment.failed_payment_id == payment.id

    async def test_an_attempt_names_the_last_one_that_reached_its_reservation(
        self, payments: PaymentStore
    ) -> None:
        order = new_order()
        first = (await create(payments, order)).payment
        await end(payments, first, STUCK)
        second = (await create(payments, order)).payment
        assert second.failed_payment_id == first.id
        await end(payments, second, Outcome(Status.FAILED, failure_code="PAYMENT_IN_PROGRESS"))
        third = (await create(payments, order)).payment
        assert third.failed_payment_id == first.id

    async def test_the_latest_payment_leaves_out_returned_and_failed_ones(
        self, payments: PaymentStore
    ) -> None:
        order = new_order()
        ids = (order.reservation_id, order.user_id)
        assert await payments.latest_payment(*ids) is None
        first = (await create(payments, order)).payment
        assert await payments.latest_payment(*ids) == first
        declined = await end(payments, first, DECLINED)
        assert await payments.latest_payment(*ids) == declined
        await payments.mark_decline_returned(first.id)
        assert await payments.latest_payment(*ids) is None
        second = (await create(payments, order)).payment
        assert await payments.latest_payment(*ids) == second
        await end(payments, second, STUCK)
        assert await payments.latest_payment(*ids) is None
        assert await payments.paid_by_another(order.reservation_id, 43)
        assert not await payments.paid_by_another(order.reservation_id, 42)

    async def test_an_unfinished_payment_is_claimed_once_after_its_lease(
        self, payments: PaymentStore
    ) -> None:
        driven = (await create(payments, new_order())).payment
        assert not await claimed(payments, driven)
        left = (await create(payments, new_order(), lease=0)).payment
        claims = await asyncio.gather(*(claimed(payments, left) for _ in range(5)))
        assert sorted(claims) == [False] * 4 + [True]
        again = await payments.get_payment(left.id)
        assert again is not None
        assert again.attempts == 1
        await payments.park(again, 0.5)
        assert not await claimed(payments, left)
        await asyncio.sleep(0.55)
        assert await claimed(payments, left)
        left = replace(again, attempts=2)
        await end(payments, left, SUCCEEDED)
        await payments.park(left, 0)
        assert not await claimed(payments, left)

    async def test_a_driver_without_lease_changes_nothing(self, payments: PaymentStore) -> None:
        slow = (await create(payments, new_order(), lease=0)).payment
        [taken] = [
            payment
            for payment in await payments.claim_unfinished(lease_seconds=60, limit=1000)
            if payment.id == slow.id
        ]
        before = await payments.count_unsent()
        assert await end(payments, slow, SUCCEEDED) == taken
        assert not await payments.give_up(slow, "ANY")
        await payments.park(slow, 0)
        assert not await claimed(payments, slow)
        assert await payments.count_unsent() == before
        assert await payments.give_up(taken, "ANY")
        given_up = await payments.get_payment(slow.id)
        assert given_up == replace(taken, failure_code="ANY")
        assert (await end(payments, taken, DECLINED)).declined

    async def test_every_write_of_a_driver_stores_the_amount_due(
        self, payments: PaymentStore
    ) -> None:
        async def due(payment: Payment) -> Money | None:
            found = await payments.get_payment(payment.id)
            assert found is not None
            return found.due

        price = Money(Decimal("12.345"), "KWD")
        parked, given_up, ended = [
            (await create(payments, new_order())).payment.costing(price) for _ in range(3)
        ]
        assert await due(parked) is None
        await payments.park(parked, 60)
        assert await payments.give_up(given_up, ChargeAmountDiffers.code)
        await end(payments, ended, DECLINED)
        for payment in (parked, given_up, ended):
            assert await due(payment) == price

    async def test_a_charge_of_another_amount_counts_until_it_is_refunded(
        self, payments: PaymentStore
    ) -> None:
        order = new_order()
        payment = (await create(payments, order)).payment
        before = await payments.count_unrefunded()
        assert await payments.give_up(payment, ChargeAmountDiffers.code)
        assert await payments.count_unrefunded() == before + 1
        refunded = Outcome(Status.FAILED, failure_code=ChargeAmountDiffers.code)
        ended = await end(payments, payment, refunded)
        assert await payments.count_unrefunded() == before
        # The user learns of it once, as of a decline, and may then try again.
        assert await create(payments, order) == Attempt(ended, created=False)
        assert await payments.latest_payment(order.reservation_id, 42) == ended
        await payments.mark_decline_returned(payment.id)
        assert (await create(payments, order)).payment.failed_payment_id == payment.id

    async def test_an_unpublished_success_is_claimed_once_per_lease(
        self, payments: PaymentStore
    ) -> None:
        async def claim() -> bool:
            found = await payments.claim_unpublished(older_than=0.5, lease_seconds=0.5, limit=1000)
            return payment.id in [p.id for p in found]

        payment = (await create(payments, new_order(), lease=0)).payment
        await end(payments, payment, SUCCEEDED)
        assert not await claim()
        await asyncio.sleep(0.55)
        assert await claim()
        assert not await claim()
        await asyncio.sleep(0.55)
        assert await claim()

    async def test_every_unpublished_success_is_claimed_in_turn(
        self, payments: PaymentStore
    ) -> None:
        async def succeed() -> int:
            payment = (await create(payments, new_order(), lease=0)).payment
            await end(payments, payment, SUCCEEDED)
            return payment.id

        unseen: set[int] = set()
        for _ in range(50):
            unseen.update(await asyncio.gather(*(succeed() for _ in range(10))))
        # Every lease is over at once, so every claim may return any of them, and also payments of
        # other tests.
        for _ in range(40):
            found = await payments.claim_unpublished(older_than=0, lease_seconds=0, limit=50)
            unseen -= {payment.id for payment in found}
        assert not unseen

    async def test_a_key_returns_its_first_payment(self, payments: PaymentStore) -> None:
        order = new_order("key 🎟")
        payment = (await create(payments, order)).payment
        with pytest.raises(RequestInProgress):
            await create(payments, order)
        with pytest.raises(IdempotencyKeyReused):
            await create(payments, new_order("key 🎟"))
        assert (await create(payments, new_order("KEY 🎟"))).created, "keys are case-sensitive"
        assert (await create(payments, new_order("key 🎟 "))).created, "trailing blanks count"
        await payments.release_key(order)
        assert await create(payments, order) == Attempt(payment, created=False)
        with pytest.raises(RequestInProgress):
            await create(payments, order)
        await end(payments, payment, DECLINED)
        await payments.mark_decline_returned(payment.id)
        assert (await create(payments, order)).payment.id == payment.id
        other = PayOrder(order.reservation_id, 42, "another key")
        assert (await create(payments, other)).created

    async def test_a_key_in_flight_does_not_outlive_its_call(self, payments: PaymentStore) -> None:
        order = new_order(f"key {random.random()}")
        await create(payments, order, answer=0.05)
        await asyncio.sleep(0.06)
        assert not (await create(payments, order)).created

    async def test_a_rejected_payment_leaves_no_row(self, payments: PaymentStore) -> None:
        order = new_order()
        declined = (await create(payments, order)).payment
        await end(payments, declined, DECLINED)
        await payments.mark_decline_returned(declined.id)
        rejected = (await create(payments, order)).payment
        assert await payments.discard_rejected(rejected)
        assert not await payments.discard_rejected(rejected)
        assert await payments.get_payment(rejected.id) is None
        attempt = await create(payments, order)
        assert attempt.created
        assert attempt.payment.id > rejected.id, "an id is never used again"
        assert attempt.payment.failed_payment_id == declined.id

    async def test_only_its_driver_discards_an_unfinished_payment(
        self, payments: PaymentStore
    ) -> None:
        slow = (await create(payments, new_order(), lease=0)).payment
        assert await claimed(payments, slow)
        assert not await payments.discard_rejected(slow)
        paid = (await create(payments, new_order())).payment
        ended = await end(payments, paid, SUCCEEDED)
        assert not await payments.discard_rejected(paid)
        assert await payments.get_payment(paid.id) == ended

    async def test_a_key_keeps_a_final_rejection_without_a_payment(
        self, payments: PaymentStore
    ) -> None:
        order = new_order(f"key {random.random()}")
        payment = (await create(payments, order)).payment
        await payments.discard_rejected(payment)
        with pytest.raises(RequestInProgress):
            await create(payments, order)
        await payments.remember_rejection(order, NotYours.code)
        for _ in range(2):
            repeated = await create(payments, order)
            assert not repeated.created
            assert repeated.payment.id == payment.id
            assert repeated.payment.status is Status.FAILED
            assert repeated.payment.failure_code == NotYours.code
        with pytest.raises(IdempotencyKeyReused):
            await create(payments, replace(order, reservation_id=order.reservation_id + 1))
        assert (await create(payments, replace(order, idempotency_key=""))).created

    async def test_a_key_of_another_rejection_starts_a_new_payment(
        self, payments: PaymentStore
    ) -> None:
        order = new_order(f"key {random.random()}")
        await payments.discard_rejected((await create(payments, order)).payment)
        await payments.release_key(order)
        second = await create(payments, order)
        assert second.created
        ended = await end(payments, second.payment, SUCCEEDED)
        assert await create(payments, order) == Attempt(ended, created=False)

    async def test_of_concurrent_calls_with_a_key_one_is_in_flight(
        self, payments: PaymentStore
    ) -> None:
        order = new_order(f"key {random.random()}")
        attempts = await asyncio.gather(
            *(create(payments, order) for _ in range(30)), return_exceptions=True
        )
        assert sum(isinstance(attempt, Attempt) for attempt in attempts) == 1
        assert sum(isinstance(attempt, RequestInProgress) for attempt in attempts) == 29

    async def test_a_key_allows_a_retry_after_a_failure_that_is_not_final(
        self, payments: PaymentStore
    ) -> None:
        order = new_order(f"key {random.random()}")
        first = (await create(payments, order)).payment
        await end(payments, first, STUCK)
        second = await create(payments, order)
        assert second.created
        ended = await end(payments, second.payment, SUCCEEDED)
        assert await create(payments, order) == Attempt(ended, created=False)

    async def test_old_keys_are_deleted(self, payments: PaymentStore) -> None:
        order = new_order(f"key {random.random()}")
        payment = (await create(payments, order)).payment
        await payments.delete_old_keys(older_than_hours=1)
        with pytest.raises(RequestInProgress):
            await create(payments, order)
        await payments.delete_old_keys(older_than_hours=0)
        assert await create(payments, order) == Attempt(payment, created=False)


class TestMemory(Contract):
    @pytest.fixture
    def payments(self) -> PaymentStore:
        return FakePaymentStore()


class TestMariaDb(Contract):
    @pytest.fixture
    async def payments(self, mysql_urls: dict[str, str]) -> AsyncIterator[PaymentStore]:
        async with Database(mysql_urls["payment"]) as database:
            yield PaymentRepository(database, CommittedEvents())

    @pytest.mark.parametrize("column", ["amount", "amount_due"])
    async def test_no_amount_is_negative(self, mysql_urls: dict[str, str], column: str) -> None:
        async with Database(mysql_urls["payment"]) as database:
            payments = PaymentRepository(database, CommittedEvents())
            payment = (await create(payments, new_order())).payment
            async with database.connection() as connection:
                with pytest.raises(DatabaseError, match="no_negative_amount"):
                    await connection.execute(
                        f"UPDATE payment SET {column} = -0.01 WHERE id = %s", payment.id
                    )

    async def test_an_outcome_and_a_refund_may_be_unsent_at_once(
        self, mysql_urls: dict[str, str]
    ) -> None:
        async with Database(mysql_urls["payment"]) as database:
            payments = PaymentRepository(database, CommittedEvents())
            payment = (await create(payments, new_order())).payment
            event = events.succeeded(payment, SUCCEEDED.amount)
            await payments.record_outcome(payment, SUCCEEDED, event)
            assert await in_outbox(database, payment) == [event.event_id]
            back = events.refunded(payment)
            before = await payments.count_unsent()
            await payments.record_refund(payment.id, back)
            assert await payments.count_unsent() == before + 1
            assert await in_outbox(database, payment) == [event.event_id, back.event_id]
            outbox = OutboxRepository(database)
            assert await outbox.unsent_outcomes({payment.id}) == {payment.id}
            await outbox.mark_sent([event])
            assert await outbox.unsent_outcomes({payment.id}) == set()
            assert await in_outbox(database, payment) == [back.event_id]
            await outbox.mark_sent([event, back])
            assert await in_outbox(database, payment) == []


async def in_outbox(database: Database, payment: Payment) -> list[str]:
    """Returns the ids of the unsent events of a payment, in order."""
    async with OutboxRepository(database).oldest(10_000, set(), older_than=0) as batch:
        return [event.event_id for event in batch.events if event.payment_id == payment.id]
