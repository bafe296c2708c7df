"""Payment providers: `sandbox` moves no money, `http` calls a payment service provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from payment_service.ports import PaymentProvider
from payment_service.providers.http import HttpProvider
from payment_service.providers.sandbox import SandboxProvider
from payment_service.settings import Settings
from servicekit import logs
from servicekit.mysql import Database

log = logs.get(__name__)


@asynccontextmanager
async def connect_provider(settings: Settings) -> AsyncIterator[PaymentProvider]:
    """Opens the provider that `settings.provider` names, for the block; `sandbox` if none."""
    if settings.provider != "http":
        if not settings.provider:
            log.warning("sandbox_by_default")
        async with Database(settings.mysql_url, max_size=settings.mysql_connections) as database:
            yield SandboxProvider(database)
    else:
        async with httpx.AsyncClient(
            base_url=settings.http_base_url,
            headers={"Authorization": f"Bearer {settings.http_api_key.get_secret_value()}"},
            timeout=settings.provider_timeout_seconds,
        ) as client:
            yield HttpProvider(client)
