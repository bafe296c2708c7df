"""What bodies the admin API accepts, and that no cache keeps its responses."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.errors import admin_problem
from gateway.errors import BodyTooLarge, UnsupportedMediaType
from servicekit.errors import ServiceError

MAX_BODY_BYTES = 64 * 1024
MAX_EVENT_BODY_BYTES = 20 * 1024 * 1024
"""A document and a file of seats, of 8 MB together, as JSON text with its escapes."""

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

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self._app(scope, receive_limited, send_uncached)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"A body has at most {most} bytes.")
