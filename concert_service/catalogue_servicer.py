"""Converts between the messages of CatalogueService and the domain."""

import contextlib
from collections.abc import AsyncIterator

from concert_service.catalogue import CatalogueChanges
from concert_service.catalogue_watch import CatalogueWatchers
from concert_service.domain import EventStatus
from protos.frontrow.concert.v1 import catalogue_pb2, catalogue_pb2_grpc
from servicekit.call_interceptor import Context

STATUSES = {
    EventStatus.DRAFT: catalogue_pb2.EVENT_STATUS_DRAFT,
    EventStatus.PUBLISHED: catalogue_pb2.EVENT_STATUS_PUBLISHED,
    EventStatus.CANCELLED: catalogue_pb2.EVENT_STATUS_CANCELLED,
    EventStatus.ARCHIVED: catalogue_pb2.EVENT_STATUS_ARCHIVED,
}


class CatalogueServicer(catalogue_pb2_grpc.CatalogueServiceServicer):
    """Implements CatalogueService of protos/frontrow/concert/v1/catalogue.proto."""

    def __init__(self, watchers: CatalogueWatchers) -> None:
        self._watchers = watchers

    async def WatchCatalogue(
        self, request: catalogue_pb2.WatchCatalogueRequest, context: Context
    ) -> AsyncIterator[catalogue_pb2.WatchCatalogueResponse]:
        async with contextlib.aclosing(self._watchers.changes(request.after_version)) as changes:
            async for change in changes:
                yield _response(change)


def _response(changes: CatalogueChanges) -> catalogue_pb2.WatchCatalogueResponse:
    return catalogue_pb2.WatchCatalogueResponse(
        version=changes.version,
        reset=changes.is_reset,
        concerts=[
            catalogue_pb2.CatalogueConcert(
                id=concert.id,
                room=concert.room,
                status=STATUSES[concert.status],
                schedule_ids=concert.schedule_ids,
            )
            for concert in changes.concerts
        ],
        rooms=changes.rooms,
        removed_rooms=changes.removed_rooms,
    )
