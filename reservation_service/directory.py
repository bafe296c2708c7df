"""Seats of concert_service, from seat maps that are cached for a while."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from cachetools import LRUCache

from protos.frontrow.concert.v1 import catalogue_pb2, concert_pb2, concert_pb2_grpc
from protos.money import DEFAULT_CURRENCY
from reservation_service.best_seats import Hall
from reservation_service.domain import Seat
from reservation_service.errors import ScheduleNotFound, SeatNotFound
from reservation_service.sale_terms import SaleTerms
from reservation_service.seat_index import Entry, Lease, SeatIndex
from seat_maps.decoding import IDS_PER_CALL, SeatMapDecoder
from seat_maps.layout import SeatLayout
from seat_maps.seat_map import SeatMap
from servicekit import call_context, client, logs
from servicekit.batching import Batcher
from servicekit.clock import seconds_to_midnight
from servicekit.errors import is_transient

log = logs.get(__name__)

# GetSeatMaps is a few lookups by primary key; only the first one of a stadium takes longer.
BUDGET_SECONDS = 1.0
IDEMPOTENT = {"frontrow.concert.v1.ConcertService": ["GetSeatMaps"]}
# Maps are asked for again after this part of their time, so that nobody waits for it; and again
# after this pause if that has failed.
REFRESH_AT = 0.75
REFRESH_PAUSE_SECONDS = 5.0
# Prepared for searches, a seat takes 0.3 kB. 65,536 is the most of a schedule.
SEATS_OF_HALLS = 70_000


class _Wanted(NamedTuple):
    """A seat or a schedule that the index lacks; the other id is 0."""

    seat_id: int
    schedule_id: int


class Halls:
    """Layouts prepared for searches, the last used ones of at most 70,000 seats (21 MB)."""

    def __init__(self) -> None:
        self._halls: LRUCache[SeatLayout, tuple[Hall, int]] = LRUCache(
            SEATS_OF_HALLS, getsizeof=lambda entry: entry[1]
        )

    def of(self, layout: SeatLayout) -> Hall:
        """Returns the hall of a layout. Takes 1 µs for each seat the first time."""
        entry = self._halls.get(layout)
        if entry is None:
            names = [category.name for category in layout.price_categories]
            hall = Hall(
                layout.rows,
                layout.places,
                [names[category] for category in layout.categories],
                [bool(accessible) for accessible in layout.accessible],
                layout.row_sections,
                {row for row, general in enumerate(layout.general_admission) if general},
            )
            entry = self._halls[layout] = hall, len(layout)
        return entry[0]


@dataclass(frozen=True)
class ScheduleSeats:
    """Implements `ports.SeatMap`."""

    seat_map: SeatMap
    halls: Halls = field(compare=False)

    @property
    def hall(self) -> Hall:
        return self.halls.of(self.seat_map.layout)

    @property
    def terms(self) -> SaleTerms:
        seat_map = self.seat_map
        return SaleTerms(
            seat_map.room,
            seat_map.sales_from_ms,
            seat_map.sales_until_ms,
            seat_map.currency or DEFAULT_CURRENCY,
        )

    def ids(self) -> Sequence[int]:
        return self.seat_map.ids()

    def seats_at(self, indexes: Iterable[int]) -> tuple[Seat, ...]:
        seats = (_seat(self.seat_map, index) for index in indexes)
        return tuple(sorted(seats, key=lambda seat: seat.id))

    def indexes_of(self, seat_ids: Iterable[int]) -> list[int]:
        return self.seat_map.indexes_of(seat_ids)


class GrpcSeatDirectory:
    """Implements `ports.SeatDirectory` over concert_service.

    Caches maps for `cache_seconds`, and at most `max_bytes` of them. Each response brings the other
    dates of the concert too, so 100 concerts need 100 calls in that time. Callers who wait for a
    call share the next one; unknown ids are not cached, but at most one call is in flight, for up
    to 1,000 ids. `apply` drops the maps that a change of the catalogue concerns.
    """

    def __init__(
        self,
        stub: "concert_pb2_grpc.ConcertServiceAsyncStub",
        *,
        max_bytes: int,
        cache_seconds: float,
    ) -> None:
        self._stub = stub
        self._cache_seconds = cache_seconds
        self._decoder = SeatMapDecoder()
        self._index = SeatIndex(max_bytes)
        self._halls = Halls()
        self._lookups = Batcher[_Wanted, Entry | None](
            self._look_up, budget=BUDGET_SECONDS, max_batch=IDS_PER_CALL
        )
        self._refreshing: set[asyncio.Task[None]] = set()
        self._changes = 0

    def apply(self, change: catalogue_pb2.WatchCatalogueResponse) -> None:
        """Drops the maps of the concerts that have changed; of all after a reset."""
        if change.reset:
            self._changes += 1
            self._index.clear()
        elif change.concerts:
            self._changes += 1
            for concert in change.concerts:
                self._index.remove(concert.schedule_ids)

    async def seat(self, seat_id: int) -> Seat:
        """Returns a seat. Raises SeatNotFound, and RemoteError or TimedOut if concert_service does
        not answer. Takes at most the time of two calls, 2 seconds."""
        found = self._index.of_seat(seat_id)
        if found is not None and self._is_current(found[0]):
            return _seat(found[0].seat_map, found[1])
        entry = await self._lookups.submit(_Wanted(seat_id, 0))
        index = None if entry is None else entry.seat_map.index_of(seat_id)
        if entry is None or index is None:
            raise SeatNotFound(seat_id)
        return _seat(entry.seat_map, index)

    async def seat_map(self, schedule_id: int) -> ScheduleSeats:
        """Returns the seats of a schedule. Raises ScheduleNotFound, and otherwise as `seat`."""
        entry = self._index.of_schedule(schedule_id)
        if entry is None or not self._is_current(entry):
            entry = await self._lookups.submit(_Wanted(0, schedule_id))
            if entry is None:
                raise ScheduleNotFound(schedule_id)
        return ScheduleSeats(entry.seat_map, self._halls)

    def _is_current(self, entry: Entry) -> bool:
        now, lease = monotonic(), entry.lease
        if now < lease.refresh_at:
            return True
        if now >= lease.expires_at:
            return False
        # Once for all maps of a response.
        lease.refresh_at = now + REFRESH_PAUSE_SECONDS
        task = asyncio.create_task(self._refresh(entry.seat_map.schedule_id))
        self._refreshing.add(task)
        task.add_done_callback(self._refreshing.discard)
        return True

    async def _refresh(self, schedule_id: int) -> None:
        # Not for the caller who noticed: its deadline and its end have no meaning here.
        call_context.set_deadline(2 * BUDGET_SECONDS)
        try:
            await self._lookups.submit(_Wanted(0, schedule_id))
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("seat_maps_not_refreshed", schedule=schedule_id, error=str(error))

    async def _look_up(self, wanted: Sequence[_Wanted]) -> list[Entry | Exception | None]:
        # A batch serves many callers: the deadline of the first must not apply to the others.
        call_context.set_deadline(BUDGET_SECONDS)
        missing = set(wanted)
        found: dict[_Wanted, Entry] = {}
        more = True
        while missing and more:
            request = concert_pb2.GetSeatMapsRequest(
                schedule_ids=[one.schedule_id for one in missing if one.schedule_id],
                seat_ids=[one.seat_id for one in missing if one.seat_id],
            )
            changes = self._changes
            try:
                response = await client.call(self._stub.GetSeatMaps, request, budget=BUDGET_SECONDS)
            except Exception as error:
                if not is_transient(error):
                    raise
                # What an earlier call has brought is true.
                return [found.get(one, error) for one in wanted]
            more = response.more
            now = monotonic()
            lifetime = min(self._cache_seconds, seconds_to_midnight())
            if changes != self._changes:
                # The response may be older than a change that came meanwhile, and whose maps were
                # dropped: good for those who asked before it, and for nobody later.
                lifetime = 0.0
            # At midnight, the seats of a date that has passed count as not found.
            lease = Lease(now + REFRESH_AT * lifetime, now + lifetime)
            self._index.put(self._decoder.decode(response), lease)
            for one in tuple(missing):
                entry = self._entry(one)
                # One of an earlier response is no longer true.
                if entry is not None and entry.lease is lease:
                    found[one] = entry
                    missing.discard(one)
            self._index.evict(now)
        return [found.get(one) for one in wanted]

    def _entry(self, wanted: _Wanted) -> Entry | None:
        if wanted.schedule_id:
            return self._index.of_schedule(wanted.schedule_id)
        found = self._index.of_seat(wanted.seat_id)
        return None if found is None else found[0]


def _seat(seat_map: SeatMap, index: int) -> Seat:
    layout = seat_map.layout
    return Seat(
        seat_map.id_at(index), seat_map.schedule_id, layout.seat_nums[index], layout.price(index)
    )
