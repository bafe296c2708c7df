"""Any provider, with a deadline, bounded retries and a circuit breaker around it."""

import asyncio
import random
from decimal import Decimal

from payment_service.domain import Charge, ProviderUnavailable
from payment_service.ports import PaymentProvider
from payment_service.providers.breaker import CircuitBreaker
from servicekit import call_context

CHARGE_TRIES = 4


class GuardedProvider:
    """Every call takes at most `timeout` seconds, retries included, then raises TimeoutError.

    A charge that the provider answers with an error is tried again, at most 4 times in all, with
    jitter; one that it does not answer is not, for it may be under way. While `breaker` is open
    a charge raises ProviderUnavailable at once.
    """

    def __init__(
        self, provider: PaymentProvider, *, timeout: float, breaker: CircuitBreaker
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._breaker = breaker

    async def charge(self, payment_id: int, user_id: int, amount: Decimal) -> Charge:
        if not self._breaker.allows():
            raise ProviderUnavailable("The payment provider has been away; not asked.")
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

    async def _try_charge(self, payment_id: int, user_id: int, amount: Decimal) -> Charge:
        for failures in range(1, CHARGE_TRIES):
            try:
                return await self._provider.charge(payment_id, user_id, amount)
            except ProviderUnavailable:
                await asyncio.sleep(random.uniform(0, min(0.5, 0.025 * 2**failures)))
        return await self._provider.charge(payment_id, user_id, amount)
