"""Expires holds in the background. Only the size of the tables depends on it."""

from reservation_service.service import ReservationService
from servicekit import logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)


async def run_sweep(service: ReservationService, seconds: float) -> None:
    """Expires holds about every `seconds` until cancelled. Any number of replicas may run it."""

    async def sweep() -> None:
        if expired := await service.expire_holds():
            log.info("holds_expired", count=expired)

    outage = Outage(log, "sweep_delayed", "sweep_resumed")
    # Jitter, because replicas may start together.
    await repeat(sweep, seconds=seconds, outage=outage, jitter=0.2)
