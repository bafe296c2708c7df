"""Tidies lapsed holds in the background. Nothing depends on it but the size of the tables."""

import asyncio
import random

from reservation_service.service import ReservationService
from servicekit import logs
from servicekit.errors import Unavailable

log = logs.get(__name__)


async def run_sweep(service: ReservationService, interval: float) -> None:
    """Tidies about every `interval` seconds, until cancelled; any number of replicas may."""
    while True:
        # Replicas that start together drift apart.
        await asyncio.sleep(interval * random.uniform(0.8, 1.2))
        try:
            if expired := await service.tidy():
                log.info("tidied lapsed holds", count=expired)
        except (Unavailable, TimeoutError) as error:
            log.warning("not tidied this time", error=str(error) or type(error).__name__)
