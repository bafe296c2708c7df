"""The requests that a load test sends to the gateway beside the load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import httpx

from harness.client import AnyResponse, Client, TokenClaims, connect
from harness.errors import UserError

_SECONDS = 5.0


def ready(base_url: str) -> int:
    """Returns the status of /health/ready, or 0 if there is no response. Raises UserError for a
    URL that is not http."""
    parts = urlsplit(base_url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise UserError(f"BASE_URL must look like http://127.0.0.1:8080, not {base_url!r}.")
    response = _send(base_url, Client.ready)
    return response.status_code if response else 0


def enter(base_url: str, user: int) -> str:
    """Takes a place in the queue and returns its token. Raises UserError."""
    response = _send(base_url, Client.enter, user)
    if response is None or response.status_code != 201:
        raise UserError(
            f"Nobody can enter through {base_url} ({response.summary if response else 'no answer'})"
            ": is the queue full or paused?"
        )
    return response.token


def leave(base_url: str, token: str) -> None:
    """Gives the token's place back; does nothing if the gateway does not answer."""
    _send(base_url, Client.leave, token=token)


def claims(token: str) -> TokenClaims:
    """Reads what the token states. Raises UserError."""
    try:
        return TokenClaims.of(token)
    except ValueError as error:
        raise UserError("The gateway gives tokens of another kind than this version.") from error


def _send(
    base_url: str,
    request: Callable[[Client], Awaitable[AnyResponse]],
    user: int = 0,
    token: str = "",
) -> AnyResponse | None:
    """Returns the response to one request, or None. Blocks for 5 s at most."""

    async def send() -> AnyResponse:
        async with asyncio.timeout(_SECONDS), connect(base_url) as http:
            return await request(Client(http, user, token))

    try:
        return asyncio.run(send())
    except (httpx.TransportError, TimeoutError):
        return None
