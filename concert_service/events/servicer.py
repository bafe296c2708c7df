"""Converts between the messages of CatalogueAdminService and the use cases of event documents."""

from collections.abc import Mapping, Sequence

from concert_service.domain import EventStatus
from concert_service.events.difference import Change
from concert_service.events.domain import Event
from concert_service.events.service import EventService
from protos.frontrow.concert.v1 import catalogue_pb2, catalogue_pb2_grpc
from servicekit.call_interceptor import Context
from servicekit.errors import InvalidRequest

_STATUSES = {
    catalogue_pb2.EVENT_STATUS_DRAFT: EventStatus.DRAFT,
    catalogue_pb2.EVENT_STATUS_PUBLISHED: EventStatus.PUBLISHED,
    catalogue_pb2.EVENT_STATUS_CANCELLED: EventStatus.CANCELLED,
    catalogue_pb2.EVENT_STATUS_ARCHIVED: EventStatus.ARCHIVED,
}
_MESSAGES = {status: message for message, status in _STATUSES.items()}


class CatalogueAdminServicer(catalogue_pb2_grpc.CatalogueAdminServiceServicer):
    """Implements CatalogueAdminService of protos/frontrow/concert/v1/catalogue.proto."""

    def __init__(self, service: EventService) -> None:
        self._service = service

    async def ImportEvent(
        self, request: catalogue_pb2.ImportEventRequest, context: Context
    ) -> catalogue_pb2.ImportEventResponse:
        found = await self._service.import_event(
            request.document,
            request.seats_csv,
            request.expected_version,
            request.operator,
            dry_run=request.dry_run,
        )
        event = found.event
        return catalogue_pb2.ImportEventResponse(
            concert_id=event.concert_id if event else 0,
            external_id=found.external_id,
            version=event.version if event else 0,
            status=_MESSAGES[event.status] if event else catalogue_pb2.EVENT_STATUS_UNSPECIFIED,
            problems=[
                catalogue_pb2.DocumentProblem(
                    field=problem.field,
                    line=problem.line,
                    reason=problem.reason,
                    in_csv=problem.in_csv,
                )
                for problem in found.problems
            ],
            changes=_changes(found.changes),
            blocked=_seats(found.effects.blocked),
            removed=_seats(found.effects.removed),
            released=_seats(found.effects.released),
            closed_schedules=found.effects.closed,
            reopened_schedules=found.effects.reopened,
        )

    async def GetEvent(
        self, request: catalogue_pb2.GetEventRequest, context: Context
    ) -> catalogue_pb2.GetEventResponse:
        event, document, changes = await self._service.get_event(
            request.external_id, request.version, request.changes_since
        )
        return catalogue_pb2.GetEventResponse(
            document=document, summary=_summary(event), changes=_changes(changes)
        )

    async def ListEvents(
        self, request: catalogue_pb2.ListEventsRequest, context: Context
    ) -> catalogue_pb2.ListEventsResponse:
        events, token = await self._service.list_events(request.page_size, request.page_token)
        return catalogue_pb2.ListEventsResponse(events=map(_summary, events), next_page_token=token)

    async def SetEventStatus(
        self, request: catalogue_pb2.SetEventStatusRequest, context: Context
    ) -> catalogue_pb2.SetEventStatusResponse:
        status = _STATUSES.get(request.status)
        if status is None:
            raise InvalidRequest("status must be given.")
        event, effects = await self._service.set_status(
            request.external_id, status, request.expected_version, dry_run=request.dry_run
        )
        return catalogue_pb2.SetEventStatusResponse(
            event=_summary(event),
            blocked=_seats(effects.blocked),
            closed_schedules=effects.closed,
        )


def _summary(event: Event) -> catalogue_pb2.EventSummary:
    return catalogue_pb2.EventSummary(
        external_id=event.external_id,
        concert_id=event.concert_id,
        version=event.version,
        status=_MESSAGES[event.status],
        title=event.title,
        room=event.room,
        schedule_ids=event.schedule_ids,
        seats=event.seats,
    )


def _changes(changes: Sequence[Change]) -> list[catalogue_pb2.DocumentChange]:
    return [
        catalogue_pb2.DocumentChange(field=c.field, before=c.before, after=c.after) for c in changes
    ]


def _seats(seats: Mapping[int, Sequence[int]]) -> list[catalogue_pb2.SeatsOfSchedule]:
    return [
        catalogue_pb2.SeatsOfSchedule(schedule_id=schedule, seat_ids=ids)
        for schedule, ids in seats.items()
    ]
