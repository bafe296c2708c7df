"""The changes of the catalogue, as WatchCatalogue sends them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from concert_service.domain import EventStatus
from protos.frontrow.concert.v1 import rooms_pb2


@dataclass(frozen=True, slots=True)
class CatalogueConcert:
    """A concert, the room that leads to it, and all its schedules."""

    id: int
    room: str
    status: EventStatus
    schedule_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class CatalogueNews:
    """The version of the catalogue at a moment of the database's clock, and the concerts of which a
    date has ended lately, so that it is listed no more."""

    version: int
    now: datetime
    ended: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class CatalogueChanges:
    """The concerts and rooms that have changed up to `version`, in their newest state. With
    `is_reset` all published concerts and all rooms."""

    version: int
    is_reset: bool
    concerts: Sequence[CatalogueConcert] = ()
    rooms: Sequence[rooms_pb2.Room] = ()
    removed_rooms: Sequence[str] = ()
