"""Counts the requests in progress, and closes connections while the process drains."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.server import Drain


class DrainMiddleware:
    """Adds Connection: close to every response once the drain has begun."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            # Checked when the response starts: the drain may begin after the request did.
            if self._drain.begun and message["type"] == "http.response.start":
                message["headers"].append((b"connection", b"close"))
            await send(message)

        self._drain.requests += 1
        try:
            await self._app(scope, receive, send_and_close)
        finally:
            self._drain.requests -= 1
