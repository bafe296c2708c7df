"""The steps of a payment, from its creation to its recorded outcome.

    1  store.create_payment            INITIATED; its creator drives it
    2  reservations.begin_payment      HELD -> PAYING, for this payment only
    3  provider.charge                 the payment id is the idempotency key; a charge of another
                                       amount than the price is refunded. Not if nothing is due
    4  store.record_outcome            SUCCEEDED or FAILED, and its event, in one transaction
    5  the answer; the relay publishes the event

Every step is idempotent, and a driver that has lost its lease cannot record anything. After a crash
at any point, `resume` therefore continues from the state at the provider and the reservation.
"""

from dataclasses import replace
from datetime import UTC, datetime

from prometheus_client import Counter

from payment_service import events
from payment_service.domain import (
    LONGEST_REFUSED_PARK_SECONDS,
    Charge,
    ChargeStatus,
    Money,
    Outcome,
    Payment,
    Status,
    is_final_rejection,
    is_rejection,
)
from payment_service.errors import (
    AdmissionEnded,
    ChargeAmountDiffers,
    PaymentDeclined,
    PaymentInProgress,
    ProviderRefused,
    ProviderUnavailable,
    ReservationExpired,
)
from payment_service.ports import PaymentProvider, PaymentStore, Reservations
from servicekit import logs
from servicekit.errors import ServiceError, Unavailable

log = logs.get(__name__)

