"""The documentation: its page, the files that the page loads, and the OpenAPI document.

Anybody may request them, so each is encoded once and answered from memory, and few are answered at
a time.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.openapi import openapi_document
from gateway.responses import JSON, has_etag
from gateway.routing import Handler, Route
from gateway.turns import Turns

# Browsers ask again after this many seconds, and get 304 unless the gateway was upgraded.
_MAX_AGE_SECONDS = 300
# With 256 clients that load the 1.5 MB of scripts, the p99 of everybody else is 8 ms instead of
# 180, and as many bytes are sent.
_AT_ONCE = 4
# A client that takes longer reads slowly, which costs little.
_TURN_SECONDS = 0.25
_FILES = "/static-offline-docs/"


class _InTurn(Response):
    def __init__(self, turns: Turns, content: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(content, headers=headers)
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turns.turn():
            await super().__call__(scope, receive, send)


class _Page:
    """A response that is the same for everybody until the gateway is upgraded."""

    def __init__(self, turns: Turns, media_type: str, content: bytes) -> None:
        self._turns = turns
        self._content = content
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._unchanged = {
            "ETag": self._etag,
            "Cache-Control": f"public, max-age={_MAX_AGE_SECONDS}",
        }
        self._headers = self._unchanged | {
            "Content-Length": str(len(content)),
            "Content-Type": media_type,
        }

    def response(self, request: Request) -> Response:
        """Returns 304 if If-None-Match names the content."""
        if has_etag(request, self._etag):
            return Response(status_code=304, headers=self._unchanged)
        if request.method == "HEAD":
            return Response(headers=self._headers)
        return _InTurn(self._turns, self._content, self._headers)


def documentation_pages(routes: Sequence[Route]) -> Mapping[str, Handler]:
    """Returns the handler of each path. Each page is made at its first request."""
    turns = Turns(_AT_ONCE, _TURN_SECONDS)
    html = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Frontrow - Swagger UI",
        swagger_js_url=f"{_FILES}swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}swagger-ui.css",
        swagger_favicon_url=f"{_FILES}favicon.png",
    )
    return {
        "/openapi.json": _handler(turns, JSON, lambda: openapi_document(routes)),
        "/docs": _handler(turns, "text/html; charset=utf-8", lambda: bytes(html.body)),
        f"{_FILES}swagger-ui-bundle.js": _file(turns, "text/javascript", "swagger-ui-bundle.js"),
        f"{_FILES}swagger-ui.css": _file(turns, "text/css", "swagger-ui.css"),
        f"{_FILES}favicon.png": _file(turns, "image/png", "favicon.png"),
    }


def _file(turns: Turns, media_type: str, name: str) -> Handler:
    return _handler(
        turns, media_type, (resources.files("fastapi_offline") / "static" / name).read_bytes
    )


def _handler(turns: Turns, media_type: str, load: Callable[[], bytes]) -> Handler:
    @cache
    def page() -> _Page:
        return _Page(turns, media_type, load())

    async def handle(request: Request) -> Response:
        return page().response(request)

    return handle
