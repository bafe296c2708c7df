"""Adds a deadline, bounded retries and a circuit breaker to any provider."""

import asyncio

from payment_service.domain import Charge, Money
from payment_service.errors import ProviderUnavailable
from payment_service.ports import PaymentProvider
from payment_service.providers.breaker import CircuitBreaker
from servicekit import call_context
from servicekit.retries import call_pause

CHARGE_ATTEMPTS = 4


class GuardedProvider:
    """Wraps a `ports.PaymentProvider`. Every call takes at most `timeout` seconds, retries
    included, then raises TimeoutError.

    A charge that fails with ProviderUnavailable is retried with jitter, at most 4 attempts. A
    charge without an answer is not retried, because it may be in progress. While `breaker` is open
    a charge raises ProviderUnavailable at once.
    """

    def __init__(
        self, provider: PaymentProvider, *, timeout: float, breaker: CircuitBreaker
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._breaker = breaker

    async def charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        if not self._breaker.allows():
            raise ProviderUnavailable("The payment provider keeps failing; nothing was sent.")
        try:
            async with asyncio.timeout(call_context.remaining(self._timeout)):
                charge = await self._try_charge(payment_id, user_id, amount)
        except (ProviderUnavailable, TimeoutError):
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return charge

    async def get_charge(self, payment_id: int) -> Charge:
        async with asyncio.timeout(call_context.remaining(self._timeout)):
            return await self._provider.get_charge(payment_id)

    async def refund(self, payment_id: int) -> None:
        async with asyncio.timeout(call_context.remaining(self._timeout)):
            await self._provider.refund(payment_id)

    async def _try_charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        for attempt in range(1, CHARGE_ATTEMPTS):
            try:
                return await self._provider.charge(payment_id, user_id, amount)
            except ProviderUnavailable:
                await asyncio.sleep(call_pause(attempt))
        return await self._provider.charge(payment_id, user_id, amount)
