"""What a fan does with payments: pay, and ask what became of it. And what a lost seat asks for."""

import asyncio

from prometheus_client import Counter

from payment_service import events
from payment_service.domain import (
    NotYours,
    Payment,
    PaymentNotFound,
    PayOrder,
    Status,
    failure,
)
from payment_service.ports import PaymentProvider, Payments
from payment_service.saga import Saga
from servicekit import call_context, logs
from servicekit.errors import InvalidRequest, is_transient

log = logs.get(__name__)

PAYMENTS = Counter("payment_answers", "What callers of Pay were told.", ["outcome"])

KEY_LENGTH = 255
# Left of the caller's deadline for the answer PENDING to reach him.
ANSWER_SECONDS = 0.25
# How often to look for an outcome that another replica brings about.
LOOK_SECONDS = 0.05


class PaymentService:
    """Starts payments and tells their outcome.

    A driver runs for at most `lease_seconds`, in a task of its own: neither a caller that hangs
    up nor his deadline cuts it. `wait_seconds` is how long a caller without a deadline waits.
    """

    def __init__(
        self,
        payments: Payments,
        provider: PaymentProvider,
        saga: Saga,
        *,
        lease_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._payments = payments
        self._provider = provider
        self._saga = saga
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._drivers: dict[int, asyncio.Task[Payment]] = {}

    async def pay(self, order: PayOrder) -> Payment:
        """The order's payment: ended well, or still INITIATED if its outcome is not known in
        time. Raises the failure otherwise (see `domain`), and InProgress or IdempotencyKeyReused
        because of the order's key."""
        _check_ids(order.reservation_id, order.user_id)
        if len(order.idempotency_key) > KEY_LENGTH:
            raise InvalidRequest(f"An idempotency key has at most {KEY_LENGTH} characters.")
        attempt = await self._payments.create_payment(
            order,
            lease_seconds=self._lease_seconds,
            answer_seconds=call_context.remaining(self._wait_seconds),
        )
        if attempt.created:
            self._start_driving(attempt.payment)
        payment = attempt.payment
        try:
            payment = await self._outcome(payment)
        finally:
            if not payment.finished and order.idempotency_key:
                await self._release_key(order)
        PAYMENTS.labels(payment.failure_code or payment.status.value).inc()
        return await self._tell(payment)

    async def payment_of_reservation(self, reservation_id: int, user_id: int) -> Payment:
        """The user's latest payment of a reservation. Raises PaymentDeclined once, if the decline
        was told by nobody yet; NotYours if it is another user who paid; PaymentNotFound."""
        _check_ids(reservation_id, user_id)
        payment = await self._payments.latest_payment(reservation_id, user_id)
        if payment is None:
            if await self._payments.paid_by_another(reservation_id, user_id):
                raise NotYours("The reservation belongs to somebody else.")
            raise PaymentNotFound("The reservation has no payment.")
        return await self._tell(payment)

    async def refund(self, payment_id: int) -> None:
        """Gives the money back, because the seat was lost. Again, it changes nothing.

        Raises ProviderUnavailable or TimeoutError if the provider cannot, ProviderRefused if it
        will not; PaymentNotFound or InvalidRequest if there is no such payment, or it has not
        succeeded.
        """
        payment = await self._payments.get_payment(payment_id)
        if payment is None:
            raise PaymentNotFound("There is no such payment.")
        if payment.status is Status.REFUNDED:
            return
        if payment.status is not Status.SUCCEEDED:
            raise InvalidRequest("Only a payment that succeeded can be refunded.")
        await self._provider.refund(payment_id)
        await self._payments.record_refund(payment_id, events.refunded(payment))
        log.info("refunded", payment_id=payment_id)

    async def drain(self, seconds: float) -> None:
        """Waits for the drivers under way; what is left after `seconds` is recovery's."""
        if self._drivers:
            _, late = await asyncio.wait(self._drivers.values(), timeout=seconds)
            for driver in late:
                driver.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _release_key(self, order: PayOrder) -> None:
        try:
            await self._payments.release_key(order)
        except Exception as error:
            if not is_transient(error):
                raise
            # It ends by itself within seconds; the answer matters more.
            log.warning("cannot release an idempotency key", error=type(error).__name__)

    async def _tell(self, payment: Payment) -> Payment:
        if payment.declined and not payment.outcome_told:
            await self._payments.mark_told(payment.id)
        if payment.status is Status.FAILED:
            raise failure(payment)
        return payment

    async def _outcome(self, payment: Payment) -> Payment:
        """The payment once it has ended, or as it is when the caller's time is up or its driver
        has failed: it may have been charged, and recovery goes on with it."""
        clock = asyncio.get_running_loop().time
        until = clock() + call_context.remaining(self._wait_seconds) - ANSWER_SECONDS
        while not payment.finished and clock() < until:
            if driver := self._drivers.get(payment.id):
                # Whoever waits may go; the driver goes on.
                await asyncio.wait([driver], timeout=until - clock())
                ended = driver.done() and not driver.cancelled() and driver.exception() is None
                return driver.result() if ended else payment
            await asyncio.sleep(LOOK_SECONDS)
            payment = await self._payments.get_payment(payment.id) or payment
        return payment

    def _start_driving(self, payment: Payment) -> None:
        driver = asyncio.create_task(self._drive(payment), name=f"payment-{payment.id}")
        self._drivers[payment.id] = driver
        driver.add_done_callback(lambda done: self._driven(payment.id, done))

    async def _drive(self, payment: Payment) -> Payment:
        # The task began with a copy of its caller's deadline; it has a budget of its own.
        call_context.set_deadline(self._lease_seconds)
        async with asyncio.timeout(self._lease_seconds):
            return await self._saga.drive(payment)

    def _driven(self, payment_id: int, driver: asyncio.Task[Payment]) -> None:
        del self._drivers[payment_id]
        if not driver.cancelled() and (error := driver.exception()):
            log.warning(
                "a driver failed; recovery goes on with its payment",
                payment_id=payment_id,
                error=type(error).__name__,
                exc_info=error,
            )


def _check_ids(reservation_id: int, user_id: int) -> None:
    if reservation_id <= 0 or user_id <= 0:
        raise InvalidRequest("Ids are positive.")
