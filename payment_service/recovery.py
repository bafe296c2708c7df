"""Finishes the payments that their drivers left unfinished. Any number of replicas may run it."""

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import Gauge

from payment_service.domain import Payment
from payment_service.ports import PaymentStore
from payment_service.saga import Saga
from servicekit import call_context, logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)

BACKLOG = Gauge(
    "payment_outbox_backlog",
    "Committed events that Kafka has not acknowledged; at most those of 20,000 payments.",
)
UNREFUNDED = Gauge(
    "payment_unrefunded", "Charges of another amount than due that are not refunded yet."
)

BATCH = 50
# Batches per poll while there are more payments to claim: faster than a sale while Kafka is
# unavailable, and few enough that the gauge above stays current.
BATCHES = 40
# A succeeded payment whose event waits longer than this has its hold renewed.
UNPUBLISHED_SECONDS = 60.0
# The interval of these renewals: a fifth of the default payment lease, so that the hold survives a
# few failed renewals and a long outage of Kafka costs little.
RENEWAL_SECONDS = 120.0
# How many are claimed per poll. To find them reads all payments with unsent events.
RENEWALS = 2_000
# They are renewed BATCH after BATCH, so that payments that begin wait behind few of them, for at
# most so long: unfinished payments wait for the rest. A hold survives a few failed renewals.
LONGEST_RENEWING_SECONDS = 15.0
KEEP_KEYS_HOURS = 24.0


class Recovery:
    """Claims the payments that nobody drives, every `interval` seconds."""

    def __init__(
        self,
        store: PaymentStore,
        saga: Saga,
        *,
        interval: float,
        lease_seconds: float,
    ) -> None:
        self._store = store
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
        await self.poll_once()
        BACKLOG.set(await self._store.count_unsent())
        UNREFUNDED.set(await self._store.count_unrefunded())
        await self._store.delete_old_keys(KEEP_KEYS_HOURS)

    async def poll_once(self) -> None:
        """Renews the holds of payments with unsent events, at most RENEWALS, and recovers batches
        of unfinished ones, at most BATCHES, until one is not full."""
        await self.renew_unpublished()
        for _ in range(BATCHES):
            if await self.recover_batch() < BATCH:
                return

    async def renew_unpublished(self) -> None:
        """Renews the holds of succeeded payments whose events have waited for long, BATCH at a
        time, until LONGEST_RENEWING_SECONDS are over."""
        unpublished = await self._store.claim_unpublished(
            older_than=UNPUBLISHED_SECONDS, lease_seconds=RENEWAL_SECONDS, limit=RENEWALS
        )
        clock = asyncio.get_running_loop().time
        until = clock() + LONGEST_RENEWING_SECONDS
        for start in range(0, len(unpublished), BATCH):
            some = unpublished[start : start + BATCH]
            await asyncio.gather(
                *(self._recover(self._saga.renew_hold, payment) for payment in some)
            )
            left = len(unpublished) - start - len(some)
            if left and clock() >= until:
                log.warning("holds_not_renewed", payments=left)
                return

    async def recover_batch(self) -> int:
        """Recovers one batch of unfinished payments; returns how many it claimed."""
        unfinished = await self._store.claim_unfinished(
            lease_seconds=self._lease_seconds, limit=BATCH
        )
        await asyncio.gather(*(self._recover(self._resume, payment) for payment in unfinished))
        return len(unfinished)

    async def _recover(
        self, recover: Callable[[Payment], Awaitable[object]], payment: Payment
    ) -> None:
        # A payment that fails must not stop the others. It is claimed again after its lease.
        try:
            call_context.set_deadline(self._lease_seconds)
            async with asyncio.timeout(self._lease_seconds):
                await recover(payment)
        except Exception:
            log.exception("recovery_failed", payment_id=payment.id)

    async def _resume(self, payment: Payment) -> None:
        resumed = await self._saga.resume(payment)
        if resumed.finished:
            log.info("payment_recovered", payment_id=payment.id, status=resumed.status.value)
