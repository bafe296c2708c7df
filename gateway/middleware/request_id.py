"""Gives every request an id, for logs, services and the client."""

import re
from os import urandom

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servicekit import call_context

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER = call_context.REQUEST_ID_HEADER.encode()


class RequestIdMiddleware:
    """Takes X-Request-Id from the client if it is 1 to 64 letters, digits, dots, dashes or
    underscores, and creates an id otherwise. Returns the id in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        call_context.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((_HEADER, request_id.encode()))
            await send(message)

        await self._app(scope, receive, send_with_id)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER:
            text: str = value.decode("latin-1")
            if _VALID_ID.fullmatch(text):
                return text
    return urandom(16).hex()
