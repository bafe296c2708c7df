"""Writes JSON responses."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

JSON = "application/json"
# Every response of the API depends on a token, or on the moment.
NO_STORE = (b"cache-control", b"no-store")
_CONTENT_TYPE = (b"content-type", JSON.encode())


class JsonResponse(Response):
    """A JSON response of a dict or of encoded bytes.

    Builds its headers without Starlette's search for existing ones, which costs 3 µs per request.
    """

    media_type = JSON

    def __init__(
        self, body: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body if isinstance(body, bytes) else to_json(body), status_code, headers)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            _CONTENT_TYPE,
            NO_STORE,
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode(), value.encode()))


def has_etag(request: Request, etag: str) -> bool:
    """Returns whether the request has the answer with this ETag (in its quotes) already. A proxy
    may have made a weak one of it (W/"…")."""
    known = ",".join(request.headers.getlist("if-none-match"))
    return etag in known or known.strip() == "*"


def no_content(headers: Mapping[str, str] | None = None) -> Response:
    """Returns 204."""
    response = Response(status_code=204, headers=headers)
    response.raw_headers.append(NO_STORE)
    return response


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Formats Unix time without fraction and zone. Cached: many holds begin within one second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[: len("2026-12-24T19:30:00")]


def instant_of_ms(milliseconds: int) -> str:
    """Formats Unix time in milliseconds as RFC 3339 in UTC, with milliseconds."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


def instant(timestamp: Timestamp) -> str:
    """Formats a protobuf timestamp as RFC 3339 in UTC, with milliseconds."""
    return f"{_second(timestamp.seconds)}.{timestamp.nanos // 1_000_000:03}Z"
