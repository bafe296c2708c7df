"""Around every request, as pure ASGI: its id, its metrics, its error, the drain, the short cut.

BaseHTTPMiddleware costs two thirds of the throughput, hence by hand.
"""

import re
import time
from collections.abc import Awaitable, Callable
from functools import cache
from os import urandom

from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.drain import Drain
from gateway.errors import problem
from servicekit import call_context, logs
from servicekit.errors import ServiceError

log = logs.get(__name__)

REQUESTS = Counter("http_requests", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "http_request_seconds",
    "How long requests took.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

Endpoint = Callable[[Request], Awaitable[Response]]

_GOOD_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID = call_context.REQUEST_ID_HEADER.encode()


class ShortCut:
    """The hottest routes, straight from the path to their function.

    FastAPI's own way to the same function (which also documents it) costs twice as much as the
    function itself. `routes` are (method, path pattern, endpoint); the first match wins, and what
    matches none goes to `app`.
    """

    def __init__(self, app: ASGIApp, routes: list[tuple[str, str, Endpoint]]) -> None:
        self._app = app
        self._routes = [
            (method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), path, endpoint)
            for method, path, endpoint in routes
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            for method, pattern, template, endpoint in self._routes:
                if method == scope["method"] and (match := pattern.fullmatch(path)):
                    scope["path_params"] = match.groupdict()
                    scope["route_template"] = template
                    response = await endpoint(Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class Edge:
    """The outermost layer.

    Takes X-Request-Id from the client if it is 1 to 64 letters, digits, dots, dashes or
    underscores, makes one otherwise, and returns it. Any error becomes a problem body; one that
    is not ours to tell is logged and reads INTERNAL.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        call_context.request_id.set(request_id)
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((_REQUEST_ID, request_id.encode()))
                if self._drain.begun:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.exception("request failed", path=scope["path"])
                error = ServiceError("")
            if not status:  # else it is too late to tell: the server cuts the connection
                await problem(error)(scope, receive, send_with_headers)
        finally:
            requests, seconds = _metrics(_route_template(scope), status)
            requests.inc()
            seconds.observe(time.perf_counter() - started)


@cache
def _metrics(route: str, status: int) -> tuple[Counter, Histogram]:
    """What to count a request in. Cached, since finding them by their labels takes 3 us."""
    return REQUESTS.labels(route, status), REQUEST_SECONDS.labels(route)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID:
            text: str = value.decode("latin-1")
            if _GOOD_REQUEST_ID.fullmatch(text):
                return text
    return urandom(16).hex()


def _route_template(scope: Scope) -> str:
    """The route's path with its parameters unfilled, so that metrics stay few."""
    template: str | None = scope.get("route_template")
    if template is None:
        template = getattr(scope.get("route"), "path", "other")
    return template
