"""The HTTP port of a service for its operators: GET /health and GET /metrics."""

import asyncio
import http
import threading
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from servicekit.settings import split_address

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Below the timeout of the health check of a container (`probe`).
LOOP_SECONDS = 2.0


class MonitoringServer:
    """Serves /health and, at any other path, the Prometheus metrics, from a thread of its own.

    /health answers 200 while `is_serving()` is true, and otherwise 503. The event loop calls it,
    so a loop that is stuck for 2 seconds is reported as 503 too. Raises OSError if `address`,
    host:port, is taken.
    """

    def __init__(self, address: str, is_serving: Callable[[], bool]) -> None:
        self._is_serving = is_serving
        self._loop = asyncio.get_running_loop()
        self._metrics = make_wsgi_app()
        host, port = split_address(address)
        server_class = _IPv6Server if ":" in host else _Server
        self._server = server_class((host, port), _QuietHandler)
        self._server.set_app(self._serve)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/health":
            metrics: Iterable[bytes] = self._metrics(environ, start)
            return metrics
        status = http.HTTPStatus.OK if self._healthy() else http.HTTPStatus.SERVICE_UNAVAILABLE
        body = b"serving\n" if status == http.HTTPStatus.OK else b"not serving\n"
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        start(f"{status.value} {status.phrase}", headers)
        return [body]

    def _healthy(self) -> bool:
        async def ask() -> bool:
            return self._is_serving()

        answer = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            return answer.result(LOOP_SECONDS)
        except TimeoutError:
            answer.cancel()
            return False


class _Server(ThreadingMixIn, WSGIServer):
    address_family = AF_INET
    daemon_threads = True


class _IPv6Server(_Server):
    address_family = AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: a scrape every few seconds is no event."""
