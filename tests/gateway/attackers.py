"""Clients that misbehave, over plain sockets."""

import contextlib
import math
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSING = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BUNDLE = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"  # 1.5 MB

Crowd = list[socket.socket]


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """Opens a connection whose calls block for at most 10 s."""
    with ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.settimeout(10)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect(("127.0.0.1", port))
        stack.pop_all()
        return client


def exchange(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Sends `parts` and returns everything until the server closes, or is silent for 0.1 s after a
    response."""
    with connect(port) as client:
        with contextlib.suppress(OSError):  # the server has refused the rest
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
        first = read_some(client, 5)
        return first + (read(client, 0.1) if first else b"")


def read_some(client: socket.socket, seconds: float) -> bytes:
    """Returns what arrives first within `seconds`; nothing if the server closes."""
    client.settimeout(seconds)
    with contextlib.suppress(OSError):
        return client.recv(65_536)
    return b""


def read(client: socket.socket, seconds: float) -> bytes:
    """Returns what arrives until the server closes, or is silent for `seconds`."""
    client.settimeout(seconds)
    received = b""
    with contextlib.suppress(OSError):
        while data := client.recv(65_536):
            received += data
    return received


def statuses(responses: bytes) -> list[int]:
    """Returns the statuses of responses whose bodies contain no status line."""
    return [int(part[:3]) for part in responses.split(b"HTTP/1.1 ")[1:]]


def end_of(client: socket.socket, seconds: float) -> Literal["FIN", "RST", "open"]:
    """Returns how the server ends a connection within `seconds`; discards what it sends before."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        client.settimeout(left)
        try:
            if not client.recv(65_536):
                return "FIN"
        except TimeoutError:
            break
        except ConnectionError:
            return "RST"
    return "open"


@contextmanager
def crowd(
    port: int,
    count: int,
    request: bytes = b"",
    *,
    receive_buffer: int | None = None,
    per_second: float = math.inf,
) -> Iterator[Crowd]:
    """Opens `count` connections that each send `request` once, as far as the kernel takes it, and
    read nothing. Their end resets them, so that none lingers."""
    with ExitStack() as stack:
        clients: Crowd = []
        for number in range(count):
            if number % 50 == 49:
                time.sleep(50 / per_second)
            client = stack.enter_context(connect(port, receive_buffer=receive_buffer))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            clients.append(client)
            if request:
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.send(request)
        yield clients


def bomb(port: int, *, limit: int = 24_000_000) -> tuple[int, bytes]:
    """Sends a head without end, at most `limit` bytes. Returns how much the server took in, with
    what both kernels buffer, and the response."""
    fields, sent = b"a:b\r\n" * 2_000, 0
    with connect(port) as client:
        with contextlib.suppress(OSError):
            client.sendall(LIVE[:-2])
            while sent < limit:
                client.sendall(fields)
                sent += len(fields)
        return sent, read(client, 2)
