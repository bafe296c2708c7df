"""Stores event documents and what follows from them."""

import asyncio
from collections.abc import Sequence

from concert_service.changes import note_change
from concert_service.domain import EventStatus
from concert_service.events import statements
from concert_service.events.domain import ENDED, Effects, Event, Imported
from concert_service.events.errors import EventChanged, EventNotFound, WrongEventStatus
from concert_service.events.expansion import seats_of
from concert_service.events.importing import Import, lock_room
from concert_service.events.reading import ValidDocument
from concert_service.events.rows import find_event, to_event
from servicekit.mysql import Connection, Database

_NEXT = {
    EventStatus.DRAFT: frozenset(EventStatus),
    EventStatus.PUBLISHED: frozenset(EventStatus),
    EventStatus.CANCELLED: frozenset((EventStatus.CANCELLED, EventStatus.ARCHIVED)),
    EventStatus.ARCHIVED: frozenset((EventStatus.ARCHIVED,)),
}


class EventRepository:
    """Implements `ports.EventStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def import_event(
        self, document: ValidDocument, expected_version: int, operator: str, *, dry_run: bool
    ) -> Imported:
        seats = await asyncio.to_thread(seats_of, document.event)

        async def work(connection: Connection) -> Imported:
            return await Import(connection, document, seats, operator, dry_run).run(
                expected_version
            )

        return await self._database.run(work)

    async def set_status(
        self, external_id: str, status: EventStatus, expected_version: int, *, dry_run: bool
    ) -> tuple[Event, Effects]:
        async def work(connection: Connection) -> tuple[Event, Effects]:
            await connection.execute(statements.LOCK_EVENT, external_id)
            event = await find_event(connection, external_id)
            if event is None:
                raise EventNotFound(external_id)
            if status not in _NEXT[event.status]:
                raise WrongEventStatus(event.status)
            if event.status is not status:
                if expected_version not in (0, event.version):
                    raise EventChanged(event.version)
                if status is EventStatus.PUBLISHED:
                    await lock_room(connection, event.room)
            effects = await _effects_of(connection, event, status)
            if dry_run or event.status is status:
                return event, effects
            await connection.execute(statements.SET_STATUS, status.value, event.concert_id)
            await note_change(connection, concert_ids=[event.concert_id])
            changed = await find_event(connection, external_id)
            assert changed is not None
            return changed, effects

        return await self._database.run(work)

    async def event(self, external_id: str) -> Event | None:
        async with self._database.connection() as connection:
            return await find_event(connection, external_id)

    async def document(self, concert_id: int, version: int) -> bytes | None:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(statements.DOCUMENT, concert_id, version)
        return None if row is None else bytes(row.document)

    async def events_after(self, external_id: str, limit: int) -> Sequence[Event]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(statements.EVENTS_AFTER, external_id, limit)
        return [to_event(row) for row in rows]

    async def has_room(self, name: str) -> bool:
        async with self._database.connection() as connection:
            return await connection.fetch_one(statements.HAS_ROOM, name) is not None


async def _effects_of(connection: Connection, event: Event, status: EventStatus) -> Effects:
    """Returns what reservation_service must know of an event that gets this state."""
    effects = Effects()
    if status in ENDED:
        effects.closed += event.schedule_ids
    elif status is EventStatus.PUBLISHED:
        for row in await connection.fetch_all(statements.NOT_FOR_SALE, event.concert_id):
            effects.blocked.setdefault(row.schedule_id, []).append(row.id)
        schedules = await connection.fetch_all(statements.SCHEDULES, event.concert_id)
        effects.closed += [row.id for row in schedules if row.is_cancelled]
    return effects
