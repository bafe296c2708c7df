"""granian's ASGI worker in this process: its thread reads and writes HTTP, our loop answers.

granian's own embedded server passes each request to the loop, makes a task of it there, and starts
that in the next round of the loop. Here, what can be answered at once is answered in the callback
that brings the request (docs/adr/0042-immediate-answers.md).
"""

import asyncio
import logging
import os
import socket
from typing import Protocol

from granian._granian import ASGIWorker, CallbackScheduler, SocketHolder, WorkerSignal
from granian.constants import HTTPModes
from granian.http import HTTP1Settings
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

# A larger body is sent in parts of this size, in bytes.
PART_BYTES = 16 * 1024
_SERVER = (b"server", b"frontrow")


class Application(Protocol):
    """An ASGI application that answers some requests at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def answer(self, scope: Scope) -> Response | None:
        """Returns a response with a body of at most PART_BYTES, without waiting. None: call."""


class _Protocol(Protocol):
    """How granian receives and sends the messages of one request."""

    def receive(self) -> "asyncio.Future[Message]": ...

    def send(self, message: Message) -> "asyncio.Future[None]": ...


class _Request(Protocol):
    """granian's object for one request."""

    scope: Scope
    proto: _Protocol

    def done(self) -> None:
        """Answers with 500 if nothing has answered."""

    def err(self, error: BaseException) -> None:
        """Logs the error and does what `done` does."""

    def taskref(self, task: "asyncio.Task[None]") -> None:
        """Keeps the task."""


class GranianWorker:
    """Serves `app` on `listener`, with at most `connections` at a time."""

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        backlog: int,
        connections: int,
        http1: HTTP1Settings,
    ) -> None:
        # granian closes the descriptor that it gets.
        holder = SocketHolder(os.dup(listener.fileno()), False, backlog)  # type: ignore[call-arg]
        self._worker = ASGIWorker(  # type: ignore[call-arg]  # its stubs lack one and know no defaults
            1,
            (None, holder),
            None,  # type: ignore[arg-type]
            backpressure=connections,  # further ones wait in the kernel
            http_mode=HTTPModes.http1,
            http1_opts=http1,
        )
        self._app = app
        self._signal = WorkerSignal()
        self._stopping = False
        logging.getLogger("_granian").setLevel(logging.ERROR)

    async def serve(self) -> None:
        """Returns after `stop`, once all connections are closed."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        self._signal.add_cb(lambda: loop.call_soon_threadsafe(stopped.set))
        scheduler = CallbackScheduler(loop, None, None, None, None)  # type: ignore[call-arg]
        scheduler._schedule_fn = self._schedule  # type: ignore[attr-defined]
        self._loop = loop
        self._worker.serve_async(scheduler, loop, self._signal)  # type: ignore[attr-defined]
        await stopped.wait()

    def stop(self) -> None:
        """Makes it accept no more connections and `serve` return. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._signal.set()

    def _schedule(self, request: _Request) -> None:
        """Brings a request into the loop; called by granian in its thread."""
        self._loop.call_soon_threadsafe(self._begin, request)

    def _begin(self, request: _Request) -> None:
        try:
            response = self._app.answer(request.scope)
            if response is None:
                request.taskref(self._loop.create_task(self._call(request)))
                return
            fields = [*response.raw_headers, _SERVER]
            # granian takes each when it is called; only bodies in several parts have to be awaited.
            request.proto.send(
                {"type": "http.response.start", "status": response.status_code, "headers": fields}
            )
            request.proto.send({"type": "http.response.body", "body": response.body})
        except BaseException as error:
            request.err(error)

    async def _call(self, request: _Request) -> None:
        send_whole = request.proto.send

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append(_SERVER)
            elif len(message.get("body", b"")) > PART_BYTES:
                body = memoryview(message["body"])
                for start in range(0, len(body), PART_BYTES):
                    part = bytes(body[start : start + PART_BYTES])
                    await send_whole({"type": message["type"], "body": part, "more_body": True})
                message["body"] = b""
            await send_whole(message)

        try:
            await self._app(request.scope, request.proto.receive, send)
        except BaseException as error:
            request.err(error)
        else:
            request.done()
