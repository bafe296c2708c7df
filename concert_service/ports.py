"""What concert_service needs from its store."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from concert_service.catalogue import CatalogueChanges, CatalogueNews
from concert_service.domain import Concert, Schedule, ScheduleOrder, Seat, SeatPage
from concert_service.seat_map import MapsOfConcerts, PackedLayout, PackedSeatMap


class ConcertStore(Protocol):
    """The store of concerts, schedules and seats. Only published concerts exist for it. A schedule
    is upcoming until it is not listed any more (see `domain.Schedule`) or cancelled. Seats that
    were removed do not exist."""

    async def concerts_after(self, concert_id: int, limit: int) -> Sequence[Concert]:
        """Lists the first `limit` concerts with a larger id, ordered by id."""

    async def has_concert(self, concert_id: int) -> bool:
        """Returns whether a concert exists."""

    async def upcoming_schedules(
        self, concert_id: int, after: ScheduleOrder, limit: int
    ) -> Sequence[Schedule]:
        """Lists the first `limit` upcoming schedules of a concert, ordered by date and id, after
        `after`, whether that one exists or not."""

    async def seats_of_upcoming(
        self, schedule_id: int, position: int, limit: int
    ) -> SeatPage | None:
        """Lists the first `limit` seats of an upcoming schedule from `position` on, in seat order.
        None if there is no such schedule."""

    async def upcoming_seats(self, seat_ids: Sequence[int]) -> Sequence[Seat]:
        """Returns those of these seats that exist and whose schedule is upcoming, in any order.
        Expects at least one id."""


class SeatMapStore(Protocol):
    """The store of packed seats."""

    async def maps_of_concerts(
        self, schedule_ids: Sequence[int], seat_ids: Sequence[int], limit: int
    ) -> MapsOfConcerts:
        """Returns these upcoming schedules and those of these seats, and at most `limit` upcoming
        schedules of their concerts, each with its map if it has one. Takes no lock."""

    async def layouts(self, digests: Sequence[bytes]) -> Sequence[PackedLayout]:
        """Returns these layouts, in any order. Expects at least one digest."""

    async def make_maps(self, schedule_ids: Sequence[int]) -> Sequence[PackedSeatMap]:
        """Packs the seats of these schedules and stores the maps, in any order; leaves out
        schedules that do not exist, and logs those that are too large. A map that exists already
        is returned as it is. Expects at least one id."""


class CatalogueStore(Protocol):
    """The store of the catalogue's versions."""

    async def news(self, since: datetime | None) -> CatalogueNews:
        """Returns the version of the catalogue, from 1, and the concerts of which a date has ended
        after `since`; None: none of them."""

    async def changes_after(self, version: int, also: Collection[int] = ()) -> CatalogueChanges:
        """Returns what has changed after this version, and also these concerts, with the newest
        version; a reset after version 0, and after one whose changes are not kept any more."""
