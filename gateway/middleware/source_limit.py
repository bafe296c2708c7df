"""Limits the requests of each source, in this process."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.rate_limit import RateLimit
from gateway.sources import Sources

# A load balancer whose probes are refused would take the gateway out of service.
_HEALTH = "/health/"


class SourceLimitMiddleware:
    """Counts every request against its source, whatever its path; probes of health are free.

    Raises TooManyRequests. Must be inside ErrorMiddleware and CorsMiddleware, so that a page can
    read the refusal. So preflights and malformed requests, which are answered further outside, do
    not count.
    """

    def __init__(self, app: ASGIApp, sources: Sources, limit: RateLimit) -> None:
        self._app = app
        self._sources = sources
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(_HEALTH):
            self._limit.check(self._sources.of(scope))
        await self._app(scope, receive, send)
