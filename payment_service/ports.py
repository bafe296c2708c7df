"""What the payments need from the outside: their store, the reservations, a provider."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from payment_service.domain import Attempt, Charge, Event, Outcome, Payment, PayOrder


class Payments(Protocol):
    """The store of payments. Every write is one transaction and durable when it returns."""

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        """Saga step 1: a new payment, driven by the caller for `lease_seconds`; or the one that
        answers this order already: unfinished, paid, or declined with nobody told.

        With an idempotency key, the payment that the key first got; InProgress while the call
        that uses the key has not answered (for at most its `answer_seconds`), and
        IdempotencyKeyReused if the key was for another reservation.
        """
        ...

    async def release_key(self, order: PayOrder) -> None:
        """The call that uses the order's idempotency key answers without an outcome."""
        ...

    async def get_payment(self, payment_id: int) -> Payment | None: ...

    async def latest_payment(self, reservation_id: int, user_id: int) -> Payment | None:
        """The user's latest payment of a reservation that reached, or may reach, the provider;
        of declined ones only one that nobody was told of."""
        ...

    async def paid_by_another(self, reservation_id: int, user_id: int) -> bool:
        """Whether somebody else has paid, or been declined for, this reservation."""
        ...

    async def record_outcome(
        self, payment: Payment, outcome: Outcome, event: Event | None
    ) -> Payment:
        """Saga step 4: ends an unfinished payment, its event in the same transaction. If it has
        been ended, or taken up by another driver, changes nothing. Returns it as it is now."""
        ...

    async def give_up(self, payment: Payment, failure_code: str) -> bool:
        """From now on nobody charges this unfinished payment. False if it has been ended, or
        taken up by another driver."""
        ...

    async def record_refund(self, payment_id: int, event: Event) -> None:
        """SUCCEEDED -> REFUNDED, its event in the same transaction; otherwise nothing."""
        ...

    async def mark_told(self, payment_id: int) -> None:
        """A caller is being told of the decline."""
        ...

    async def park(self, payment: Payment, seconds: float) -> None:
        """Its driver leaves this unfinished payment; recovery may take it up after `seconds`."""
        ...

    async def claim_unfinished(self, *, lease_seconds: float, limit: int) -> Sequence[Payment]:
        """Unfinished payments that nobody drives, now driven by the caller."""
        ...

    async def claim_unannounced(
        self, *, older_than: float, lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        """Paid ones whose event has waited in the outbox for `older_than` seconds; not given out
        again for `lease_seconds`. Whoever has waited longest for it comes first, so that all
        have their turn, however many there are."""
        ...

    async def forget_keys(self, older_than_hours: float) -> None:
        """Deletes idempotency keys of that age, at most 1,000 at a time."""
        ...

    async def count_unsent(self) -> int:
        """How many events are waiting for Kafka."""
        ...


class Reservations(Protocol):
    """The reservations, as far as a payment needs them."""

    async def begin_payment(self, payment: Payment) -> Decimal:
        """Saga step 2: starts the payment of a hold, or renews its lease; returns the price.

        Raises ServiceError: one of domain.REJECTIONS for good; anything else may pass.
        PaymentInProgress says for sure that this payment has not begun, and will not by this
        call; Unavailable and TimedOut do not.
        """
        ...


class PaymentProvider(Protocol):
    """Whoever moves the money. Every call may be repeated: the payment id is the key.

    Raises ProviderUnavailable or TimeoutError; whether it charged is then to be asked. Raises
    ProviderRefused if asking again will not help.
    """

    async def charge(self, payment_id: int, user_id: int, amount: Decimal) -> Charge:
        """Saga step 3: APPROVED, DECLINED or PENDING; the first answer again if repeated."""
        ...

    async def get_charge(self, payment_id: int) -> Charge:
        """What became of a charge."""
        ...

    async def refund(self, payment_id: int) -> None:
        """Gives back what was charged. A charge that the provider has not heard of is barred:
        should it still arrive, it is declined."""
        ...
