"""Writing a reply: JSON bytes, instants and the headers that go with them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic_core import to_json
from starlette.responses import Response

JSON = "application/json"


def json_reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON reply. `body` is a dict or ready bytes."""
    return _JsonReply(body if isinstance(body, bytes) else to_json(body), status, headers)


class _JsonReply(Response):
    """A Response whose headers are made without looking through them: 3 us less a request."""

    media_type = JSON

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", JSON.encode()),
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode(), value.encode()))


def instant_of_ms(milliseconds: int) -> str:
    """Unix time in milliseconds as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(timestamp: Timestamp) -> str:
    """A protobuf timestamp as RFC 3339 in UTC, with milliseconds."""
    return instant_of_ms(timestamp.ToMilliseconds())
