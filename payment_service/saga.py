"""The steps of a payment, from its creation to its recorded outcome.

    1  store.create_payment            INITIATED; its creator drives it
    2  reservations.begin_payment      HELD -> PAYING, for this payment only
    3  provider.charge                 the payment id is the idempotency key
    4  store.record_outcome            SUCCEEDED or FAILED, and its event, in one transaction
    5  the answer; the relay publishes the event

Every step is idempotent, and a driver that has lost its lease cannot record anything. After a crash
at any point, `resume` therefore continues from the state at the provider and the reservation.
"""

from datetime import UTC, datetime

from payment_service import events
from payment_service.domain import (
    LONGEST_REFUSED_PARK_SECONDS,
    REJECTIONS,
    Charge,
    ChargeStatus,
    Outcome,
    Payment,
    PaymentDeclined,
    PaymentInProgress,
    ProviderRefused,
    ProviderUnavailable,
    ReservationExpired,
    Status,
)
from payment_service.ports import PaymentProvider, PaymentStore, Reservations
from servicekit import logs
from servicekit.errors import ServiceError, Unavailable

log = logs.get(__name__)

# Pauses between recovery attempts at one payment: 0.5 s, doubled up to this. Shorter than the
# payment lease of reservations, so that the hold of an unfinished payment does not expire.
LONGEST_PARK_SECONDS = 15.0


class Saga:
    """Drives one payment at a time through its steps.

    While the outcome at the provider is unknown, the hold is renewed until the payment is
    `renewal_seconds` old. After that the seat is on sale again; if the charge succeeds late, events
    confirm the reservation or refund the payment.
    """

    def __init__(
        self,
        store: PaymentStore,
        reservations: Reservations,
        provider: PaymentProvider,
        *,
        renewal_seconds: float,
    ) -> None:
        self._store = store
        self._reservations = reservations
        self._provider = provider
        self._renewal_seconds = renewal_seconds

    async def drive(self, payment: Payment) -> Payment:
        """Runs steps 2 to 4 of a new payment. Returns it finished, or still INITIATED if the
        provider did not decide: recovery finishes it then."""
        try:
            amount = await self._reservations.begin_payment(payment)
        except ServiceError as error:
            return await self._end_uncharged(payment, error)
        try:
            charge = await self._provider.charge(payment.id, payment.user_id, amount)
        except (ProviderUnavailable, TimeoutError):
            return await self._park(payment)
        except ProviderRefused as error:
            # Recovery finds out whether it charged.
            _warn_refused(payment, error)
            return await self._park(payment)
        return await self._settle(payment, charge)

    async def resume(self, payment: Payment) -> Payment:
        """Continues a payment whose driver stopped at any step. Returns it as `drive` does."""
        longest_park = LONGEST_PARK_SECONDS
        try:
            if payment.failure_code:
                return await self._give_up(payment, payment.failure_code)
            charge = await self._provider.get_charge(payment.id)
            if charge.status is ChargeStatus.UNKNOWN:
                return await self._charge_after_all(payment)
        except (ProviderUnavailable, TimeoutError):
            charge = Charge(ChargeStatus.PENDING)
        except ProviderRefused as error:
            _warn_refused(payment, error)
            charge = Charge(ChargeStatus.PENDING)
            longest_park = LONGEST_REFUSED_PARK_SECONDS
        age = (datetime.now(UTC) - payment.created_at).total_seconds()
        if charge.status is ChargeStatus.APPROVED or (
            charge.status is ChargeStatus.PENDING
            and not payment.failure_code
            and age < self._renewal_seconds
        ):
            await self.renew_hold(payment)
        return await self._settle(payment, charge, longest_park)

    async def renew_hold(self, payment: Payment) -> None:
        """Renews the hold of a payment that was, or may have been, charged. Logs a refusal: the
        payment's event then decides about the seat."""
        try:
            await self._reservations.begin_payment(payment)
        except ServiceError as error:
            log.warning("hold_not_renewed", payment_id=payment.id, code=error.code)

    async def _charge_after_all(self, payment: Payment) -> Payment:
        try:
            amount = await self._reservations.begin_payment(payment)
        except ServiceError as error:
            if error.code not in REJECTIONS:
                return await self._park(payment)
            return await self._give_up(payment, error.code)
        try:
            charge = await self._provider.charge(payment.id, payment.user_id, amount)
        except ProviderRefused as error:
            # It had not received this charge, and does not accept it.
            _warn_refused(payment, error)
            return await self._give_up(payment, Unavailable.code)
        return await self._settle(payment, charge)

    async def _give_up(self, payment: Payment, failure_code: str) -> Payment:
        # Stored first: after the provider has barred the charge, the payment must not succeed.
        if not await self._store.give_up(payment, failure_code):
            return payment
        # The request of the lost driver may still arrive at the provider: bar it.
        await self._provider.refund(payment.id)
        outcome = Outcome(Status.FAILED, failure_code=failure_code)
        # A reservation that has refused this payment needs no event.
        event = None if failure_code in REJECTIONS else events.failed(payment, failure_code)
        return await self._store.record_outcome(payment, outcome, event)

    async def _end_uncharged(self, payment: Payment, error: ServiceError) -> Payment:
        if error.code in REJECTIONS or error.code == PaymentInProgress.code:
            # The reservation never started this payment and needs no event.
            outcome = Outcome(Status.FAILED, failure_code=error.code)
            return await self._store.record_outcome(payment, outcome, None)
        # The payment may have begun although the answer is lost. The caller learns that nothing
        # was charged, so this payment ends here, and its event returns the reservation to its hold.
        outcome = Outcome(Status.FAILED, failure_code=Unavailable.code)
        event = events.failed(payment, Unavailable.code)
        return await self._store.record_outcome(payment, outcome, event)

    async def _settle(
        self, payment: Payment, charge: Charge, longest_park: float = LONGEST_PARK_SECONDS
    ) -> Payment:
        if charge.status is ChargeStatus.PENDING:
            return await self._park(payment, longest_park)
        if charge.status is ChargeStatus.APPROVED:
            outcome = Outcome(Status.SUCCEEDED, charge.amount)
            event = events.succeeded(payment, charge.amount)
        elif charge.status is ChargeStatus.DECLINED:
            outcome = Outcome(Status.FAILED, charge.amount, PaymentDeclined.code)
            event = events.failed(payment, charge.reason)
        else:
            # Refunded at the provider, not by this service.
            outcome = Outcome(Status.FAILED, failure_code=ReservationExpired.code)
            event = events.failed(payment, ReservationExpired.code)
        return await self._store.record_outcome(payment, outcome, event)

    async def _park(self, payment: Payment, longest: float = LONGEST_PARK_SECONDS) -> Payment:
        seconds = min(longest, 0.5 * 2 ** min(payment.attempts, 10))
        await self._store.park(payment, seconds)
        return payment


def _warn_refused(payment: Payment, error: ProviderRefused) -> None:
    log.warning("provider_refused", payment_id=payment.id, answer=str(error))
