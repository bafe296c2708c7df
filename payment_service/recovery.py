"""Brings to an end whatever its driver left unfinished. Any number of replicas may run it."""

import asyncio

from prometheus_client import Gauge

from payment_service.domain import Payment
from payment_service.ports import Payments
from payment_service.saga import Saga
from servicekit import call_context, logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)

BACKLOG = Gauge("payment_outbox_backlog", "Committed events that Kafka has not acknowledged.")

BATCH = 50
# How many batches at once before it pauses, while there is more to take up: outpaces the sale
# while Kafka is away, and lets the gauge below be set now and then.
BATCHES = 40
# A success whose event waits longer than this has its hold renewed.
UNANNOUNCED_SECONDS = 60.0
# And again at this pace: a fifth of the reservations' payment lease as it is by default, so that
# it outlasts a few renewals that fail, and a long outage of Kafka costs little.
RENEWAL_SECONDS = 120.0
KEEP_KEYS_HOURS = 24.0


class Recovery:
    """Looks every `interval` seconds for payments that nobody drives."""

    def __init__(
        self,
        payments: Payments,
        saga: Saga,
        *,
        interval: float,
        lease_seconds: float,
    ) -> None:
        self._payments = payments
        self._saga = saga
        self._interval = interval
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        """Recovers payments at every interval until cancelled."""
        await repeat(
            self.recover_all,
            seconds=self._interval,
            outage=Outage(log, "recovery_delayed", "recovery_resumed"),
        )

    async def recover_all(self) -> None:
        """Recovers unfinished payments, measures the backlog and deletes old idempotency keys."""
        await self.look()
        BACKLOG.set(await self._payments.count_unsent())
        await self._payments.forget_keys(KEEP_KEYS_HOURS)

    async def look(self) -> None:
        """Takes up what nobody drives, batch after batch, at most BATCHES."""
        for _ in range(BATCHES):
            if await self.recover() < BATCH:
                return

    async def recover(self) -> int:
        """One batch; returns how many payments it took up."""
        unfinished = await self._payments.claim_unfinished(
            lease_seconds=self._lease_seconds, limit=BATCH
        )
        unannounced = await self._payments.claim_unannounced(
            older_than=UNANNOUNCED_SECONDS, lease_seconds=RENEWAL_SECONDS, limit=BATCH
        )
        await asyncio.gather(
            *(self._resume(payment) for payment in unfinished),
            *(self._saga.renew_hold(payment) for payment in unannounced),
        )
        return len(unfinished) + len(unannounced)

    async def _resume(self, payment: Payment) -> None:
        # One payment that fails keeps no other from its end; its lease lets it be tried again.
        try:
            call_context.set_deadline(self._lease_seconds)
            async with asyncio.timeout(self._lease_seconds):
                resumed = await self._saga.resume(payment)
        except Exception:
            log.exception("cannot recover a payment yet", payment_id=payment.id)
        else:
            if resumed.finished:
                log.info("recovered", payment_id=payment.id, status=resumed.status.value)
