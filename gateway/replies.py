"""Writing a reply: JSON bytes, instants and the headers that go with them."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic_core import to_json
from starlette.responses import Response

JSON = "application/json"


def json_reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON reply. `body` is a dict or ready bytes."""
    content = body if isinstance(body, bytes) else to_json(body)
    return Response(content, status, headers, media_type=JSON)


def instant_of_ms(milliseconds: int) -> str:
    """Unix time in milliseconds as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(timestamp: Timestamp) -> str:
    """A protobuf timestamp as RFC 3339 in UTC, with milliseconds."""
    return instant_of_ms(timestamp.ToMilliseconds())
