"""The HTTP client of the admin API, for the commands and the tests.

async with connect(url, key) as http:
    result = await AdminClient(http).import_event(document)
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel
from pydantic_core import to_json

from gateway.admin.event_schemas import Event, Events, ImportResult, StatusResult
from gateway.admin.schemas import AdminProblem
from harness.errors import UserError

# Longer than the admin API waits for the services, also for the largest document.
_TIMEOUT_SECONDS = 120.0
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_PIECE_BYTES = 65_536

T = TypeVar("T", bound=BaseModel)
# Is told how many bytes more have been sent.
Progress = Callable[[int], None]


class Refused(UserError):
    """The admin API refused a request; `problem` says why."""

    def __init__(self, request: httpx.Request, status: int, problem: AdminProblem) -> None:
        super().__init__(
            f"{request.method} {request.url.path} answered {status} {problem.code}:"
            f" {problem.detail}"
        )
        self.problem = problem


def connect(
    base_url: str, key: str, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """Connections to one admin API, with an API key."""
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=_TIMEOUT_SECONDS,
        trust_env=False,
        verify=_NO_TLS if base_url.startswith("http:") else True,
        transport=transport,
    )


class AdminClient:
    """One operator. Each method is one request, or one for each page. Raises Refused,
    `httpx.TransportError`, and UserError for an answer that is none of the admin API."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def import_event(
        self,
        document: bytes,
        seats_csv: bytes | None = None,
        *,
        version: int = 0,
        dry_run: bool = False,
        progress: Progress = lambda _: None,
    ) -> ImportResult:
        """Imports an event document, perhaps with its seats as CSV. Raises UserError for a file
        that is not UTF-8."""
        path, body = "/admin/events", document
        if seats_csv is not None:
            path = "/admin/events/from-files"
            body = to_json({"document": _text(document), "seatsCsv": _text(seats_csv)})

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), _PIECE_BYTES):
                piece = body[start : start + _PIECE_BYTES]
                yield piece
                progress(len(piece))

        response = await self._http.post(
            path,
            params={"version": version, "dryRun": "true" if dry_run else "false"},
            headers={"Content-Type": "application/json", "Content-Length": str(len(body))},
            content=pieces(),
        )
        return _read(response, ImportResult)

    async def export_event(self, external_id: str, *, version: int = 0) -> bytes:
        """Returns the document of an event."""
        path = f"/admin/events/{quote(external_id, safe='')}/document"
        response = await self._http.get(path, params={"version": version})
        return _checked(response).content

    async def events(self) -> list[Event]:
        """Lists all events."""
        events: list[Event] = []
        token: str | None = ""
        while token is not None:
            response = await self._http.get("/admin/events", params={"pageToken": token})
            page = _read(response, Events)
            events += page.events
            token = page.next_page_token
        return events

    async def set_status(self, external_id: str, action: str, *, version: int = 0) -> StatusResult:
        """Publishes, cancels or archives an event: `action` is the last part of the path."""
        path = f"/admin/events/{quote(external_id, safe='')}/{action}"
        response = await self._http.post(path, params={"version": version})
        return _read(response, StatusResult)

    async def has_room(self, name: str) -> bool:
        """Returns whether a waiting room is defined."""
        response = await self._http.get(f"/admin/rooms/{name}")
        if response.status_code == 404:
            return False
        _checked(response)
        return True

    async def put_room(self, name: str, definition: Mapping[str, str | int]) -> None:
        """Defines a waiting room."""
        _checked(await self._http.put(f"/admin/rooms/{name}", json=dict(definition)))


def _text(file: bytes) -> str:
    try:
        return file.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.count(b"\n", 0, error.start) + 1
        raise UserError(f"line {line}: the file is not UTF-8.") from error


def _checked(response: httpx.Response) -> httpx.Response:
    """Raises Refused."""
    if response.is_success:
        return response
    try:
        problem = AdminProblem.model_validate_json(response.content)
    except ValueError as error:
        raise UserError(
            f"{response.request.method} {response.request.url} answered {response.status_code},"
            " and not as the admin API does: is FRONTROW_ADMIN_URL its address?"
        ) from error
    raise Refused(response.request, response.status_code, problem)


def _read(response: httpx.Response, model: type[T]) -> T:
    return model.model_validate_json(_checked(response).content)
