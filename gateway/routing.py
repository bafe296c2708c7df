"""The route table: each operation is declared once, as a `Route`.

`Router` serves the table, `gateway/openapi.py` documents it (docs/adr/0029-one-route-table.md).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from gateway.errors import MethodNotAllowed, PathNotFound
from gateway.responses import no_content
from gateway.tokens import add_fresh_token

Handler = Callable[[Request], Awaitable[Response]]
Immediate = Callable[[Request], Response | None]

# Where a request notes that `immediate` of its route was called.
TRIED = "frontrow.tried"


@dataclass(frozen=True)
class Parameter:
    """A request parameter; `type` is a type that pydantic can describe."""

    name: str
    location: Literal["path", "query", "header"]
    type: Any
    description: str
    required: bool = False


@dataclass(frozen=True)
class Header:
    """A response header; `type` is a type that pydantic can describe."""

    name: str
    type: Any
    description: str


@dataclass(frozen=True)
class Returns:
    """A response that is not an error; `model` is None if it has no body, or one that is no
    JSON."""

    status: int
    model: type[BaseModel] | None
    description: str
    headers: tuple[Header, ...] = ()
    media_type: str = ""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation of the API. The docstring of `handler` is its public description.

    `errors` are the codes of gateway/errors.py that it may answer. The first of `returns` is the
    success. `login` says whether the operator's login token must come in Authorization: Bearer.

    `immediate` answers first, if it can without waiting; if it returns None, `handler` answers.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    operation_id: str
    tag: str
    returns: tuple[Returns, ...]
    errors: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    parameters: tuple[Parameter, ...] = ()
    login: bool = False
    immediate: Immediate | None = None


class Router:
    """Calls the handler of the first route that matches, or of the page with this path.

    HEAD is answered as GET: the HTTP server leaves out the body. OPTIONS returns the methods of
    the path. A handler reads the request and writes the response itself. FastAPI's routing,
    validation and serialisation would cost more than most handlers.
    """

    def __init__(self, routes: Sequence[Route], pages: Mapping[str, Handler]) -> None:
        """`pages` are the handlers of GET requests that are not operations of the API."""
        self._routes = [(route.method, compile_path(route.path)[0], route) for route in routes]
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, parameters = self.find(scope)
        request = Request(scope, receive)
        if route is not None:
            scope["path_params"] = parameters
            scope["route"] = route
            response = None
            if route.immediate is not None and TRIED not in scope:
                response = route.immediate(request)
            if response is None:
                response = await route.handler(request)
            add_fresh_token(scope, response)
        elif scope["method"] in ("GET", "HEAD") and scope["path"] in self._pages:
            response = await self._pages[scope["path"]](request)
        else:
            response = self._without_route(scope["method"], scope["path"])
        await response(scope, receive, send)

    def find(self, scope: Scope) -> tuple[Route | None, dict[str, str]]:
        """Returns the route of the request, if it has one, and the parameters of its path."""
        path = scope["path"]
        method = scope["method"]
        if method == "HEAD":
            method = "GET"
        for route_method, pattern, route in self._routes:
            if route_method == method and (match := pattern.match(path)):
                return route, match.groupdict()
        return None, {}

    def _without_route(self, method: str, path: str) -> Response:
        """Answers OPTIONS. Raises PathNotFound or MethodNotAllowed."""
        methods: set[str] = {name for name, pattern, _ in self._routes if pattern.match(path)}
        if path in self._pages:
            methods.add("GET")
        if not methods:
            raise PathNotFound("Check the spelling of the path.")
        if "GET" in methods:
            methods.add("HEAD")
        allowed = ", ".join(sorted({*methods, "OPTIONS"}))
        if method != "OPTIONS":
            raise MethodNotAllowed(allowed)
        return no_content({"Allow": allowed})


def route_template(scope: Scope) -> str:
    """Returns the path of the matched route with its parameters unfilled, or "other"."""
    return getattr(scope.get("route"), "path", "other")
