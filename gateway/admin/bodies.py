"""What bodies the admin API accepts, and that no cache keeps its responses."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.errors import admin_problem
from gateway.errors import BodyTooLarge, FieldError, InvalidFields, UnsupportedMediaType
from servicekit.errors import ServiceError

MAX_BODY_BYTES = 64 * 1024
MAX_EVENT_BODY_BYTES = 20 * 1024 * 1024
"""A document and a file of seats, of 8 MB together, as JSON text with its escapes."""

BODY_SECONDS = 60.0
"""How long a whole body may take to arrive: 20 MB at 3 Mbit/s. Otherwise it would hold a drain."""

# Reading more takes long enough to delay the public API, whose event loop is the same.
_SMALL_BYTES = 64 * 1024
_EVENTS = "/admin/events"
_MEDIA_TYPES = frozenset((b"application/json", b"application/merge-patch+json"))
_NO_STORE = (b"cache-control", b"no-store")


class BodyRules:
    """Refuses bodies that are no JSON, or too large. Answers by itself what the head shows; a
    larger body than its head says raises BodyTooLarge where it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = message["headers"]
                if scope["path"].startswith("/admin") and _NO_STORE not in fields:
                    fields.append(_NO_STORE)
            await send(message)

        headers = dict(scope["headers"])
        most = MAX_EVENT_BODY_BYTES if scope["path"].startswith(_EVENTS) else MAX_BODY_BYTES
        length = headers.get(b"content-length", b"0")
        has_body = length != b"0" or b"transfer-encoding" in headers
        refusal: ServiceError | None = None
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if has_body and media_type not in _MEDIA_TYPES:
            refusal = UnsupportedMediaType("Send Content-Type: application/json.")
        elif headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            refusal = UnsupportedMediaType("Send the body without a Content-Encoding.")
        elif int(length[:20]) > most:
            refusal = _too_large(most)
        if refusal is not None:
            await admin_problem(refusal)(scope, receive, send_uncached)
            return
        received = 0

        end = asyncio.get_running_loop().time() + BODY_SECONDS

        async def receive_limited() -> Message:
            nonlocal received
            if not has_body:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise _invalid("arrived too slowly") from None
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self._app(scope, receive_limited, send_uncached)


class JsonRequest(Request):
    """A request whose JSON is Unicode text that can be written again: no surrogates, no NaN."""

    async def json(self) -> Any:
        """Returns the body. Raises InvalidFields."""
        return await read_json(await read_bytes(self))


class JsonRoute(APIRoute):
    """A route that reads its body as JsonRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


async def read_bytes(request: Request) -> bytes:
    """Returns the body as it was sent. Raises BodyTooLarge, and InvalidFields if it ends early."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise _invalid("ended early") from None


async def read_json(body: bytes) -> Any:
    """Returns what the JSON says; reads a large one in a thread. Raises InvalidFields."""
    try:
        if len(body) <= _SMALL_BYTES:
            return from_json(body, allow_inf_nan=False)
        return await asyncio.to_thread(from_json, body, allow_inf_nan=False)
    except ValueError as error:
        raise _invalid(f"is not JSON: {error}") from None


def _invalid(message: str) -> InvalidFields:
    return InvalidFields([FieldError("body", message)])


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"A body has at most {most} bytes.")
