"""The HTTP server and its drain.

granian reads and writes HTTP/1.1 with hyper, in a thread of its own; the application runs in the
event loop of the main thread (docs/adr/0032-granian-serves-http.md).

A server that closes a connection while a client writes to it resets that connection. So after
SIGTERM the server announces its end first: it still accepts connections, every response says
Connection: close, and readiness answers 503. Clients and load balancers go to another gateway.
Then it accepts no more connections, answers the requests that arrive on open ones until none is in
progress, and closes the idle ones.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable

from granian.http import HTTP1Settings

from gateway.granian_worker import Application, GranianWorker
from gateway.settings import Settings
from servicekit import logs
from servicekit.settings import split_address

# Connections that the kernel holds until we accept them; a crowd arrives at once.
BACKLOG = 4_096
# The largest head of a request, in bytes; the server answers 431 to a larger one, and to more than
# 100 fields (a constant of hyper).
MAX_HEAD_BYTES = 16 * 1024
# The kernel's buffer for the responses of one connection, in bytes; it takes twice the number, and
# by itself up to 4 MB: a client that pipelines requests and reads nothing would have us answer
# thousands of them.
_SEND_BUFFER = 64 * 1024
# The drain ends when no request was in progress for half of the announcement, within these limits:
# a client far away, or on a busy machine, takes that long to send the first request of a connection
# that was accepted last.
_QUIET_SECONDS = (0.05, 1.0)
_POLL_SECONDS = 0.01
# Longer than granian takes to notice that its connections are closed.
_CLOSE_SECONDS = 5.0
_SO_ATTACH_FILTER = 26  # of Linux; the socket module does not have it

log = logs.get(__name__)


class Drain:
    """Whether the process has begun to stop, and how many requests are in progress."""

    def __init__(self) -> None:
        self.begun = False
        self.requests = 0


def listen(settings: Settings) -> socket.socket:
    """Opens the listening socket, whose options accepted connections inherit. Raises OSError if the
    address is in use."""
    return _listen(settings.listen, settings)


def listen_for_operators(settings: Settings) -> socket.socket | None:
    """Opens the socket of the admin API, if there is one. Raises OSError if the address is in
    use."""
    if settings.admin_listen is None:
        return None
    try:
        return _listen(settings.admin_listen, settings)
    except OSError as error:
        raise OSError(f"GATEWAY_ADMIN_LISTEN, {settings.admin_listen}: {error}") from error


def _listen(address: str, settings: Settings) -> socket.socket:
    host_and_port = split_address(address)
    family = socket.AF_INET6 if ":" in host_and_port[0] else socket.AF_INET
    listener = socket.create_server(host_and_port, family=family, backlog=BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    # The kernel ends a connection whose peer accepts no data for this long; hyper does not.
    write_milliseconds = int(settings.write_seconds * 1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, write_milliseconds)
    return listener


class HttpServer:
    """Serves `app` on `listener` until a signal, then drains. The app gets HTTP scopes only.

    `connections` are the most at a time.
    """

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        drain: Drain,
        connections: int,
        settings: Settings,
    ) -> None:
        self._listener = listener
        self._drain = drain
        self._announce_seconds = settings.drain_announce_seconds
        shortest, longest = _QUIET_SECONDS
        self._quiet_seconds = min(max(self._announce_seconds / 2, shortest), longest)
        self._drain_seconds = settings.drain_seconds
        self._signalled = asyncio.Event()
        self._announced = asyncio.Event()
        self._given_up = False
        self._worker = GranianWorker(
            app,
            listener,
            BACKLOG,
            connections,
            HTTP1Settings(
                header_read_timeout=int(settings.idle_seconds * 1000),
                max_buffer_size=MAX_HEAD_BYTES,
            ),
        )

    def handle_signal(self, number: int) -> None:
        """Begins the drain. A second signal, or Ctrl-C, skips the announcement; Ctrl-C after that
        also skips waiting for requests."""
        if self._announced.is_set() and number == signal.SIGINT:
            self._given_up = True
        if self._drain.begun or number == signal.SIGINT:
            self._announced.set()
        self._drain.begun = True
        self._signalled.set()

    async def serve(self) -> None:
        """Returns after the drain. Raises RuntimeError if the server ends by itself."""
        serving = asyncio.create_task(self._worker.serve())
        signalled = asyncio.create_task(self._signalled.wait())
        await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not signalled.done():
            signalled.cancel()
            raise RuntimeError("the HTTP server ended without a signal")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._announce_seconds):
                await self._announced.wait()
        self._announced.set()
        try:
            refuse_connections(self._listener)
        except OSError as error:  # gVisor has no such filters, and seccomp may forbid them
            log.warning("new_connections_not_refused", error=str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._until_quiet()
                self._worker.stop()
                await self._until(serving.done)
        port = self._listener.getsockname()[1]
        self._listener.close()
        self._worker.stop()
        close_connections(port)
        await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)
        if not serving.done():
            log.error("connections_not_closed")

    async def _until_quiet(self) -> None:
        """Returns when no request was in progress for a moment, or at Ctrl-C."""
        quiet_since = time.monotonic()

        def quiet() -> bool:
            nonlocal quiet_since
            if self._drain.requests:
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since >= self._quiet_seconds

        await self._until(quiet)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds, or at Ctrl-C."""
        while not condition() and not self._given_up:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


def refuse_connections(listener: socket.socket) -> None:
    """Makes the kernel drop the first packet of every new connection.

    Closing the listener would reset the connections that wait to be accepted. A client repeats its
    first packet after a second; then it reaches the next process at this address, or is refused.
    Raises OSError if the kernel has no packet filters.
    """
    # A classic BPF program. A packet begins with its TCP header, with the flags in byte 13.
    instructions = [
        (0x30, 0, 0, 13),  # load the flags
        (0x54, 0, 0, 0x12),  # keep SYN (2) and ACK (16)
        (0x15, 0, 1, 0x02),  # if only SYN is set,
        (0x06, 0, 0, 0),  # drop the packet,
        (0x06, 0, 0, 0xFFFF_FFFF),  # otherwise accept it
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
    program = struct.pack("HP", len(instructions), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def close_connections(port: int) -> None:
    """Closes every connection that was accepted at `port`: granian has no call for it."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # closed meanwhile
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                accepted = not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                address = connection.getsockname()
                if accepted and isinstance(address, tuple) and address[1] == port:
                    connection.shutdown(socket.SHUT_RDWR)
