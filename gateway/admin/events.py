"""The routes of events: import, export, change, publish, cancel, archive, and who has bought."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic_core import from_json

from gateway.admin import sale
from gateway.admin.access import Changer, Operator, Viewer
from gateway.admin.audit import Audit
from gateway.admin.bodies import JsonRoute, read_bytes, read_json
from gateway.admin.clients import CHANGE_SECONDS, READ_SECONDS, AdminClients
from gateway.admin.documents import (
    Document,
    HouseSeat,
    edited,
    external_id_of,
    merged,
    parsed,
    with_blocked,
)
from gateway.admin.errors import ChangedMeanwhile
from gateway.admin.event_schemas import (
    Buyer,
    Buyers,
    Event,
    Events,
    EventWithDocument,
    Files,
    ImportResult,
    SeatCount,
    SeatsOfSchedule,
    StatusResult,
)
from gateway.admin.params import DryRun, PageSize, PageToken, Version, listing
from gateway.admin.schemas import Change, moment
from gateway.errors import FieldError, InvalidFields
from gateway.responses import JSON
from protos.frontrow.concert.v1 import catalogue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.client import call
from servicekit.rpc_errors import RemoteError

EVENT_CHANGED = "EVENT_CHANGED"
# How often a change that names no version is made anew because somebody else was faster.
_ATTEMPTS = 4

Id64 = Annotated[int, Path(alias="scheduleId", ge=1, le=2**63 - 1)]
ExternalIdInPath = Annotated[str, Path(alias="externalId", max_length=64)]


class EventRoutes:
    """/admin/events and /admin/schedules."""

    def __init__(self, clients: AdminClients, audit: Audit) -> None:
        self._catalogue = clients.catalogue
        self._house = clients.house
        self._sale = sale.Sale(clients)
        self._audit = audit

    def router(self) -> APIRouter:
        """Returns the routes."""
        router = APIRouter(tags=["events"], route_class=JsonRoute)
        one = "/admin/events/{externalId}"
        router.get("/admin/events")(self.list_events)
        router.post("/admin/events", openapi_extra=_body("The event document."))(self.import_event)
        router.post("/admin/events/from-files")(self.import_files)
        router.get(one)(self.get_event)
        router.patch(one, openapi_extra=_body("A merge patch (RFC 7396)."))(self.change_event)
        router.get(f"{one}/document")(self.export_event)
        router.post(f"{one}/seats/block")(self.block_seats)
        router.post(f"{one}/seats/release")(self.release_seats)
        router.post(f"{one}/publish")(self.publish_event)
        router.post(f"{one}/cancel")(self.cancel_event)
        router.post(f"{one}/archive")(self.archive_event)
        router.get("/admin/schedules/{scheduleId}/buyers")(self.list_buyers)
        return router

    async def list_events(
        self, _: Viewer, page_size: PageSize = 100, page_token: PageToken = ""
    ) -> Events:
        """Lists the events by external id."""
        request = catalogue_pb2.ListEventsRequest(page_size=page_size, page_token=page_token)
        with listing():
            page = await call(self._catalogue.ListEvents, request, budget=READ_SECONDS)
        return Events(
            events=[_event(event) for event in page.events],
            next_page_token=page.next_page_token or None,
        )

    async def import_event(
        self, request: Request, operator: Changer, version: Version = 0, dry_run: DryRun = False
    ) -> ImportResult:
        """Imports an event document, all of it or nothing. The same document again changes nothing.

        A new event is a draft. Of a published one, seats that leave the sale are blocked first: if
        one of them is held or sold, nothing changes (`SEATS_TAKEN`).
        """
        asked = sale.Import(await read_bytes(request), b"", version, operator.name)
        return await self._import(operator, "importEvent", asked, dry_run)

    async def import_files(
        self, files: Files, operator: Changer, version: Version = 0, dry_run: DryRun = False
    ) -> ImportResult:
        """Imports an event whose seats are in a CSV file, as importEvent does."""
        document, seats = files.document.encode(), files.seats_csv.encode()
        asked = sale.Import(document, seats, version, operator.name)
        return await self._import(operator, "importFiles", asked, dry_run)

    async def get_event(self, external_id: ExternalIdInPath, _: Viewer) -> EventWithDocument:
        """Returns an event with its document."""
        found = await self._get(external_id)
        return EventWithDocument(event=_event(found.summary), document=parsed(found.document))

    async def export_event(
        self, external_id: ExternalIdInPath, _: Viewer, version: Version = 0
    ) -> Response:
        """Returns the document of an event alone, also in one of its last 20 versions: importing it
        again changes nothing."""
        found = await self._get(external_id, version=version)
        headers = {"ETag": f'"{version or found.summary.version}"', "Cache-Control": "no-store"}
        return Response(found.document, media_type=JSON, headers=headers)

    async def change_event(
        self,
        external_id: ExternalIdInPath,
        request: Request,
        operator: Changer,
        version: Version = 0,
        dry_run: DryRun = False,
    ) -> ImportResult:
        """Changes the document of an event by a merge patch and imports it. An array in the patch
        replaces the whole array."""
        patch = await _patch(request)
        return await self._edit(
            *(operator, "changeEvent", external_id, version, dry_run),
            {"patch": patch},
            lambda document: merged(document, patch),
        )

    async def block_seats(
        self,
        external_id: ExternalIdInPath,
        asked: SeatsOfSchedule,
        operator: Changer,
        version: Version = 0,
    ) -> ImportResult:
        """Takes seats of a schedule out of the sale, in the document and everywhere."""
        return await self._block(operator, "blockSeats", external_id, asked, version)

    async def release_seats(
        self,
        external_id: ExternalIdInPath,
        asked: SeatsOfSchedule,
        operator: Changer,
        version: Version = 0,
    ) -> ImportResult:
        """Puts blocked seats of a schedule back on sale."""
        return await self._block(operator, "releaseSeats", external_id, asked, version)

    async def publish_event(
        self, external_id: ExternalIdInPath, operator: Changer, version: Version = 0
    ) -> StatusResult:
        """Publishes a draft: it is listed, and its seats may be sold from the times on that it
        names. Its room must be defined, unless it is `main`."""
        return await self._set_status(
            operator, "publishEvent", external_id, sale.PUBLISHED, version
        )

    async def cancel_event(
        self, external_id: ExternalIdInPath, operator: Changer, version: Version = 0
    ) -> StatusResult:
        """Cancels an event for ever: holds end, payments under way finish."""
        return await self._set_status(operator, "cancelEvent", external_id, sale.CANCELLED, version)

    async def archive_event(
        self, external_id: ExternalIdInPath, operator: Changer, version: Version = 0
    ) -> StatusResult:
        """Takes an event that is over out of all lists, for ever."""
        return await self._set_status(operator, "archiveEvent", external_id, sale.ARCHIVED, version)

    async def list_buyers(
        self,
        schedule_id: Id64,
        _: Viewer,
        after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
        page_size: Annotated[int, Query(alias="pageSize", ge=1, le=1_000)] = 1_000,
    ) -> Buyers:
        """Lists reservations of a schedule that are paid or being paid, by id."""
        request = reservation_pb2.ListBuyersRequest(
            schedule_id=schedule_id, after_reservation_id=after, page_size=page_size
        )
        page = await call(self._house.ListBuyers, request, budget=READ_SECONDS)
        return Buyers(buyers=[_buyer(each) for each in page.reservations], more=page.more)

    async def _get(
        self, external_id: str, *, version: int = 0, changes_since: int = 0
    ) -> catalogue_pb2.GetEventResponse:
        request = catalogue_pb2.GetEventRequest(
            external_id=external_id, version=version, changes_since=changes_since
        )
        return await call(self._catalogue.GetEvent, request, budget=CHANGE_SECONDS)

    async def _import(
        self,
        operator: Operator,
        action: str,
        asked: sale.Import,
        dry_run: bool,
        detail: Mapping[str, object] | None = None,
    ) -> ImportResult:
        """Plans the import and, unless it is a dry run, carries it out. `detail` is what the
        operator asked for, if that was not the document. Raises InvalidFields for a document with
        mistakes, ChangedMeanwhile."""
        async with self._explaining(lambda: external_id_of(asked.document), asked.version):
            plan = _without_problems(await self._sale.plan(asked))
            if dry_run:
                return _import_result(plan, dry_run=True)
            changes = [_change(change).model_dump() for change in plan.changes]
            detail = {**(detail or {}), "version": plan.version, "changes": changes}
            async with self._audit.change(operator, action, f"event {plan.external_id}", detail):
                done = _without_problems(await self._sale.import_event(asked, plan))
        return _import_result(done, dry_run=False)

    async def _edit(
        self,
        operator: Operator,
        action: str,
        external_id: str,
        version: int,
        dry_run: bool,
        detail: Mapping[str, object],
        edit: Callable[[Document], Document],
    ) -> ImportResult:
        """Imports the document after `edit`. If no version was asked for, and somebody else is
        faster, edits the newer document instead."""
        attempt = 1
        while True:
            present = await self._get(external_id)
            if version not in (0, present.summary.version):
                raise await self._changed(external_id, version)
            # In a thread, because the routes of buyers have the same process.
            document = await asyncio.to_thread(edited, present.document, edit)
            asked = sale.Import(document, b"", present.summary.version, operator.name)
            try:
                return await self._import(operator, action, asked, dry_run, detail)
            except ChangedMeanwhile:
                if version or attempt == _ATTEMPTS:
                    raise
            attempt += 1

    async def _block(
        self,
        operator: Operator,
        action: str,
        external_id: str,
        asked: SeatsOfSchedule,
        version: int,
    ) -> ImportResult:
        seats = [HouseSeat(seat.section, seat.label) for seat in asked.seats]
        return await self._edit(
            *(operator, action, external_id, version, False),
            {"schedule": asked.schedule, "seats": [seat._asdict() for seat in seats]},
            lambda document: with_blocked(
                document, asked.schedule, seats, blocked=action == "blockSeats"
            ),
        )

    async def _set_status(
        self,
        operator: Operator,
        action: str,
        external_id: str,
        status: "catalogue_pb2.EventStatus.ValueType",
        version: int,
    ) -> StatusResult:
        async with (
            self._explaining(lambda: external_id, version),
            self._audit.change(operator, action, f"event {external_id}", {"version": version}),
        ):
            event, closed = await self._sale.set_status(external_id, status, version)
        return StatusResult(
            event=_event(event),
            ended_holds=closed.ended_holds,
            paid=closed.paid,
            paying_reservation_ids=list(closed.paying_reservation_ids),
        )

    @asynccontextmanager
    async def _explaining(
        self, external_id: Callable[[], str], version: int
    ) -> AsyncIterator[None]:
        """Adds to EVENT_CHANGED what has changed since the version that the operator has seen."""
        try:
            yield
        except RemoteError as error:
            if error.code != EVENT_CHANGED:
                raise
            raise await self._changed(external_id(), version) from None

    async def _changed(self, external_id: str, version: int) -> ChangedMeanwhile:
        try:
            found = await self._get(external_id, changes_since=version)
        except RemoteError as error:
            if error.code != "EVENT_NOT_FOUND":
                raise
            return ChangedMeanwhile(EVENT_CHANGED, 0, [])
        changes = [_change(change).model_dump() for change in found.changes]
        if not changes:
            # The version also counts changes of the state, which is not in the document.
            changes = [Change(field="status", after=_status(found.summary.status)).model_dump()]
        return ChangedMeanwhile(EVENT_CHANGED, found.summary.version, changes)


def _body(description: str) -> dict[str, Any]:
    """Documents a body that FastAPI does not read."""
    schema = {"type": "object", "description": description}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


async def _patch(request: Request) -> Document:
    patch = await read_json(await read_bytes(request))
    if not isinstance(patch, dict):
        raise InvalidFields([FieldError("body", "must be a JSON object")])
    return patch


def _without_problems(
    response: catalogue_pb2.ImportEventResponse,
) -> catalogue_pb2.ImportEventResponse:
    """Raises InvalidFields with each mistake of the document."""
    if response.problems:
        raise InvalidFields(
            [
                FieldError(f"seatsCsv: {p.field}" if p.in_csv else p.field, p.reason, p.line)
                for p in response.problems
            ]
        )
    return response


def _status(status: "catalogue_pb2.EventStatus.ValueType") -> str:
    name = catalogue_pb2.EventStatus.Name(status)
    return name.removeprefix("EVENT_STATUS_")


def _event(event: catalogue_pb2.EventSummary) -> Event:
    return Event(
        external_id=event.external_id,
        concert_id=event.concert_id,
        version=event.version,
        status=_status(event.status),
        title=event.title,
        room=event.room,
        schedule_ids=list(event.schedule_ids),
        seats=event.seats,
    )


def _change(change: catalogue_pb2.DocumentChange) -> Change:
    return Change(
        field=change.field,
        before=from_json(change.before) if change.before else None,
        after=from_json(change.after) if change.after else None,
    )


def _import_result(done: catalogue_pb2.ImportEventResponse, *, dry_run: bool) -> ImportResult:
    return ImportResult(
        external_id=done.external_id,
        concert_id=done.concert_id,
        version=done.version,
        status=_status(done.status) if done.status else None,
        dry_run=dry_run,
        changes=[_change(change) for change in done.changes],
        blocked=_counts([*done.blocked, *done.removed]),
        released=_counts(done.released),
        closed_schedules=list(done.closed_schedules),
        reopened_schedules=list(done.reopened_schedules),
    )


def _counts(seats: Iterable[catalogue_pb2.SeatsOfSchedule]) -> list[SeatCount]:
    counts: dict[int, int] = {}
    for each in seats:
        counts[each.schedule_id] = counts.get(each.schedule_id, 0) + len(each.seat_ids)
    return [SeatCount(schedule_id=id, seats=count) for id, count in counts.items() if count]


def _buyer(reservation: reservation_pb2.Reservation) -> Buyer:
    status = reservation_pb2.ReservationStatus.Name(reservation.status)
    return Buyer(
        reservation_id=reservation.id,
        user_id=reservation.user_id,
        status=status.removeprefix("RESERVATION_STATUS_"),
        price=reservation.price,
        currency=reservation.currency or None,
        payment_id=reservation.payment_id or None,
        seats=[seat.seat_num for seat in reservation.seats] or [reservation.seat_num],
        held_until=moment(reservation.held_until) if reservation.HasField("held_until") else None,
    )
