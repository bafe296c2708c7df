"""Liveness and readiness."""

import asyncio
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.clients import Clients
from gateway.open_files import OpenFiles
from gateway.responses import JsonResponse
from gateway.routes.shared import RETRY_AFTER
from gateway.routing import Returns, Route
from gateway.server import Drain

# A recovery shows sooner than an outage, because a start waits for it.
_NOT_READY_TTL_SECONDS = 0.1
_QUEUE = "queue_service"
_NOT_READY_HEADERS = {"Retry-After": "1"}


class HealthRoutes:
    """GET /health/live and /health/ready."""

    def __init__(
        self, clients: Clients, drain: Drain, open_files: OpenFiles, readiness_ttl_seconds: float
    ) -> None:
        self._clients = clients
        self._ttl = readiness_ttl_seconds
        self._drain = drain
        self._open_files = open_files
        self._check: asyncio.Task[list[str]] | None = None
        self._expires = 0.0

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="GET",
                path="/health/live",
                handler=self.live,
                operation_id="getLiveness",
                tag="health",
                returns=(Returns(200, schemas.Health, "The process runs."),),
            ),
            Route(
                method="GET",
                path="/health/ready",
                handler=self.ready,
                operation_id="getReadiness",
                tag="health",
                returns=(
                    Returns(200, schemas.Health, "Send requests here."),
                    Returns(
                        503,
                        schemas.Health,
                        "Send requests to another gateway for now.",
                        headers=(RETRY_AFTER,),
                    ),
                ),
            ),
        )

    async def live(self, request: Request) -> Response:
        """Answers 200 as long as the process runs."""
        return JsonResponse({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Answers 200 if every service behind the gateway is healthy, this process can open files,
        and no drain has begun. queue_service need not be healthy while the last room view answers
        for it: no gateway could do more."""
        if self._drain.begun:
            return JsonResponse({"status": "draining", "away": []}, 503, _NOT_READY_HEADERS)
        unavailable = await self._unavailable_services()
        if _QUEUE in unavailable and await self._last_view_speaks():
            unavailable = [name for name in unavailable if name != _QUEUE]
        if self._open_files.exhausted:
            unavailable = [*unavailable, "open files"]
        if unavailable:
            body = {
                "status": "not ready",
                "away": unavailable,
                "roomView": self._clients.rooms.main.view_state(),
            }
            return JsonResponse(body, 503, _NOT_READY_HEADERS)
        return JsonResponse(
            {"status": "ready", "away": [], "roomView": self._clients.rooms.main.view_state()}
        )

    async def _last_view_speaks(self) -> bool:
        for room in self._clients.rooms:
            if room.answers.in_outage or await room.answers.call_failed():
                return True
        return False

    async def _unavailable_services(self) -> list[str]:
        """Returns the result of the last check, or of a new one if that is too old: anybody may
        ask, and a check calls every service. Concurrent requests share one check."""
        if self._check is None or (self._check.done() and time.monotonic() >= self._expires):
            self._check = asyncio.create_task(self._check_services())
        # A client that disconnects must not cancel the check for the others.
        return await asyncio.shield(self._check)

    async def _check_services(self) -> list[str]:
        unavailable = await self._clients.unavailable_services()
        ttl = min(self._ttl, _NOT_READY_TTL_SECONDS) if unavailable else self._ttl
        self._expires = time.monotonic() + ttl
        return unavailable