AMOUNT_DIFFERS = Counter(
    "payment_charge_amount_differs", "Charges of another amount than due; each is refunded."
)

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
            due = await self._begin(payment)
        except ServiceError as error:
            return await self._end_uncharged(payment, error)
        payment = payment.costing(due)
        try:
            charge = await self._charge(payment, due)
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
            payment = await self.renew_hold(payment)
            if payment.due is not None and not payment.due.amount:
                # Nobody was asked to charge it, and the provider need not say so.
                charge = _nothing_due(payment.due)
        if charge.status is ChargeStatus.APPROVED and payment.amount_due is None:
            # Its driver crashed before it stored the price, and the hold cannot be renewed.
            try:
                payment = payment.costing(await self._reservations.price_of(payment))
            except ServiceError as error:
                if not is_final_rejection(error):
                    return await self._park(payment)
                # The reservation was removed, long after its end.
                return await self._give_up(payment, error.code)
        return await self._settle(payment, charge, longest_park)

    async def renew_hold(self, payment: Payment) -> Payment:
        """Renews the hold of a payment that was, or may have been, charged. Logs a refusal: the
        payment's event then decides about the seat. Returns the payment, with the amount due."""
        try:
            return payment.costing(await self._reservations.begin_payment(payment))
        except ServiceError as error:
            log.warning("hold_not_renewed", payment_id=payment.id, code=error.code)
            return payment

    async def _charge(self, payment: Payment, due: Money) -> Charge:
        """Step 3. Raises what `PaymentProvider.charge` raises."""
        if not due.amount:
            return _nothing_due(due)
        return await self._provider.charge(payment.id, payment.user_id, due)

    async def _begin(self, payment: Payment) -> Money:
        """Step 2. A payment of the reservation or of the admission that has failed does not stand
        in the way, although its failure event may not have reached the reservation.

        Raises what `Reservations.begin_payment` raises, and AdmissionEnded if a payment of the
        admission has succeeded, although the reservation may not be confirmed yet.
        """
        try:
            return await self._reservations.begin_payment(payment)
        except ServiceError as error:
            if error.code != PaymentInProgress.code:
                raise
            other = await self._store.get_payment(int(error.metadata.get("payment_id", 0)))
            if other is None or not other.finished:
                raise
            if other.status is not Status.FAILED:
                raise AdmissionEnded("A payment has ended this admission.") from error
        return await self._reservations.begin_payment(replace(payment, failed_payment_id=other.id))

    async def _charge_after_all(self, payment: Payment) -> Payment:
        try:
            due = await self._begin(payment)
        except ServiceError as error:
            if not is_final_rejection(error):
                return await self._park(payment)
            return await self._give_up(payment, error.code)
        payment = payment.costing(due)
        try:
            charge = await self._charge(payment, due)
        except ProviderRefused as error:
            # It had not received this charge, and does not accept it.
            _warn_refused(payment, error)
            return await self._give_up(payment, Unavailable.code)
        return await self._settle(payment, charge)

    async def _give_up(self, payment: Payment, failure_code: str) -> Payment:
        # Stored first: after the provider has barred the charge, the payment must not succeed.
        if not await self._store.give_up(payment, failure_code):
            return payment
        payment = replace(payment, failure_code=failure_code)
        try:
            await self._refund(payment)
        except (ProviderUnavailable, TimeoutError):
            return await self._park(payment)
        except ProviderRefused as error:
            # If it was charged, an operator has to refund it at the provider.
            _warn_refused(payment, error)
            return await self._park(payment, LONGEST_REFUSED_PARK_SECONDS)
        charged = failure_code == ChargeAmountDiffers.code
        outcome = Outcome(Status.FAILED, payment.amount_due if charged else None, failure_code)
        # A reservation that has rejected this payment needs no event.
        begun = charged or failure_code == Unavailable.code
        event = events.failed(payment, failure_code) if begun else None
        return await self._store.record_outcome(payment, outcome, event)

    async def _refund(self, payment: Payment) -> None:
        """Returns what was charged, and bars a charge that may still arrive from a lost driver."""
        try:
            await self._provider.refund(payment.id)
        except ProviderRefused:
            if payment.failure_code != ChargeAmountDiffers.code:
                raise
            # A refund that an operator has made at the provider ends the payment, too.
            charge = await self._provider.get_charge(payment.id)
            if charge.status is not ChargeStatus.REFUNDED:
                raise

    async def _end_uncharged(self, payment: Payment, error: ServiceError) -> Payment:
        if is_rejection(error):
            # The reservation never started this payment, which therefore needs neither an event nor
            # a row. If recovery has claimed it, recovery ends it.
            if not await self._store.discard_rejected(payment):
                return await self._store.get_payment(payment.id) or payment
            return replace(payment, status=Status.FAILED, failure_code=error.code)
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
            due = payment.due
            assert due is not None, "known since BeginPayment, or read by `resume`"
            if not charge.is_of(due):
                return await self._refuse_amount(payment, charge, due)
            outcome = Outcome(Status.SUCCEEDED, due.amount)
            event = events.succeeded(payment, due.amount)
        elif charge.status is ChargeStatus.DECLINED:
            outcome = Outcome(
                Status.FAILED, payment.amount_due, PaymentDeclined.code, charge.reason
            )
            event = events.failed(payment, charge.reason)
        else:
            # Refunded at the provider, not by this service.
            outcome = Outcome(Status.FAILED, failure_code=ReservationExpired.code)
            event = events.failed(payment, ReservationExpired.code)
        return await self._store.record_outcome(payment, outcome, event)

    async def _refuse_amount(self, payment: Payment, charge: Charge, due: Money) -> Payment:
        AMOUNT_DIFFERS.inc()
        log.error(
            "charge_amount_differs",
            payment_id=payment.id,
            reservation_id=payment.reservation_id,
            due=str(due),
            # None: the provider stated no valid amount.
            charged=charge.amount and f"{charge.amount.amount} {charge.amount.currency}",
        )
        return await self._give_up(payment, ChargeAmountDiffers.code)

    async def _park(self, payment: Payment, longest: float = LONGEST_PARK_SECONDS) -> Payment:
        seconds = min(longest, 0.5 * 2 ** min(payment.attempts, 10))
        await self._store.park(payment, seconds)
        return payment


def _nothing_due(due: Money) -> Charge:
    """What stands for the charge of a reservation that costs nothing."""
    return Charge(ChargeStatus.APPROVED, due)


def _warn_refused(payment: Payment, error: ProviderRefused) -> None:
    log.warning("provider_refused", payment_id=payment.id, answer=str(error))
