"""uvicorn's HTTP/1.1 protocol with two additions: uvicorn's own error responses are problems like
every other error, and half a request does not keep a connection open."""

import asyncio
from os import urandom

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import FieldError, InvalidFields, problem
from servicekit import call_context

# For the head of a request, from its first byte; a phone that roams needs a few seconds.
HEAD_SECONDS = 10.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. Answers a malformed message (bad bytes in the path, an unknown method) with
    INVALID_REQUEST and closes the connection. Also closes it without a first byte within the
    keep-alive timeout, and if a head is incomplete after HEAD_SECONDS."""

    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn sets this timer after responses only.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head usually arrives in one piece: then no timer is set and cancelled.
        if not self._in_head:
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        call_context.request_id.set(urandom(16).hex())
        response = problem(InvalidFields([FieldError("request", "is not valid HTTP/1.1")]))
        response.headers[call_context.REQUEST_ID_HEADER] = call_context.request_id.get()
        head = [f"HTTP/1.1 {response.status_code} \r\n".encode(), b"connection: close\r\n"]
        head += [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
