"""The route table: each operation is declared once, as a `Route`.

`Router` serves the table, `gateway/openapi.py` documents it (docs/adr/0029-one-route-table.md).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


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
    """A response that is not an error; `model` is None if it has no body."""

    status: int
    model: type[BaseModel] | None
    description: str
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation of the API. The docstring of `handler` is its public description.

    `errors` are the codes of gateway/errors.py that it may answer. The first of `returns` is the
    success. `login` says whether the operator's login token must come in Authorization: Bearer.
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


class Router:
    """Calls the handler of the first route that matches; `fallback` answers everything else.

    A handler reads the request and writes the response itself. FastAPI's routing, validation and
    serialisation would cost more than most handlers.
    """

    def __init__(self, routes: Sequence[Route], fallback: ASGIApp) -> None:
        self._routes = [(route.method, compile_path(route.path)[0], route) for route in routes]
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        for method, pattern, route in self._routes:
            if method == scope["method"] and (match := pattern.match(path)):
                scope["path_params"] = match.groupdict()
                scope["route"] = route
                response = await route.handler(Request(scope, receive))
                await response(scope, receive, send)
                return
        await self._fallback(scope, receive, send)


def route_template(scope: Scope) -> str:
    """Returns the path of the matched route with its parameters unfilled, or "other"."""
    return getattr(scope.get("route"), "path", "other")
