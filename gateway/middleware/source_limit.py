"""Limits the requests of each source, in this process."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.rate_limit import RateLimit
from gateway.sources import Sources

# A load balancer whose probes are refused would take the gateway out of service.
_HEALTH = "/health/"
# Where a request notes that it was counted.
_COUNTED = "frontrow.source_counted"


class SourceLimit:
    """Counts every request against its source, whatever its path; probes of health are free."""

    def __init__(self, sources: Sources, limit: RateLimit) -> None:
        self._sources = sources
        self._limit = limit

    def check(self, scope: Scope) -> None:
        """Counts a request when it is called for it first. Raises TooManyRequests."""
        if _COUNTED in scope:
            return
        scope[_COUNTED] = True
        if not scope["path"].startswith(_HEALTH):
            self._limit.check(self._sources.of(scope))


class SourceLimitMiddleware:
    """Checks the limit.

    Must be inside ErrorMiddleware and CorsMiddleware, so that a page can read the refusal. So
    preflights and malformed requests, which are answered further outside, do not count.
    """

    def __init__(self, app: ASGIApp, limit: SourceLimit) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._limit.check(scope)
        await self._app(scope, receive, send)
