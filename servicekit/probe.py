"""Checks from inside a container whether its program serves: a GET that is answered with 200.

    python -IS servicekit/probe.py 9201 /health          a service, at its metrics port
    python -IS servicekit/probe.py 8080 /health/ready    the gateway

Exit status 0 if it serves. Docker runs this every few seconds, and its CPU counts against the cap
of the container: 9 ms, of which the interpreter takes 8. Importing `socket` would make it 21 ms and
`http.client` 40 (docs/adr/0027-health-over-http.md), so the module below `socket` is used.
"""

import _socket
import sys

# Above the time that /health gives the event loop, below the timeout of Docker's health check.
_SECONDS = 4.0


def main(port: int, path: str) -> int:
    """Returns the exit status: 0 if the program serves, 1 with one printed line if not."""
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    connection.settimeout(_SECONDS)
    answer = b""
    try:
        connection.connect(("127.0.0.1", port))
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        while len(answer) < 12 and (more := connection.recv(12 - len(answer))):
            answer += more
    except OSError as error:
        print(f"does not answer: {error}")
        return 1
    finally:
        connection.close()
    if answer[9:] != b"200":
        print("answers, but does not serve")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
