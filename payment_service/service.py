"""The use cases of payments: pay, read the outcome, refund a lost seat."""

import asyncio

from prometheus_client import Counter

from payment_service import events
from payment_service.domain import FINAL_FAILURES, Payment, PayOrder, Status, failure
from payment_service.errors import NotYours, PaymentNotFound
from payment_service.ports import PaymentProvider, PaymentStore
from payment_service.saga import Saga
from servicekit import call_context, logs
from servicekit.errors import InvalidRequest, Unavailable, is_transient

log = logs.get(__name__)

PAYMENTS = Counter("payment_answers", "Outcomes that Pay returned.", ["outcome"])

MAX_KEY_LENGTH = 255
# Payments of other replicas that a call finds and that are rejected meanwhile.
PAY_ATTEMPTS = 5
# The part of the caller's deadline that is left for the answer PENDING to arrive.
ANSWER_SECONDS = 0.25
# The pause between two reads of a payment that another replica drives.
POLL_SECONDS = 0.05


class PaymentService:
    """Starts payments and returns their outcomes.

    Each payment is driven by a task of its own for at most `lease_seconds`, which neither the
    caller's disconnection nor its deadline ends. A caller without a deadline waits `wait_seconds`.
    """

    def __init__(
        self,
        store: PaymentStore,
        provider: PaymentProvider,
        saga: Saga,
        *,
        lease_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._store = store
        self._provider = provider
        self._saga = saga
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._drivers: dict[int, asyncio.Task[Payment]] = {}

    async def pay(self, order: PayOrder) -> Payment:
        """Pays a reservation. Returns the payment: SUCCEEDED, REFUNDED, or still INITIATED if its
        outcome is not known in time.

        Raises InvalidRequest, the error of a failed payment (see `domain.failure`), and for the
        order's idempotency key RequestInProgress or IdempotencyKeyReused.
        """
        _check_ids(order.reservation_id, order.user_id)
        if len(order.idempotency_key) > MAX_KEY_LENGTH:
            raise InvalidRequest(f"An idempotency key has at most {MAX_KEY_LENGTH} characters.")
        for _ in range(PAY_ATTEMPTS):
            attempt = await self._store.create_payment(
                order,
                lease_seconds=self._lease_seconds,
                answer_seconds=call_context.remaining(self._wait_seconds),
            )
            payment: Payment | None = attempt.payment
            if attempt.created:
                self._start_driving(attempt.payment)
            try:
                payment = await self._outcome(attempt.payment)
            finally:
                if order.idempotency_key and not attempt.payment.finished:
                    await self._settle_key(order, payment)
            if payment is not None:
                PAYMENTS.labels(payment.failure_code or payment.status.value).inc()
                return await self._report(payment)
            # Another replica's payment was rejected, and only that replica knows why.
        raise Unavailable("Too many requests for this reservation at once.")

    async def payment_of_reservation(self, reservation_id: int, user_id: int) -> Payment:
        """Returns the user's latest payment of a reservation.

        Raises InvalidRequest; PaymentDeclined if no caller has received the decline yet; NotYours
        if another user has paid; PaymentNotFound.
        """
        _check_ids(reservation_id, user_id)
        payment = await self._store.latest_payment(reservation_id, user_id)
        if payment is None:
            if await self._store.paid_by_another(reservation_id, user_id):
                raise NotYours("The reservation belongs to another user.")
            raise PaymentNotFound("The reservation has no payment.")
        return await self._report(payment)

    async def refund(self, payment_id: int, reservation_id: int) -> None:
        """Refunds the payment of the reservation whose seat is lost. Idempotent.

        Raises ProviderUnavailable or TimeoutError if the provider does not answer, ProviderRefused
        if it refuses, PaymentNotFound, and InvalidRequest if the payment has not succeeded or
        belongs to another reservation.
        """
        payment = await self._store.get_payment(payment_id)
        if payment is None:
            raise PaymentNotFound("There is no such payment.")
        if payment.reservation_id != reservation_id:
            raise InvalidRequest("The payment belongs to another reservation.")
        if payment.status is Status.REFUNDED:
            return
        if payment.status is not Status.SUCCEEDED:
            raise InvalidRequest("Only a payment that succeeded can be refunded.")
        if payment.amount:  # otherwise nothing was charged
            await self._provider.refund(payment_id)
        await self._store.record_refund(payment_id, events.refunded(payment))
        log.info("payment_refunded", payment_id=payment_id)

    async def drain(self, seconds: float) -> None:
        """Waits for the running drivers, then cancels those that are left after `seconds`;
        recovery finishes their payments."""
        if self._drivers:
            _, late = await asyncio.wait(self._drivers.values(), timeout=seconds)
            for driver in late:
                driver.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _settle_key(self, order: PayOrder, payment: Payment | None) -> None:
        """Ends the use of a key by this call. The key finds the row of a payment that has an
        outcome, but a rejected payment has no row any more."""
        try:
            if payment is None or not payment.finished:
                await self._store.release_key(order)
            elif payment.status is Status.FAILED and not payment.declined:
                if payment.failure_code in FINAL_FAILURES:
                    await self._store.remember_rejection(order, payment.failure_code)
                else:
                    await self._store.release_key(order)
        except Exception as error:
            if not is_transient(error):
                raise
            # The key becomes free within seconds anyway, and the caller needs the answer.
            log.warning("idempotency_key_not_released", error=type(error).__name__)

    async def _report(self, payment: Payment) -> Payment:
        """Returns the payment, or raises its failure. Notes that its decline has been reported."""
        if payment.declined and not payment.decline_returned:
            await self._store.mark_decline_returned(payment.id)
        if payment.status is Status.FAILED:
            raise failure(payment)
        return payment

    async def _outcome(self, payment: Payment) -> Payment | None:
        """Waits until the payment is finished, the caller's time is up or the driver has failed.
        After a failed driver the payment may have been charged; recovery finishes it. Returns None
        if another replica drove the payment and it was rejected."""
        clock = asyncio.get_running_loop().time
        until = clock() + call_context.remaining(self._wait_seconds) - ANSWER_SECONDS
        while not payment.finished and clock() < until:
            if driver := self._drivers.get(payment.id):
                # Cancelling this wait does not cancel the driver.
                await asyncio.wait([driver], timeout=until - clock())
                ended = driver.done() and not driver.cancelled() and driver.exception() is None
                return driver.result() if ended else payment
            await asyncio.sleep(POLL_SECONDS)
            found = await self._store.get_payment(payment.id)
            if found is None:
                return None
            payment = found
        return payment

    def _start_driving(self, payment: Payment) -> None:
        driver = asyncio.create_task(self._drive(payment), name=f"payment-{payment.id}")
        self._drivers[payment.id] = driver
        driver.add_done_callback(lambda done: self._driven(payment.id, done))

    async def _drive(self, payment: Payment) -> Payment:
        # The task starts with a copy of the caller's deadline, which does not apply to it.
        call_context.set_deadline(self._lease_seconds)
        async with asyncio.timeout(self._lease_seconds):
            return await self._saga.drive(payment)

    def _driven(self, payment_id: int, driver: asyncio.Task[Payment]) -> None:
        del self._drivers[payment_id]
        if not driver.cancelled() and (error := driver.exception()):
            log.warning(
                "driver_failed",
                payment_id=payment_id,
                error=type(error).__name__,
                exc_info=error,
            )


def _check_ids(reservation_id: int, user_id: int) -> None:
    if reservation_id <= 0 or user_id <= 0:
        raise InvalidRequest("Ids are positive.")
