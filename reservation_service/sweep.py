"""Expires holds and removes old rows in the background."""

from reservation_service.service import ReservationService
from servicekit import logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)


async def run_sweep(service: ReservationService, seconds: float) -> None:
    """Expires holds and removes old rows about every `seconds` until cancelled. Any number of
    replicas may run it."""

    async def sweep() -> None:
        if expired := await service.expire_holds():
            log.info("holds_expired", count=expired)
        if removed := await service.remove_old_rows():
            log.info("reservations_removed", count=removed)

    outage = Outage(log, "sweep_delayed", "sweep_resumed")
    # Jitter, because replicas may start together.
    await repeat(sweep, seconds=seconds, outage=outage, jitter=0.2)
