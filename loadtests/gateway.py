"""What is asked of the gateway beside the load, each over a connection of its own."""

from __future__ import annotations

import base64
import http.client
import json
import types
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UserError
from harness.local.ports import HOST

_TOKEN = "X-Access-Token"
_SECONDS = 5.0


def ready(base_url: str) -> int:
    """The status of /health/ready; 0 if nobody answers. Raises UserError for what is no URL."""
    parts = urlsplit(base_url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise UserError(f"BASE_URL must look like http://127.0.0.1:8080, not {base_url!r}.")
    return _ask(base_url, "GET", "/health/ready")[0]


def enter(base_url: str, user: int) -> str:
    """The token of a new place. Raises UserError."""
    headers = {"Content-Type": "application/json"}
    status, answer = _ask(
        base_url, "POST", "/queues/enqueue", headers, json.dumps({"userId": user})
    )
    token = answer.get(_TOKEN) if answer else None
    if status != 201 or not token:
        raise UserError(
            f"Nobody can enter through {base_url} ({f'status {status}' if status else 'no answer'})"
            ": is the queue full or paused?"
        )
    return token


def leave(base_url: str, token: str) -> None:
    """Gives back the place that the token is for; nothing if the gateway does not answer."""
    _ask(base_url, "DELETE", "/queues/order", {_TOKEN: token})


def claims(token: str) -> dict[str, Any]:
    """What the token states; the gateway has just signed it."""
    try:
        part = token.split(".")[1]
        told = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return {"place": int(told["place"]), "epoch": int(told["epoch"])}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError("The gateway gives tokens of another kind than this version.") from error


def _ask(
    base_url: str,
    method: str,
    path: str,
    headers: Mapping[str, str] = types.MappingProxyType({}),
    body: str | None = None,
) -> tuple[int, http.client.HTTPMessage | None]:
    """Status and headers of the answer; 0 and None if there is none."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(
        parts.hostname or HOST, parts.port or 80, timeout=_SECONDS
    )
    try:
        connection.request(method, parts.path + path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()
