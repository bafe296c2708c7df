"""Whether a program on this machine serves: the health check of its container.

    python -IS servicekit/probe.py grpc 9101     the standard health check of gRPC
    python -IS servicekit/probe.py http 8080     GET /health/ready

Exit status 0 if it does. It runs every few seconds beside a program with a fraction of a core, and
what it uses that program has to wait for. So it speaks the few bytes of HTTP/2 by itself, and on
sockets as the interpreter has them: 9 ms of processor time. The module socket would make that 18,
and grpc 84.
"""

import _socket
import sys

_SECONDS = 4.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 0x1, 0x4
# HealthCheckResponse{status: SERVING} behind its length, as in gRPC's protocol over HTTP/2.
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def _request() -> bytes:
    # Fields as in RFC 7541: an entry of the static table, or "without indexing".
    fields = (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + _text(b"/grpc.health.v1.Health/Check"))
        + (b"\x01" + _text(b"localhost"))  # :authority
        + (b"\x0f\x10" + _text(b"application/grpc"))  # content-type
        + (b"\x00" + _text(b"te") + _text(b"trailers"))
    )
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, fields)
        + _frame(_DATA, _END_STREAM, 1, bytes(5))  # an empty HealthCheckRequest
    )


class _Connection:
    """To a port of this machine, for a while. Raises OSError if nobody answers in time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> None:
        self._socket.settimeout(_SECONDS)
        self._socket.connect(("127.0.0.1", self._port))
        self._socket.sendall(request)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer if the other side has hung up."""
        data = b""
        while len(data) < size and (more := self._socket.recv(size - len(data))):
            data += more
        return data


def grpc_serves(port: int) -> bool:
    """Asks for the health of the whole server. Raises OSError if nobody answers."""
    with _Connection(port) as connection:
        connection.ask(_request())
        while len(head := connection.read(9)) == 9:
            kind, stream = head[3], int.from_bytes(head[5:9], "big")
            payload = connection.read(int.from_bytes(head[:3], "big"))
            if kind == _DATA and stream == 1:
                return payload == _SERVING
            if kind in (_RST_STREAM, _GOAWAY) or (
                kind == _HEADERS and head[4] & _END_STREAM and stream == 1
            ):
                return False
    return False


def http_ready(port: int) -> bool:
    """Asks the gateway whether it is ready. Raises OSError if nobody answers."""
    request = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with _Connection(port) as connection:
        connection.ask(request)
        return connection.read(13).split(b" ")[1:2] == [b"200"]


def main(arguments: list[str]) -> int:
    probe = {"grpc": grpc_serves, "http": http_ready}[arguments[0]]
    try:
        if probe(int(arguments[1])):
            return 0
        print("answers, but does not serve")
    except OSError as error:
        print(f"does not answer: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
