"""The steps of a payment, from its creation to its recorded outcome.

    1  repository.create_payment       INITIATED; whoever creates it drives it
    2  reservations.begin_payment      the hold becomes PAYING, for this payment alone
    3  provider.charge                 the payment id is the idempotency key
    4  repository.record_outcome       SUCCEEDED or FAILED, and its event, in one transaction
    5  the answer; the relay publishes the event

Each step may be done twice, and a driver that has lost its lease can record nothing, so after a
crash anywhere `resume` goes on from what the provider and the reservation say.
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
from payment_service.ports import PaymentProvider, Payments, Reservations
from servicekit import logs
from servicekit.errors import ServiceError, Unavailable

log = logs.get(__name__)

# Pauses between the looks of recovery at one payment: 0.5 s, doubling up to this. Below the
# reservations' payment lease, so that the hold of a payment still under way does not lapse.
LONGEST_PARK_SECONDS = 15.0


class Saga:
    """Drives one payment at a time through its steps.

    `renewal_seconds` is how old a payment may be for its hold to be renewed while the provider
    does not tell; after that the seat goes back on sale, and a late success is settled by events.
    """

    def __init__(
        self,
        payments: Payments,
        reservations: Reservations,
        provider: PaymentProvider,
        *,
        renewal_seconds: float,
    ) -> None:
        self._payments = payments
        self._reservations = reservations
        self._provider = provider
        self._renewal_seconds = renewal_seconds

    async def drive(self, payment: Payment) -> Payment:
        """Steps 2 to 4 of a payment just created. Returns it ended, or still INITIATED if the
        provider did not tell: recovery settles it."""
        try:
            amount = await self._reservations.begin_payment(payment)
        except ServiceError as error:
            return await self._end_uncharged(payment, error)
        try:
            charge = await self._provider.charge(payment.id, payment.user_id, amount)
        except (ProviderUnavailable, TimeoutError):
            return await self._park(payment)
        except ProviderRefused as error:
            # What became of the charge is for recovery to find out.
            _warn_refused(payment, error)
            return await self._park(payment)
        return await self._settle(payment, charge)

    async def resume(self, payment: Payment) -> Payment:
        """Goes on with a payment that its driver left, wherever that was."""
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
        """Keeps the seat for a payment that has, or may have, been charged. If it is gone
        already, the reservations will find out by the event."""
        try:
            await self._reservations.begin_payment(payment)
        except ServiceError as error:
            log.warning("cannot renew the hold", payment_id=payment.id, code=error.code)

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
            # It knew of no charge, and takes none.
            _warn_refused(payment, error)
            return await self._give_up(payment, Unavailable.code)
        return await self._settle(payment, charge)

    async def _give_up(self, payment: Payment, failure_code: str) -> Payment:
        # Written down first: once the provider has been told, the payment must not succeed.
        if not await self._payments.give_up(payment, failure_code):
            return payment
        # The lost driver's request may still be on its way to the provider.
        await self._provider.refund(payment.id)
        outcome = Outcome(Status.FAILED, failure_code=failure_code)
        # A reservation that has refused this payment needs no event.
        event = None if failure_code in REJECTIONS else events.failed(payment, failure_code)
        return await self._payments.record_outcome(payment, outcome, event)

    async def _end_uncharged(self, payment: Payment, error: ServiceError) -> Payment:
        if error.code in REJECTIONS or error.code == PaymentInProgress.code:
            # The reservation knows nothing of this payment: nobody needs an event.
            outcome = Outcome(Status.FAILED, failure_code=error.code)
            return await self._payments.record_outcome(payment, outcome, None)
        # It may have begun, the reply lost. The caller is told that nothing was charged, so
        # nothing may be charged behind his back: the hold goes back to him.
        outcome = Outcome(Status.FAILED, failure_code=Unavailable.code)
        event = events.failed(payment, Unavailable.code)
        return await self._payments.record_outcome(payment, outcome, event)

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
            # Given back by somebody else, at the provider.
            outcome = Outcome(Status.FAILED, failure_code=ReservationExpired.code)
            event = events.failed(payment, ReservationExpired.code)
        return await self._payments.record_outcome(payment, outcome, event)

    async def _park(self, payment: Payment, longest: float = LONGEST_PARK_SECONDS) -> Payment:
        seconds = min(longest, 0.5 * 2 ** min(payment.attempts, 10))
        await self._payments.park(payment, seconds)
        return payment


def _warn_refused(payment: Payment, error: ProviderRefused) -> None:
    log.warning("the provider refuses", payment_id=payment.id, answer=str(error))
