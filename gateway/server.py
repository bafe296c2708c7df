"""The HTTP server and its drain.

A server that closes a connection while a client writes to it resets that connection. So after
SIGTERM the server announces its end first: it still accepts requests, every response says
Connection: close, and readiness answers 503. Clients and load balancers go to another gateway.
Then it stops listening and finishes the accepted requests.
"""

import signal
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gateway.protocol import BoundedHttpProtocol
from gateway.settings import Settings
from servicekit.settings import split_address

# Connections that the kernel holds until we accept them; a crowd arrives at once.
BACKLOG = 4_096


class Drain:
    """Whether the process has begun to stop."""

    def __init__(self) -> None:
        self.begun = False


class DrainingServer(uvicorn.Server):
    """A uvicorn server that announces its end for `announce_seconds` before it stops listening.

    A second signal, or Ctrl-C, skips the announcement; Ctrl-C after that also skips waiting for
    requests. Unlike uvicorn's own server it does not raise the signal again afterwards, so that a
    requested stop ends with status 0.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, announce_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._announce_seconds = announce_seconds
        self._listens_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn calls this on SIGTERM and SIGINT."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif self._drain.begun or sig == signal.SIGINT:
            self.should_exit = True
        else:
            self._listens_until = time.monotonic() + self._announce_seconds
        self._drain.begun = True

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this every 100 ms; True ends the server."""
        if self._listens_until is not None and time.monotonic() >= self._listens_until:
            self.should_exit = True
        return await super().on_tick(counter)


def server_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """Returns uvicorn's configuration for `app`. The app gets HTTP scopes only."""
    host, port = split_address(settings.listen)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=65,  # above the usual 60 s of load balancers, so that they close first
        timeout_graceful_shutdown=settings.drain_seconds,
    )
