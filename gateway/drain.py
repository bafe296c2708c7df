"""Stopping without cutting anybody off: first announce it, then stop listening, then finish.

A server that closes a connection at the moment a client writes to it resets it. So after
SIGTERM requests are still taken for a while, each reply says Connection: close, and readiness
says 503; when the listener closes, clients and load balancers have looked elsewhere.
"""

import signal
import time
from types import FrameType

import uvicorn


class Drain:
    """Whether the process has been told to stop."""

    def __init__(self) -> None:
        self.begun = False


class DrainingServer(uvicorn.Server):
    """A uvicorn server that announces its end for `announce_seconds` before it stops listening.

    A second signal, or Ctrl-C, stops it without the announcement, and Ctrl-C after that without
    waiting for requests. No signal is raised again afterwards, as uvicorn does: a stop that was
    asked for ends with status 0.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, announce_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._announce_seconds = announce_seconds
        self._listens_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn on SIGTERM and SIGINT."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif self._drain.begun or sig == signal.SIGINT:
            self.should_exit = True
        else:
            self._listens_until = time.monotonic() + self._announce_seconds
        self._drain.begun = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 100 ms; True ends the server."""
        if self._listens_until is not None and time.monotonic() >= self._listens_until:
            self.should_exit = True
        return await super().on_tick(counter)
