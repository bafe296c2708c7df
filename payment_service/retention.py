"""Removes old rows in the background. Only the size of the tables depends on it."""

import asyncio

from payment_service.ports import PaymentStore
from payment_service.providers.sandbox import SandboxBook
from servicekit import logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)

# Rows per statement: few enough to hold their locks for milliseconds only.
BATCH = 200
# Seconds between two rounds: an idle service spends nothing on rows that nobody waits for.
INTERVAL_SECONDS = 30.0
# Batches of each kind in one round: about 1,000 rows per second, more than a sale leaves behind.
BATCHES = 300
# The pause between two of them, in which others use the database.
PAUSE_SECONDS = 0.05


class Retention:
    """Removes failed payments and the sandbox provider's charges after so many days, every
    `interval` seconds; 0 days keep them for ever. Any number of replicas may run it."""

    def __init__(
        self,
        store: PaymentStore,
        sandbox: SandboxBook,
        *,
        interval: float,
        failed_days: int,
        sandbox_days: int,
    ) -> None:
        self._interval = interval
        self._removals = [
            (days, remove)
            for days, remove in (
                (failed_days, store.remove_failed),
                (sandbox_days, sandbox.remove_charges),
            )
            if days
        ]

    async def run(self) -> None:
        """Removes old rows at about every interval until cancelled."""
        await repeat(
            self.remove_old_rows,
            seconds=self._interval,
            outage=Outage(log, "retention_delayed", "retention_resumed"),
            # Replicas may start together.
            jitter=0.2,
        )

    async def remove_old_rows(self) -> int:
        """Removes at most BATCHES batches of each kind; returns how many rows it removed."""
        removed = 0
        for days, remove in self._removals:
            for _ in range(BATCHES):
                batch = await remove(days, BATCH)
                removed += batch
                if batch < BATCH:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
        if removed:
            log.info("payment_rows_removed", count=removed)
        return removed
