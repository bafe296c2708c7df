"""Is this process alive, and should requests be sent to it?"""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.clients import Clients
from gateway.drain import Drain
from gateway.replies import json_reply
from gateway.routes.documentation import RETRY_AFTER


class HealthRoutes:
    """GET /health/live and /health/ready."""

    def __init__(self, clients: Clients, drain: Drain) -> None:
        self._clients = clients
        self._drain = drain

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes, with what the OpenAPI page says of them."""
        app.add_api_route(
            "/health/live",
            self.live,
            methods=["GET"],
            tags=["health"],
            response_model=schemas.Health,
        )
        app.add_api_route(
            "/health/ready",
            self.ready,
            methods=["GET"],
            tags=["health"],
            response_model=schemas.Health,
            responses={
                503: {
                    "model": schemas.Health,
                    "description": "Send requests elsewhere for now.",
                    "headers": RETRY_AFTER,
                }
            },
        )

    async def live(self, request: Request) -> Response:
        """200 as long as the process runs."""
        return json_reply({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 if every service behind the gateway answers and it is not about to stop."""
        if self._drain.begun:
            return json_reply({"status": "draining", "away": []}, 503, {"Retry-After": "1"})
        away = await self._clients.not_ready()
        if away:
            return json_reply({"status": "not ready", "away": away}, 503, {"Retry-After": "1"})
        return json_reply({"status": "ready", "away": []})
