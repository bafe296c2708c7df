"""Requests of pages of other origins (CORS)."""

import contextlib
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from gateway import tokens
from gateway.errors import FieldError, InvalidFields, problem
from servicekit import call_context

# A browser keeps the answer of a preflight this long: two hours is the longest that Chromium takes.
_MAX_AGE_SECONDS = 7_200

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_REQUEST_HEADERS = (
    tokens.HEADER,
    call_context.REQUEST_ID_HEADER,
    "Content-Type",
    "Idempotency-Key",
    "Authorization",
    "X-Challenge-Solution",
    "If-None-Match",
)
_RESPONSE_HEADERS = (
    tokens.HEADER,
    call_context.REQUEST_ID_HEADER,
    "Retry-After",
    "WWW-Authenticate",
    "Allow",
    "Age",
    "ETag",
)
# The field of a preflight for each of Starlette's names, and what a refusal says of it.
_REFUSALS = {
    "origin": FieldError("Origin", "pages of this origin may not call this shop (CORS)"),
    "method": FieldError(
        "Access-Control-Request-Method", "pages of other origins may not use this method (CORS)"
    ),
    "headers": FieldError(
        "Access-Control-Request-Headers",
        "pages of other origins may not send all of these headers (CORS)",
    ),
}


class CorsMiddleware(CORSMiddleware):
    """Lets pages of `origins` call the API and read its responses, errors included. Without
    cookies and other credentials of the browser: the API uses none."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=_MAX_AGE_SECONDS,
        )

    def add_fields(self, scope: Scope, response: Response) -> None:
        """Adds to a response what the middleware adds when it passes through."""
        message: Message = {"type": "http.response.start", "headers": response.raw_headers}
        # Starlette's method only waits for what it calls.
        with contextlib.suppress(StopIteration):
            self.send(message, _nothing, Headers(scope=scope)).send(None)
        response.raw_headers = message["headers"]

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers the question of a browser whether it may send a request; no is a problem."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refused = bytes(response.body).decode().removeprefix("Disallowed CORS ").split(", ")
        return problem(InvalidFields([_REFUSALS[name] for name in refused]))


async def _nothing(_: Message) -> None: ...
