"""The documentation: its page, the files that the page loads, and the OpenAPI document.

Anybody may request them, so each is encoded once and answered from memory. A slow client takes a
large one in pieces, so that it holds one piece and not the whole in the server's buffers.
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
from gateway.responses import JSON
from gateway.routing import Handler, Route

# Browsers ask again after this many seconds, and get 304 unless the gateway was upgraded.
_MAX_AGE_SECONDS = 300
_PIECE_BYTES = 64 * 1024
_FILES = "/static-offline-docs/"


def documentation_pages(routes: Sequence[Route]) -> Mapping[str, Handler]:
    """Returns the handler of each path. Each page is made at its first request."""
    html = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Frontrow - Swagger UI",
        swagger_js_url=f"{_FILES}swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}swagger-ui.css",
        swagger_favicon_url=f"{_FILES}favicon.png",
    )
    return {
        "/openapi.json": _handler(JSON, lambda: openapi_document(routes)),
        "/docs": _handler("text/html; charset=utf-8", lambda: bytes(html.body)),
        f"{_FILES}swagger-ui-bundle.js": _file("text/javascript", "swagger-ui-bundle.js"),
        f"{_FILES}swagger-ui.css": _file("text/css", "swagger-ui.css"),
        f"{_FILES}favicon.png": _file("image/png", "favicon.png"),
    }


def _file(media_type: str, name: str) -> Handler:
    return _handler(media_type, (resources.files("fastapi_offline") / "static" / name).read_bytes)


def _handler(media_type: str, load: Callable[[], bytes]) -> Handler:
    @cache
    def page() -> _Page:
        return _Page(media_type, load())

    async def handle(request: Request) -> Response:
        return page().response(request)

    return handle


class _Page:
    """A response that is the same for everybody until the gateway is upgraded."""

    def __init__(self, media_type: str, content: bytes) -> None:
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._pieces = [
            content[start : start + _PIECE_BYTES] for start in range(0, len(content), _PIECE_BYTES)
        ]
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
        known = request.headers.get("if-none-match", "")
        if self._etag in known or known == "*":
            return Response(status_code=304, headers=self._unchanged)
        return _InPieces(self._pieces, self._headers)


class _InPieces(Response):
    def __init__(self, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in self._pieces if scope["method"] == "GET" else ():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
