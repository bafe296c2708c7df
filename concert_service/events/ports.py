"""What the use cases of event documents need from their store."""

from collections.abc import Sequence
from typing import Protocol

from concert_service.domain import EventStatus
from concert_service.events.domain import Effects, Event, Imported
from concert_service.events.reading import ValidDocument


class EventStore(Protocol):
    """The store of event documents, and of the catalogue that follows from them."""

    async def import_event(
        self, document: ValidDocument, expected_version: int, operator: str, *, dry_run: bool
    ) -> Imported:
        """Stores a document and what follows from it, in one transaction, and says what changes;
        with `dry_run` only says so. Raises EventChanged, WrongEventStatus, RoomNotFound."""

    async def set_status(
        self, external_id: str, status: EventStatus, expected_version: int, *, dry_run: bool
    ) -> tuple[Event, Effects]:
        """Changes the state of an event. Raises EventNotFound, EventChanged, WrongEventStatus,
        RoomNotFound."""

    async def event(self, external_id: str) -> Event | None:
        """Returns the state of an event."""

    async def document(self, concert_id: int, version: int) -> bytes | None:
        """Returns the document that an event had in this version, if it is still kept."""

    async def events_after(self, external_id: str, limit: int) -> Sequence[Event]:
        """Lists the first `limit` events with a greater external id, in their order."""

    async def has_room(self, name: str) -> bool:
        """Returns whether a room is defined."""
