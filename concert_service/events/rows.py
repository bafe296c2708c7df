"""Converts between rows of the tables and what an event document says."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from concert_service.domain import EventStatus
from concert_service.events import statements
from concert_service.events.domain import Event
from concert_service.events.expansion import ScheduleFacts, SeatFacts
from concert_service.events.plan import SeatState, StoredSchedule, StoredSeat
from concert_service.events.reading import ValidDocument
from servicekit.mysql import Connection, Row


async def find_event(connection: Connection, external_id: str) -> Event | None:
    row = await connection.fetch_one(statements.EVENT, external_id)
    return None if row is None else to_event(row)


def concert_values(document: ValidDocument) -> tuple[str, ...]:
    event = document.event
    return (
        *(event.title, event.description, event.venue, event.time_zone, event.image_url),
        *(event.room, event.currency),
    )


def schedule_values(facts: ScheduleFacts) -> tuple[object, ...]:
    return (
        *(facts.date, facts.starts_at, facts.listed_until),
        *(facts.sales_from, facts.sales_until),
    )


def seats_json(seats: Sequence[tuple[int, SeatState]]) -> str:
    """Returns the rows as `statements` reads them."""
    rows = [
        (
            id,
            state.position,
            int(state.is_blocked),
            int(state.is_removed),
            *map(_to_value, state.facts),
        )
        for id, state in seats
    ]
    return json.dumps(rows, ensure_ascii=False)


def _to_value(value: str | int | Decimal | None) -> str | int | None:
    if isinstance(value, Decimal):
        return str(value)
    return int(value) if isinstance(value, bool) else value


def to_event(row: Row) -> Event:
    ids = row.schedule_ids
    return Event(
        external_id=row.external_id,
        concert_id=row.id,
        version=row.version,
        status=EventStatus(row.status),
        title=row.title,
        room=row.room,
        schedule_ids=[int(id) for id in ids.split(",")] if ids else [],
        seats=int(row.seats),
    )


def to_schedule(row: Row) -> StoredSchedule:
    return StoredSchedule(
        id=row.id,
        was_closed=bool(row.was_closed),
        seat_count=row.seat_count,
        facts=ScheduleFacts(
            external_id=row.external_id,
            date=row.date,
            starts_at=_utc(row.starts_at) or datetime.min,
            listed_until=_utc(row.listed_until) or datetime.min,
            sales_from=_utc(row.sales_from),
            sales_until=_utc(row.sales_until),
            cancelled=bool(row.is_cancelled),
        ),
    )


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.replace(tzinfo=UTC)


def to_seat(row: Row) -> StoredSeat:
    # The columns in the order of `statements.SEATS`; booleans are 0 or 1.
    id, was_blocked, position, is_blocked, is_removed, *facts = row
    return StoredSeat(
        id,
        bool(was_blocked),
        SeatState(position, bool(is_blocked), bool(is_removed), SeatFacts(*facts)),
    )
