"""What payment_service needs from its stores, from reservation_service and from a provider."""

from collections.abc import Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from payment_service.domain import Attempt, Charge, Event, Money, Outcome, Payment, PayOrder


class PaymentStore(Protocol):
    """The store of payments. Every write is one transaction, durable when its method returns."""

    async def create_payment(
        self, order: PayOrder, *, lease_seconds: float, answer_seconds: float
    ) -> Attempt:
        """Step 1 of the saga. Creates a payment that the caller drives for `lease_seconds`.
        Returns the existing payment of this order instead if that is unfinished, has succeeded, or
        was declined and no caller has received the decline.

        With an idempotency key, returns the first payment of the key; if that was rejected, a
        FAILED payment that is not stored any more. Raises RequestInProgress
        while the call that uses the key has not answered (for at most its `answer_seconds`), and
        IdempotencyKeyReused if the key belongs to another reservation.
        """

    async def release_key(self, order: PayOrder) -> None:
        """Frees the order's idempotency key: the call that uses it returns without an outcome."""

    async def remember_rejection(self, order: PayOrder, failure_code: str) -> None:
        """Stores a final rejection as the result of the order's idempotency key."""

    async def get_payment(self, payment_id: int) -> Payment | None:
        """Reads a payment. Returns None for one that was rejected, or removed for its age."""

    async def latest_payment(self, reservation_id: int, user_id: int) -> Payment | None:
        """Returns the user's latest payment of a reservation that has reached, or may reach, the
        provider. Leaves out declines that a caller has received."""

    async def paid_by_another(self, reservation_id: int, user_id: int) -> bool:
        """Returns whether another user has paid, or was declined for, this reservation."""

    async def record_outcome(
        self, payment: Payment, outcome: Outcome, event: Event | None
    ) -> Payment:
        """Step 4 of the saga. Finishes a payment and marks its event as unsent in the same
        transaction. No-op if it is finished or another driver has claimed it. Returns the payment
        as it is now.

        This method, `give_up` and `park` also store `payment.amount_due` and its currency.
        """

    async def discard_rejected(self, payment: Payment) -> bool:
        """Deletes an unfinished payment that has never begun. Returns False if it is finished or
        another driver has claimed it."""

    async def give_up(self, payment: Payment, failure_code: str) -> bool:
        """Bars an unfinished payment from being charged. Returns False if it is finished or
        another driver has claimed it."""

    async def record_refund(self, payment_id: int, event: Event) -> None:
        """SUCCEEDED -> REFUNDED, with its event in the same transaction; otherwise a no-op."""

    async def mark_decline_returned(self, payment_id: int) -> None:
        """Notes that a caller receives the decline."""

    async def park(self, payment: Payment, seconds: float) -> None:
        """Ends the lease on an unfinished payment; recovery may claim it after `seconds`."""

    async def claim_unfinished(self, *, lease_seconds: float, limit: int) -> Sequence[Payment]:
        """Claims unfinished payments whose lease has ended; the caller now drives them."""

    async def claim_unpublished(
        self, *, older_than: float, lease_seconds: float, limit: int
    ) -> Sequence[Payment]:
        """Claims succeeded payments whose event has been unsent for `older_than` seconds, for
        `lease_seconds`. Starts with those that have waited longest for a claim."""

    async def delete_old_keys(self, older_than_hours: float) -> None:
        """Deletes at most 1,000 idempotency keys of that age."""

    async def remove_failed(self, older_than_days: int, limit: int) -> int:
        """Removes at most `limit` FAILED payments that ended, and whose decline was returned, that
        long ago; returns how many. Keeps those that were charged another amount than due."""

    async def count_unsent(self) -> int:
        """Counts the events that Kafka has not acknowledged; stops at 20,000 payments."""

    async def count_unrefunded(self) -> int:
        """Counts the unfinished payments whose charge has another amount than due."""


@dataclass(frozen=True)
class OutboxBatch:
    """Unsent events of these `shards`, those of a reservation in order; `full`: there may be more.
    Add to `published` those that Kafka has."""

    events: Sequence[Event] = ()
    shards: Set[int] = frozenset()
    full: bool = False
    published: list[Event] = field(default_factory=list)


class OutboxStore(Protocol):
    """The committed events that Kafka has not acknowledged: the outbox.

    A batch marks its published events as sent when the block ends; if the block raises, all stay
    unsent. During the block no other relay receives events of the shards of its events.
    """

    def oldest(
        self, limit: int, without: Set[int], *, older_than: float
    ) -> AbstractAsyncContextManager[OutboxBatch]:
        """Yields the oldest events, about `limit`, of the shards that have an event older than
        `older_than` seconds, but of none in `without`. The younger events of these shards are among
        them, so that each reservation's are in order."""

    def oldest_of_each(self, shards: Set[int]) -> AbstractAsyncContextManager[OutboxBatch]:
        """Yields the oldest payment's events of each of these shards, except those that another
        relay reads."""

    async def unsent_outcomes(self, payment_ids: Set[int]) -> Set[int]:
        """Returns those of the payments whose outcome has an unsent event."""

    async def mark_sent(self, events: Sequence[Event]) -> None:
        """Marks events, at least one, as sent, in one transaction."""


class Reservations(Protocol):
    """The part of reservation_service that payments need."""

    async def begin_payment(self, payment: Payment) -> Money:
        """Step 2 of the saga. Starts the payment of a hold or renews its lease; returns the price.

        Raises ServiceError. After a rejection (see `domain.is_rejection`) it is certain that this
        payment has not begun and will not begin by this call; after any other error it is not.
        PaymentInProgress names the other `payment_id` in its metadata, if that is known.
        """

    async def price_of(self, payment: Payment) -> Money:
        """Returns the price of the payment's reservation, which never changes, in any state of the
        reservation. Raises ServiceError."""


class PaymentProvider(Protocol):
    """Moves the money. Every call is idempotent: the payment id is the key.

    Raises ProviderUnavailable or TimeoutError: it may have charged; `get_charge` reports it later.
    Raises ProviderRefused if a repeat will not help.
    """

    async def charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        """Step 3 of the saga; not called if nothing is due. Returns APPROVED, DECLINED or PENDING;
        a repeat returns the first result. The caller compares what was charged with what is
        due."""

    async def get_charge(self, payment_id: int) -> Charge:
        """Returns the state of a charge."""

    async def refund(self, payment_id: int) -> None:
        """Returns what was charged. Bars a charge that the provider has not received: if it arrives
        later, the provider declines it."""
