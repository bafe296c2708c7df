"""One import of an event document, in its transaction."""

import asyncio
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from concert_service.changes import note_change
from concert_service.domain import DEFAULT_ROOM, EventStatus
from concert_service.events import difference, statements
from concert_service.events.domain import ENDED, KEPT_DOCUMENTS, Effects, Event, Imported
from concert_service.events.errors import EventChanged, WrongEventStatus
from concert_service.events.expansion import ScheduleFacts, SeatFacts, schedule_facts
from concert_service.events.plan import (
    SchedulePlan,
    SeatPlan,
    SeatState,
    plan_schedules,
    plan_seats,
)
from concert_service.events.reading import ValidDocument, parse
from concert_service.events.rows import (
    concert_values,
    find_event,
    schedule_values,
    seats_json,
    to_schedule,
    to_seat,
)
from concert_service.rooms.errors import RoomNotFound
from concert_service.seat_map_repository import make_maps
from servicekit.mysql import Connection, DuplicateKey, Row, TransactionAborted

# A statement with so many takes 70 ms, in which nothing else runs on this connection.
SEATS_PER_STATEMENT = 2_000
# `IN ()` is not SQL.
_NO_LABEL = ("",)


class Import:
    """One import, on the connection of its transaction."""

    def __init__(
        self,
        connection: Connection,
        document: ValidDocument,
        seats: Sequence[SeatFacts],
        operator: str,
        dry_run: bool,
    ) -> None:
        self._connection = connection
        self._document = document
        self._event = document.event
        self._seats = seats
        self._operator = operator
        self._dry_run = dry_run
        self._effects = Effects()
        # Those of the present document.
        self._known_schedules: set[JsonValue] = set()

    async def run(self, expected_version: int) -> Imported:
        external_id = self._event.external_id
        if not self._dry_run:
            await self._connection.execute(statements.LOCK_EVENT, external_id)
        event = await find_event(self._connection, external_id)
        before = None
        if event is not None:
            before = await self._connection.fetch_one(
                statements.DOCUMENT, event.concert_id, event.version
            )
        changes = await asyncio.to_thread(self._changes, before)
        if event is None:
            if expected_version:
                raise EventChanged(0)
            if self._dry_run:
                return Imported(external_id, None, changes)
        elif changes:
            # What repeats an import after an unknown outcome has nothing to change any more.
            if expected_version not in (0, event.version):
                raise EventChanged(event.version)
            if event.status in ENDED:
                raise WrongEventStatus(event.status)
        elif event.status in ENDED:
            return Imported(external_id, event)
        is_published = event is not None and event.status is EventStatus.PUBLISHED
        concert_id = event.concert_id if event is not None else await self._add_concert()
        schedules, seat_plans = await self._plan(
            concert_id, is_published, same_seats=not any(map(_is_of_seats, changes))
        )
        if not self._dry_run:
            if event is None or changes or self._has_changes(schedules, seat_plans):
                # First, because the maps of seats that follow depend on the currency.
                if event is not None:
                    await self._store_concert(event, changes)
                await self._store(concert_id, schedules, seat_plans, is_published)
                if is_published:
                    await lock_room(self._connection, self._event.room)
                await self._store_version(concert_id, event, bool(changes))
            event = await find_event(self._connection, external_id)
        return Imported(external_id, event, changes, self._effects)

    def _changes(self, before: Row | None) -> list[difference.Change]:
        if before is None:
            return difference.between(None, parse(self._document.text))
        older = parse(bytes(before.document))
        schedules = older["schedules"]
        assert isinstance(schedules, list)
        self._known_schedules = {s["externalId"] for s in schedules if isinstance(s, dict)}
        return difference.between(older, parse(self._document.text))

    @staticmethod
    def _has_changes(schedules: SchedulePlan, seat_plans: dict[int, SeatPlan]) -> bool:
        return bool(
            schedules.added
            or schedules.changed
            or schedules.left_out
            or any(plan.added or plan.changed for plan in seat_plans.values())
        )

    async def _plan(
        self, concert_id: int, is_published: bool, *, same_seats: bool
    ) -> tuple[SchedulePlan, dict[int, SeatPlan]]:
        """Compares the document with the tables."""
        sql = statements.SCHEDULES if self._dry_run else statements.LOCK_SCHEDULES
        stored = await self._connection.fetch_all(sql, concert_id)
        plan = plan_schedules(
            [schedule_facts(self._event, schedule) for schedule in self._event.schedules],
            [to_schedule(row) for row in stored],
            is_published=is_published,
        )
        self._effects.closed += plan.closed
        self._effects.reopened += plan.reopened
        seat_plans = {}
        for schedule in self._event.schedules:
            kept = plan.kept.get(schedule.external_id)
            if kept is None:
                continue
            blocked = {(seat.section, seat.label) for seat in schedule.blocked}
            # A date that was left out for a while has the seats of an older document.
            only_blocked = same_seats and schedule.external_id in self._known_schedules
            sql = statements.SEATS
            values: list[object] = [kept.id]
            if only_blocked:
                labels = tuple({label for _, label in blocked}) or _NO_LABEL
                sql, values = statements.SEATS_BLOCKED_OR_NAMED, [kept.id, labels]
            rows = await self._connection.fetch_all(sql, *values)
            seats = await asyncio.to_thread(
                plan_seats,
                self._seats,
                blocked,
                map(to_seat, rows),
                is_published=is_published,
                only_blocked=only_blocked,
            )
            seat_plans[kept.id] = seats
            for effect, ids in (
                (self._effects.blocked, seats.blocked),
                (self._effects.removed, seats.removed),
                (self._effects.released, seats.released),
            ):
                if ids:
                    effect[kept.id] = ids
        return plan, seat_plans

    async def _add_concert(self) -> int:
        event = self._event
        try:
            return await self._connection.insert(
                statements.ADD_CONCERT, event.external_id, *concert_values(self._document)
            )
        except DuplicateKey as error:
            # Somebody else has just imported it: compare with that.
            raise TransactionAborted() from error

    async def _store(
        self,
        concert_id: int,
        schedules: SchedulePlan,
        seat_plans: dict[int, SeatPlan],
        is_published: bool,
    ) -> None:
        """Writes what differs of the dates and their seats."""
        connection = self._connection
        for id, facts in schedules.changed:
            await connection.execute(
                statements.SET_SCHEDULE, *schedule_values(facts), facts.cancelled, id
            )
        if schedules.left_out:
            await connection.execute(statements.CANCEL_SCHEDULES, schedules.left_out)
        for id, plan in seat_plans.items():
            await self._store_seats(id, plan)
        first = 0
        for facts in schedules.added:
            id = await self._add_schedule(concert_id, facts, first, is_published)
            first = first or id

    async def _store_seats(self, schedule_id: int, plan: SeatPlan) -> None:
        """Writes what differs of the seats of a date that exists."""
        if not plan.added and not plan.changed:
            return
        for some in _pieces(plan.changed):
            await self._connection.execute(statements.SET_SEATS, seats_json(some))
        await self._add_seats(schedule_id, plan.added)
        await self._finish_seats(schedule_id)
        if any(state.is_removed for state in plan.added):
            await self._note_hidden(schedule_id)

    async def _add_schedule(
        self, concert_id: int, facts: ScheduleFacts, same_as: int, is_published: bool
    ) -> int:
        """Adds a date and its seats, which are those of another new date if there is one; returns
        its id."""
        id = await self._connection.insert(
            statements.ADD_SCHEDULE,
            *(concert_id, facts.external_id, *schedule_values(facts)),
            *(facts.cancelled, facts.cancelled, 0),
        )
        if facts.cancelled:
            self._effects.closed.append(id)
        if same_as:
            await self._connection.execute(statements.COPY_SEATS, id, same_as)
        else:
            await self._add_seats(
                id, [SeatState(n, False, False, seat) for n, seat in enumerate(self._seats)]
            )
        (schedule,) = (s for s in self._event.schedules if s.external_id == facts.external_id)
        blocked = {(seat.section, seat.label) for seat in schedule.blocked}
        positions = [n for n, seat in enumerate(self._seats) if seat.name in blocked]
        if positions:
            await self._connection.execute(statements.BLOCK_SEATS, is_published, id, positions)
        await self._finish_seats(id)
        if positions and is_published:
            await self._note_hidden(id)
        return id

    async def _add_seats(self, schedule_id: int, seats: Sequence[SeatState]) -> None:
        for some in _pieces([(0, state) for state in seats]):
            await self._connection.execute(statements.ADD_SEATS, schedule_id, seats_json(some))

    async def _finish_seats(self, schedule_id: int) -> None:
        await self._connection.execute_together(
            (statements.COUNT_SEATS, [schedule_id]), (statements.DELETE_MAPS, [schedule_id])
        )
        # Here, because the version before would make it without ranks and companions.
        await make_maps(self._connection, [schedule_id])

    async def _note_hidden(self, schedule_id: int) -> None:
        """New seats that are blocked wait for that: see `plan`."""
        rows = await self._connection.fetch_all(statements.HIDDEN_SEATS, schedule_id)
        known = self._effects.blocked.setdefault(schedule_id, [])
        is_known = set(known)
        known += [row.id for row in rows if row.id not in is_known]

    async def _store_concert(self, event: Event, changes: Sequence[difference.Change]) -> None:
        await self._connection.execute(
            statements.SET_CONCERT, *concert_values(self._document), event.concert_id
        )
        if any(change.field == "currency" for change in changes) and event.schedule_ids:
            # Their prices have the decimal places of the currency.
            await self._connection.execute(statements.DELETE_MAPS, event.schedule_ids)
            for id in event.schedule_ids:
                # One by one: of all dates, one statement may take longer than it has.
                await make_maps(self._connection, [id])

    async def _store_version(
        self, concert_id: int, event: Event | None, document_changed: bool
    ) -> None:
        version = 1 if event is None else event.version + 1
        if document_changed:
            await self._connection.execute_together(
                (
                    # As bytes: a text that is all quotes would be too long when it is escaped.
                    statements.ADD_DOCUMENT,
                    *(concert_id, version, self._document.text, self._operator),
                ),
                (statements.FORGET_DOCUMENTS, concert_id, concert_id, KEPT_DOCUMENTS),
            )
        await note_change(self._connection, concert_ids=[concert_id])


async def lock_room(connection: Connection, room: str) -> None:
    """Keeps the room of a published event from being removed until the commit. Raises
    RoomNotFound."""
    if room == DEFAULT_ROOM:
        return
    if await connection.fetch_one(statements.LOCK_ROOM, room) is None:
        raise RoomNotFound()


def _is_of_seats(change: difference.Change) -> bool:
    """Whether this change of a document may change seats on every date."""
    return change.field == "" or change.field.startswith(("sections", "priceCategories"))


def _pieces(
    seats: Sequence[tuple[int, SeatState]],
) -> Iterator[Sequence[tuple[int, SeatState]]]:
    for start in range(0, len(seats), SEATS_PER_STATEMENT):
        yield seats[start : start + SEATS_PER_STATEMENT]
