"""The store, the reservations and the provider of payment_service, in memory."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from payment_service.domain import (
    FINAL_FAILURES,
    Admission,
    Attempt,
    Charge,
    ChargeStatus,
    Event,
    Money,
    Outcome,
    Payment,
    PayOrder,
    Status,
)
from payment_service.errors import (
    AdmissionEnded,
    ChargeAmountDiffers,
    IdempotencyKeyReused,
    PaymentInProgress,
    RequestInProgress,
    ReservationExpired,
    ReservationNotFound,
)
from payment_service.errors import NotYours as ReservationOfAnother
from servicekit.errors import Unavailable


@dataclass
class _Key:
    payment: Payment
    in_flight_until: float
    # Whether `payment` is not stored any more, because it was rejected.
    rejected: bool = False


class FakePaymentStore:
    """Implements ports.PaymentStore like the real store; `events` is the outbox."""

    def __init__(self) -> None:
        self.payments: dict[int, Payment] = {}
        self.events: list[Event] = []
        self._event_times: dict[str, float] = {}
        self._driven_until: dict[int, float] = {}
        self._keys: dict[tuple[int, str], _Key] = {}
        self._last_id = 0

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        key = (order.user_id, order.idempotency_key)
        known: Payment | None = None
        if order.idempotency_key and key in self._keys:
            used = self._keys[key]
            if used.payment.reservation_id != order.reservation_id:
                raise IdempotencyKeyReused("This idempotency key was used before.")
            known = used.payment if used.rejected else self.payments.get(used.payment.id)
            if used.in_flight_until > time.monotonic() and (known is None or not known.finished):
                raise RequestInProgress("A request with this idempotency key is under way.")
            if known and known.status is Status.FAILED and known.failure_code not in FINAL_FAILURES:
                known = None
        attempt = Attempt(known, False) if known else self._create_or_find(order, lease_seconds)
        if order.idempotency_key and not (known and known.finished):
            until = time.monotonic() + answer_seconds
            self._keys[key] = _Key(attempt.payment, until)
        return attempt

    def _create_or_find(self, order: PayOrder, lease_seconds: float) -> Attempt:
        mine = self._of(order.reservation_id, order.user_id)
        latest = mine[-1] if mine else None
        if latest and (
            latest.status is not Status.FAILED or (latest.declined and not latest.decline_returned)
        ):
            return Attempt(latest, created=False)
        self._last_id += 1
        reached = latest and (latest.declined or latest.failure_code == Unavailable.code)
        payment = Payment(
            id=self._last_id,
            reservation_id=order.reservation_id,
            user_id=order.user_id,
            status=Status.INITIATED,
            amount=None,
            failure_code="",
            decline_returned=False,
            admission=order.admission,
            failed_payment_id=0
            if latest is None
            else latest.id
            if reached
            else latest.failed_payment_id,
            attempts=0,
            created_at=datetime.now(UTC),
        )
        self.payments[payment.id] = payment
        self._driven_until[payment.id] = time.monotonic() + lease_seconds
        return Attempt(payment, created=True)

    def _of(self, reservation_id: int, user_id: int) -> list[Payment]:
        return [
            payment
            for payment in self.payments.values()
            if (payment.reservation_id, payment.user_id) == (reservation_id, user_id)
        ]

    async def release_key(self, order: PayOrder) -> None:
        key = (order.user_id, order.idempotency_key)
        if key in self._keys:
            self._keys[key] = _Key(self._keys[key].payment, 0.0)

    async def remember_rejection(self, order: PayOrder, failure_code: str) -> None:
        key = (order.user_id, order.idempotency_key)
        if key in self._keys:
            payment = replace(
                self._keys[key].payment, status=Status.FAILED, failure_code=failure_code
            )
            self._keys[key] = _Key(payment, 0.0, rejected=True)

    async def get_payment(self, payment_id: int) -> Payment | None:
        return self.payments.get(payment_id)

    async def latest_payment(self, reservation_id: int, user_id: int) -> Payment | None:
        mine = [
            payment
            for payment in self._of(reservation_id, user_id)
            if payment.status is not Status.FAILED
            or (payment.declined and not payment.decline_returned)
        ]
        return mine[-1] if mine else None

    async def paid_by_another(self, reservation_id: int, user_id: int) -> bool:
        return any(
            payment.reservation_id == reservation_id
            and payment.user_id != user_id
            and payment.amount is not None
            for payment in self.payments.values()
        )

    async def record_outcome(
        self, payment: Payment, outcome: Outcome, event: Event | None
    ) -> Payment:
        if self._driven_by(payment):
            self.payments[payment.id] = replace(
                payment,
                status=outcome.status,
                amount=outcome.amount,
                failure_code=outcome.failure_code,
                decline_reason=outcome.decline_reason,
            )
            self._put(event)
        return self.payments[payment.id]

    async def discard_rejected(self, payment: Payment) -> bool:
        if not self._driven_by(payment):
            return False
        del self.payments[payment.id]
        return True

    async def give_up(self, payment: Payment, failure_code: str) -> bool:
        if not self._driven_by(payment):
            return False
        self.payments[payment.id] = replace(payment, failure_code=failure_code)
        return True

    def _driven_by(self, payment: Payment) -> bool:
        now = self.payments.get(payment.id)
        return now is not None and not now.finished and now.attempts == payment.attempts

    async def record_refund(self, payment_id: int, event: Event) -> None:
        payment = self.payments[payment_id]
        if payment.status is Status.SUCCEEDED:
            self.payments[payment_id] = replace(payment, status=Status.REFUNDED)
            self._put(event)

    def _put(self, event: Event | None) -> None:
        if event is not None:
            self.events.append(event)
            self._event_times[event.event_id] = time.monotonic()

    async def mark_decline_returned(self, payment_id: int) -> None:
        self.payments[payment_id] = replace(self.payments[payment_id], decline_returned=True)

    async def park(self, payment: Payment, seconds: float) -> None:
        if self._driven_by(payment):
            now = self.payments[payment.id]
            self.payments[payment.id] = replace(
                now, amount_due=payment.amount_due, currency=payment.currency
            )
            self._driven_until[payment.id] = time.monotonic() + seconds

    async def claim_unfinished(self, *, lease_seconds: float, limit: int) -> Sequence[Payment]:
        return self._claim(
            [payment for payment in self.payments.values() if not payment.finished],
            lease_seconds,
            limit,
        )

    async def claim_unpublished(
        self, *, older_than: float, lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        old = time.monotonic() - older_than
        waiting = {e.payment_id for e in self.events if self._event_times[e.event_id] <= old}
        return self._claim(
            [self.payments[i] for i in waiting if self.payments[i].status is Status.SUCCEEDED],
            lease_seconds,
            limit,
        )

    async def remove_failed(self, older_than_days: int, limit: int) -> int:
        before = datetime.now(UTC) - timedelta(days=older_than_days)
        old = [
            payment.id
            for payment in self.payments.values()
            if payment.status is Status.FAILED
            and payment.failure_code != ChargeAmountDiffers.code
            and payment.created_at < before
        ][:limit]
        for payment_id in old:
            del self.payments[payment_id]
        return len(old)

    async def age(self, payment_id: int, days: float) -> None:
        """What tests do to the store: sets the times of a payment back."""
        payment = self.payments[payment_id]
        past = timedelta(days=days)
        self.payments[payment_id] = replace(payment, created_at=payment.created_at - past)

    async def count_unsent(self) -> int:
        return len(self.events)

    async def count_unrefunded(self) -> int:
        differs = ChargeAmountDiffers.code
        return sum(
            not payment.finished and payment.failure_code == differs
            for payment in self.payments.values()
        )

    async def delete_old_keys(self, older_than_hours: float) -> None:
        if older_than_hours <= 0:
            self._keys.clear()

    def _claim(
        self, payments: Sequence[Payment], lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        now = time.monotonic()
        due = [p for p in payments if self._driven_until[p.id] <= now]
        claimed = sorted(due, key=lambda p: self._driven_until[p.id])[:limit]
        for payment in claimed:
            self.payments[payment.id] = replace(payment, attempts=payment.attempts + 1)
            self._driven_until[payment.id] = now + lease_seconds
        return [self.payments[payment.id] for payment in claimed]


class FakeReservations:
    """Implements ports.Reservations. Holds expire only by `lapse`."""

    def __init__(self, price: str = "150000.00") -> None:
        self.price = Decimal(price)
        self.currency = "KRW"
        self.owners: dict[int, int] = {}
        self.paying: dict[int, int] = {}
        # The payment that is in progress with an admission, and the admissions that one has ended.
        self.paying_with: dict[Admission, int] = {}
        self.ended: set[Admission] = set()
        self.lapsed: set[int] = set()
        self.calls: list[int] = []
        # Raised by the next calls, one each.
        self.troubles: list[Exception] = []

    def hold(self, reservation_id: int, user_id: int) -> None:
        self.owners[reservation_id] = user_id

    def lapse(self, reservation_id: int) -> None:
        self.lapsed.add(reservation_id)

    async def price_of(self, payment: Payment) -> Money:
        if payment.reservation_id not in self.owners:
            raise ReservationNotFound("There is no such reservation.")
        return Money(self.price, self.currency)

    async def begin_payment(self, payment: Payment) -> Money:
        await asyncio.sleep(0)
        self.calls.append(payment.id)
        if self.troubles:
            raise self.troubles.pop(0)
        owner = self.owners.get(payment.reservation_id)
        if owner is None:
            raise ReservationNotFound("There is no such reservation.")
        if owner != payment.user_id:
            raise ReservationOfAnother("The reservation belongs to another user.")
        if payment.reservation_id in self.lapsed:
            raise ReservationExpired("The hold ran out.")
        paying = self.paying.get(payment.reservation_id, 0)
        allowed = (0, payment.id, payment.failed_payment_id)
        if paying not in allowed:
            raise PaymentInProgress("Another payment is under way.", payment_id=paying)
        if payment.admission is not None:
            if payment.admission in self.ended:
                raise AdmissionEnded("The admission has ended.")
            paying = self.paying_with.get(payment.admission, 0)
            if paying not in allowed:
                raise PaymentInProgress("Another payment is under way.", payment_id=paying)
            self.paying_with[payment.admission] = payment.id
        self.paying[payment.reservation_id] = payment.id
        return Money(self.price, self.currency)


class FakeProvider:
    """Implements ports.PaymentProvider. `answer` is its decision, `amount` what it charges if not
    the amount asked, `currency` likewise. The next calls raise `troubles`, one each, before
    anything is charged; `late_troubles` after the charge."""

    def __init__(self) -> None:
        self.answer = ChargeStatus.APPROVED
        self.amount: Decimal | None = None
        self.currency: str | None = None
        self.book: dict[int, Charge] = {}
        self.refunds: list[int] = []
        self.troubles: list[Exception] = []
        self.late_troubles: list[Exception] = []

    @property
    def charged(self) -> list[int]:
        """The ids of the payments that are charged and not refunded."""
        return [i for i, charge in self.book.items() if charge.status is ChargeStatus.APPROVED]

    async def charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        await asyncio.sleep(0)
        if self.troubles:
            raise self.troubles.pop(0)
        charged = Money(
            amount.amount if self.amount is None else self.amount, self.currency or amount.currency
        )
        decided = Charge(self.answer, charged, _reason(self.answer))
        charge = self.book.setdefault(payment_id, decided)
        if self.late_troubles:
            raise self.late_troubles.pop(0)
        if charge.status is ChargeStatus.REFUNDED:
            return Charge(ChargeStatus.DECLINED, amount, "BARRED")
        return charge

    async def get_charge(self, payment_id: int) -> Charge:
        if self.troubles:
            raise self.troubles.pop(0)
        return self.book.get(payment_id, Charge(ChargeStatus.UNKNOWN))

    async def refund(self, payment_id: int) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        known = self.book.get(payment_id)
        if known is not None and known.status is ChargeStatus.APPROVED:
            self.refunds.append(payment_id)
        self.book[payment_id] = Charge(ChargeStatus.REFUNDED, known.amount if known else None)

    def settle(self, payment_id: int, status: ChargeStatus) -> None:
        """Decides a pending charge."""
        self.book[payment_id] = Charge(status, self.book[payment_id].amount, _reason(status))


def _reason(status: ChargeStatus) -> str:
    return "CARD_DECLINED" if status is ChargeStatus.DECLINED else ""
