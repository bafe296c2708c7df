"""The use cases of event documents: import, export, list, publish, cancel."""

import asyncio
import base64
import binascii
from collections.abc import Sequence

from cachetools import TTLCache

from concert_service.domain import DEFAULT_ROOM, EventStatus, page_size
from concert_service.events import difference, positions
from concert_service.events.difference import Change
from concert_service.events.document import MAX_DOCUMENT_BYTES
from concert_service.events.domain import Effects, Event, Imported
from concert_service.events.errors import DocumentTooLarge, EventNotFound
from concert_service.events.ports import EventStore
from concert_service.events.problem import Problem
from concert_service.events.reading import ValidDocument, parse, read
from servicekit.errors import InvalidRequest

MAX_EVENTS_PER_PAGE = 100
_MAX_EXTERNAL_ID = 64
_LAST_SECONDS = 60.0
_CHANGES_AT_ONCE = 2


class EventService:
    """Imports and exports event documents. Reads one document at a time, in a thread: it may take
    a second, and other calls go on meanwhile."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._reading = asyncio.Lock()
        # Each has a connection to the database, some for seconds, and others need them too.
        self._changing = asyncio.Semaphore(_CHANGES_AT_ONCE)
        # The document that was read last, by its bytes: reading 20,000 seats takes half a second.
        self._last: TTLCache[tuple[bytes, bytes], ValidDocument] = TTLCache(1, _LAST_SECONDS)

    async def import_event(
        self,
        document: bytes,
        seats_csv: bytes,
        expected_version: int,
        operator: str,
        *,
        dry_run: bool,
    ) -> Imported:
        """Stores a document, all of it or nothing; with `dry_run` nothing. Returns what changes, or
        all mistakes of the document. Raises DocumentTooLarge, EventChanged, WrongEventStatus, and
        RoomNotFound if the room of a published event is removed meanwhile."""
        if len(document) + len(seats_csv) > MAX_DOCUMENT_BYTES:
            raise DocumentTooLarge(MAX_DOCUMENT_BYTES)
        async with self._reading:
            # An import follows its dry run at once.
            key = (document, seats_csv)
            found: ValidDocument | list[Problem] | None = self._last.get(key)
            if found is None:
                found = await asyncio.to_thread(read, document, seats_csv)
                if isinstance(found, ValidDocument):
                    self._last[key] = found
                    # The cache forgets only when somebody asks it, and a document may take 50 MB.
                    asyncio.get_running_loop().call_later(_LAST_SECONDS + 1, self._last.expire)
        if isinstance(found, list):
            return Imported("", None, problems=found)
        if len(found.text) > MAX_DOCUMENT_BYTES:
            raise DocumentTooLarge(MAX_DOCUMENT_BYTES)
        room = found.event.room
        if room != DEFAULT_ROOM and not await self._store.has_room(room):
            problem = await asyncio.to_thread(_no_such_room, found, document)
            return Imported(found.event.external_id, None, problems=[problem])
        async with self._changing:
            return await self._store.import_event(
                found, expected_version, operator, dry_run=dry_run
            )

    async def get_event(
        self, external_id: str, version: int, changes_since: int
    ) -> tuple[Event, bytes, Sequence[Change]]:
        """Returns the state of an event, its document in this version (0: the present one), and
        how that differs from an older version's (0: not asked for). Raises EventNotFound."""
        event = await self._store.event(external_id)
        if event is None or version > event.version:
            raise EventNotFound(external_id)
        document = await self._store.document(event.concert_id, version or event.version)
        if document is None:
            raise EventNotFound(external_id)
        changes: Sequence[Change] = ()
        if changes_since:
            older = await self._store.document(event.concert_id, changes_since)
            if older is not None:
                changes = await asyncio.to_thread(_difference, older, document)
        return event, document, changes

    async def list_events(self, size: int, page_token: str) -> tuple[Sequence[Event], str]:
        """Lists a page of events. Returns them and the token of the next page, empty after the
        last. Raises InvalidRequest."""
        limit = page_size(size, MAX_EVENTS_PER_PAGE)
        events = await self._store.events_after(_from_token(page_token), limit + 1)
        if len(events) <= limit:
            return events, ""
        return events[:limit], _to_token(events[limit - 1].external_id)

    async def set_status(
        self, external_id: str, status: EventStatus, expected_version: int, *, dry_run: bool
    ) -> tuple[Event, Effects]:
        """Changes the state of an event; returns the event and what reservation_service must know.
        Raises EventNotFound, EventChanged, WrongEventStatus, RoomNotFound."""
        async with self._changing:
            return await self._store.set_status(
                external_id, status, expected_version, dry_run=dry_run
            )


def _difference(before: bytes, after: bytes) -> list[Change]:
    return difference.between(parse(before), parse(after))


def _no_such_room(found: ValidDocument, document: bytes) -> Problem:
    path = ("room",)
    line = positions.find(document.decode("utf-8-sig"), [path]).line_of(path)
    return Problem("room", line, f"There is no room {found.event.room!r}: create it first.")


def _to_token(external_id: str) -> str:
    return base64.urlsafe_b64encode(external_id.encode()).decode().rstrip("=")


def _from_token(token: str) -> str:
    """Returns the external id after which the page begins. Raises InvalidRequest."""
    try:
        padded = token + "=" * (-len(token) % 4)
        external_id = base64.urlsafe_b64decode(padded).decode("ascii")
    except (binascii.Error, ValueError):
        external_id = ""
    if len(external_id) > _MAX_EXTERNAL_ID or _to_token(external_id) != token:
        raise InvalidRequest("page_token is not a token from a previous response.")
    return external_id
