"""Reads the head of every request once: gives the request an id, refuses what is not HTTP as this
API speaks it, and closes the connection of a request whose body was not read."""

import asyncio
import contextlib
import re
from functools import lru_cache
from random import getrandbits
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import HeadersTooLarge, MalformedRequest, problem
from gateway.requests import BODY_SECONDS, MAX_BODY_BYTES
from servicekit import call_context
from servicekit.errors import ServiceError

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADER_FIELDS = 100
# A body up to this size is read to its end although it is refused, so that its client gets the
# response: closing the connection while the client sends would reset it.
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES

_ID = call_context.REQUEST_ID_HEADER.encode()
_READ_FIELDS = frozenset((_ID, b"host", b"content-length", b"transfer-encoding"))
# Servers write 1.0 as "1.0" (uvicorn) or "1" (granian).
_VERSIONS = frozenset(("1.1", "1.0", "1"))
_CLOSE = (b"connection", b"close")

_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# The characters of a host and port (RFC 3986, 3.2.2) without the comma, which joins two hosts.
_VALID_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]+")
# A gateway is reached by few names.
_is_host = lru_cache(maxsize=256)(_VALID_HOST.fullmatch)


class Head(NamedTuple):
    """What the head of a request says. `length` is what it declares of the body, 0 if nothing."""

    request_id: bytes
    length: int
    has_body: bool
    refusal: ServiceError | None


def read_head(scope: Scope) -> Head:
    """Reads all headers in one pass. `refusal` says why the request is malformed; None if it is
    not."""
    headers = scope["headers"]
    request_id = host = None
    hosts = 0
    length = b"0"
    codings = b""
    # A field also has ": " and a line end.
    size = len(scope["path"]) + len(scope["query_string"]) + 4 * len(headers)
    for name, value in headers:
        size += len(name) + len(value)
        if name in _READ_FIELDS:
            if name == b"host":
                hosts += 1
                host = value
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                codings += value
            elif request_id is None and _VALID_ID.fullmatch(value):
                request_id = value
    if request_id is None:
        # Unique, and no secret: the kernel's random bytes would cost a system call.
        request_id = b"%032x" % getrandbits(128)

    refusal: ServiceError | None = None
    if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADER_FIELDS:
        refusal = HeadersTooLarge(
            f"A head has at most {MAX_HEAD_BYTES} bytes and {MAX_HEADER_FIELDS} fields."
        )
    elif scope["http_version"] not in _VERSIONS:
        refusal = MalformedRequest("Use HTTP/1.1.")
    # granian adds an empty Host to a request without one, which HTTP/1.0 allows.
    elif hosts > 1 or (not host and scope["http_version"] == "1.1"):
        refusal = MalformedRequest("Send exactly one Host header.")
    elif host and not _is_host(host):
        refusal = MalformedRequest("The Host header is not a host name or address.")
    elif codings and codings.strip().lower() != b"chunked":
        refusal = MalformedRequest("The only transfer coding is chunked.")
    elif codings and length != b"0":
        refusal = MalformedRequest("Send either Content-Length or Transfer-Encoding.")
    elif not length.isdigit():
        refusal = MalformedRequest("Content-Length is not a number.")
    has_body = refusal is None and (codings != b"" or length != b"0")
    # More digits than a 64-bit number has would only take time to read.
    return Head(request_id, int(length[:20]) if has_body else 0, has_body, refusal)


def identifying(request_id: bytes) -> tuple[bytes, bytes]:
    """Returns the header field that every response has."""
    return _ID, request_id


class RequestGuard:
    """Takes X-Request-Id from the client if it is 1 to 64 letters, digits, dots, dashes or
    underscores, and creates an id otherwise. Returns the id in the response.

    The HTTP server refuses most malformed requests before they get here, each server others; this
    class answers those that it lets through, with a problem.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope)
        call_context.request_id.set(head.request_id.decode())
        body: _Body | None = None
        if head.has_body:
            body = _Body(receive, head.length)
            receive = body.receive

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = message["headers"]
                fields.append(identifying(head.request_id))
                if body is not None and not await body.has_ended() and _CLOSE not in fields:
                    fields.append(_CLOSE)
            await send(message)

        if head.refusal is None:
            await self._app(scope, receive, send_with_id)
        else:
            response = problem(head.refusal)
            # The server and the client may disagree about where this request ends.
            response.raw_headers.append(_CLOSE)
            await response(scope, receive, send_with_id)


class _Body:
    """The body of one request, and whether all of it has arrived.

    The response to a request with an unread body must close the connection: the client may still
    send the body, or never.
    """

    def __init__(self, receive: Receive, declared: int) -> None:
        self._receive = receive
        self._declared = declared  # 0: unknown
        self._too_large = declared > MAX_DISCARDED_BYTES
        self._received = 0
        self._ended = False
        self._stalled = False

    async def receive(self) -> Message:
        """Receives for the application."""
        self._stalled = True  # stays true if a time limit of the application ends the wait
        message = await self._receive()
        self._stalled = False
        self._received += len(message.get("body", b""))
        if 0 < self._declared <= self._received and message["type"] == "http.request":
            # granian says that the body has ended in another message, and each one passes from its
            # thread to ours.
            message["more_body"] = False
        # The other type is http.disconnect.
        self._ended = not message.get("more_body", False)
        return message

    async def has_ended(self) -> bool:
        """Returns whether all of the body has arrived.

        Waits for the rest of a body of at most MAX_DISCARDED_BYTES: many clients send head and
        body separately.
        """
        if self._ended or self._too_large or self._stalled:
            return self._ended
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BODY_SECONDS):
                while not self._ended and self._received <= MAX_DISCARDED_BYTES:
                    await self.receive()
        return self._ended
