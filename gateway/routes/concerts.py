"""Concerts, their dates and their seats, from caches of encoded JSON."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Annotated, TypeVar

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.access_guard import AccessGuard
from gateway.caching import LoadingCache
from gateway.clients import Clients
from gateway.errors import FieldError, InvalidFields
from gateway.granian_worker import PART_BYTES
from gateway.recent import Recent
from gateway.requests import Id, path_id
from gateway.responses import JsonResponse
from gateway.routes.shared import ADMISSION_ERRORS, ALWAYS, TOKEN
from gateway.routing import Parameter, Returns, Route
from gateway.schedules import Schedules
from gateway.seat_maps import FormattedSeats, SeatMaps
from gateway.settings import Settings
from gateway.taken_seats import TakenSeats
from protos.frontrow.concert.v1 import concert_pb2
from servicekit.client import call
from servicekit.clock import seconds_to_midnight
from servicekit.rpc_errors import RemoteError

_MAX_PAGE_SIZE = 100
_MAX_PAGE_TOKEN_LENGTH = 256
_BAD_PAGE_TOKEN = FieldError("pageToken", "is not a nextPageToken of this API")
# What the caches may hold, in bytes, so that neither many small entries nor a few dates of a
# stadium take the memory of the gateway: 250 pages of concerts, the seats of 25,000 dates in halls
# that they share, and 800 seat maps (150 seats each) with taken seats.
_PAGES_BYTES = 2_000_000
_SEAT_FACTS_BYTES = 14_000_000
_SEAT_MAPS_BYTES = 8_000_000
# And so many seat maps without taken seats, those that are answered at once: 4 MB of 150 seats
# each, at most 6.6 MB.
_UNTOUCHED = 400
# A seat map of this size takes 0.2 ms to format.
_FORMATTED_BYTES = 100_000
# Measured: what an entry takes beside its content.
_ENTRY_BYTES = 500

_PAGE_SIZE = Parameter(
    "pageSize", "query", Annotated[int, Field(ge=1, le=_MAX_PAGE_SIZE)], "Concerts per page."
)
_PAGE_TOKEN = Parameter("pageToken", "query", str, "The nextPageToken of the previous page.")
_CONCERT_ID = Parameter("concertId", "path", Id, "The id of a concert.", required=True)
_SCHEDULE_ID = Parameter("scheduleId", "path", Id, "The id of a concert's date.", required=True)

Key = TypeVar("Key", bound=Hashable)


class ConcertRoutes:
    """GET /concerts, /concerts/{concertId}/schedules, /concerts/schedules/{scheduleId}/seats."""

    def __init__(self, clients: Clients, guard: AccessGuard, settings: Settings) -> None:
        self._clients = clients
        self._guard = guard
        self._budget = settings.read_budget_seconds
        # Nothing is cached beyond midnight: a schedule whose date has passed counts as not found.
        limit = seconds_to_midnight
        facts_ttl = settings.facts_ttl_seconds
        self._pages = LoadingCache[tuple[int, str], bytes](facts_ttl, _PAGES_BYTES, limit, _bytes)
        self._schedules = Schedules(
            clients,
            facts_ttl=facts_ttl,
            ttl=settings.schedules_ttl_seconds,
            budget=self._budget,
            limit=limit,
        )
        self._seat_maps = SeatMaps(
            self._get_seat_maps,
            ttl=facts_ttl,
            max_bytes=_SEAT_FACTS_BYTES,
            limit=limit,
            budget=self._budget,
        )
        self._taken_seats = TakenSeats(
            clients,
            self._seat_maps.known,
            ttl=settings.seats_ttl_seconds,
            budget=self._budget,
            longest_pause=settings.batch_pause_seconds,
        )
        self._seats = LoadingCache[int, bytes](
            settings.seats_ttl_seconds, _SEAT_MAPS_BYTES, limit, _bytes
        )
        # What was formatted, and the body.
        self._untouched = Recent[int, tuple[FormattedSeats, bytes]](facts_ttl, _UNTOUCHED)

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="GET",
                path="/concerts",
                handler=self.concerts,
                immediate=partial(self._from_cache, self._pages.cached, _page),
                operation_id="listConcerts",
                tag="concerts",
                parameters=(_PAGE_SIZE, _PAGE_TOKEN, TOKEN),
                returns=(Returns(200, schemas.Concerts, "A page of concerts."),),
                errors=("INVALID_REQUEST", *ADMISSION_ERRORS, *ALWAYS),
            ),
            Route(
                method="GET",
                path="/concerts/{concertId}/schedules",
                handler=self.schedules,
                immediate=partial(self._from_cache, self._schedules.cached, _concert_id),
                operation_id="listSchedules",
                tag="concerts",
                parameters=(_CONCERT_ID, TOKEN),
                returns=(Returns(200, schemas.Schedules, "The upcoming dates, by date."),),
                errors=("INVALID_REQUEST", *ADMISSION_ERRORS, "CONCERT_NOT_FOUND", *ALWAYS),
            ),
            Route(
                method="GET",
                path="/concerts/schedules/{scheduleId}/seats",
                handler=self.seats,
                immediate=self._seats_now,
                operation_id="listSeats",
                tag="concerts",
                parameters=(_SCHEDULE_ID, TOKEN),
                returns=(Returns(200, schemas.Seats, "All seats, in seat order."),),
                errors=("INVALID_REQUEST", *ADMISSION_ERRORS, "SCHEDULE_NOT_FOUND", *ALWAYS),
            ),
        )

    async def concerts(self, request: Request) -> Response:
        """Lists the concerts by id, in pages of at most 100."""
        await self._guard.require_admission(request)
        page = _page(request)
        return JsonResponse(await self._pages.get(page, lambda: self._load_page(*page)))

    async def schedules(self, request: Request) -> Response:
        """Lists the upcoming dates of a concert. A date is SOLD_OUT when every seat is sold."""
        await self._guard.require_admission(request)
        concert_id = _concert_id(request)
        return JsonResponse(await self._schedules.get(concert_id))

    async def seats(self, request: Request) -> Response:
        """Lists every seat of a date, in seat order. The list is at most one second old."""
        await self._guard.require_admission(request)
        schedule_id = _schedule_id(request)
        body = self._known_seats(schedule_id)
        if body is None:
            # First: nothing else may be missing, and the taken seats must not be old when the facts
            # arrive.
            seats = await self._seat_maps.get(schedule_id)
            body = self._known_seats(schedule_id) or await self._seats.get(
                schedule_id, lambda: self._load_seats(seats)
            )
        return JsonResponse(body)

    def _seats_now(self, request: Request) -> Response | None:
        if not self._guard.is_admitted_now(request):
            return None
        body = self._known_seats(_schedule_id(request))
        return None if body is None else JsonResponse(body)

    def _known_seats(self, schedule_id: int) -> bytes | None:
        """Returns the seats of a date if nothing has to be loaded."""
        if self._taken_seats.is_untouched(schedule_id):
            seats = self._seat_maps.cached(schedule_id)
            if seats is not None and len(seats.format) < _FORMATTED_BYTES:
                return self._untouched_seats(schedule_id, seats)
        return self._seats.cached(schedule_id)

    def _untouched_seats(self, schedule_id: int, seats: FormattedSeats) -> bytes:
        known = self._untouched.get(schedule_id)
        # The facts may have changed since.
        if known is not None and known[0] is seats:
            return known[1]
        body = seats.to_json()
        if len(body) <= PART_BYTES:
            self._untouched.put(schedule_id, (seats, body))
        return body

    def _from_cache(
        self,
        cached: Callable[[Key], bytes | None],
        read_key: Callable[[Request], Key],
        request: Request,
    ) -> Response | None:
        """Answers if the place is admitted for certain and nothing has to be loaded."""
        if not self._guard.is_admitted_now(request):
            return None
        body = cached(read_key(request))
        return None if body is None else JsonResponse(body)

    async def _load_page(self, page_size: int, page_token: str) -> bytes:
        try:
            response = await call(
                self._clients.concert.ListConcerts,
                concert_pb2.ListConcertsRequest(page_size=page_size, page_token=page_token),
                budget=self._budget,
            )
        except RemoteError as error:
            if error.code == "INVALID_REQUEST":  # the size was checked here
                raise InvalidFields([_BAD_PAGE_TOKEN]) from None
            raise
        body: dict[str, object] = {
            "concerts": [
                {"id": concert.id, "title": concert.title} for concert in response.concerts
            ]
        }
        if response.next_page_token:
            body["nextPageToken"] = response.next_page_token
        return to_json(body)

    async def _load_seats(self, seats: FormattedSeats) -> bytes:
        seat_map = seats.seat_map
        taken = await self._taken_seats.get(seat_map.schedule_id, len(seat_map.layout))
        return seats.to_json(taken.held_seat_ids, taken.sold_seat_ids)

    async def _get_seat_maps(self, schedule_ids: Sequence[int]) -> concert_pb2.GetSeatMapsResponse:
        return await call(
            self._clients.concert.GetSeatMaps,
            concert_pb2.GetSeatMapsRequest(schedule_ids=schedule_ids),
            budget=self._budget,
        )


def _bytes(content: bytes) -> int:
    """The weight of an entry in a cache."""
    return _ENTRY_BYTES + len(content)


def _concert_id(request: Request) -> int:
    return path_id(request, "concertId")


def _schedule_id(request: Request) -> int:
    return path_id(request, "scheduleId")


def _page(request: Request) -> tuple[int, str]:
    if not request.scope["query_string"]:  # to parse nothing takes 3 µs
        return _MAX_PAGE_SIZE, ""
    size = request.query_params.get("pageSize", str(_MAX_PAGE_SIZE))
    token = request.query_params.get("pageToken", "")
    errors = []
    if not (
        size.isascii() and size.isdecimal() and len(size) <= 3 and 1 <= int(size) <= _MAX_PAGE_SIZE
    ):
        errors.append(FieldError("pageSize", f"must be 1 to {_MAX_PAGE_SIZE}"))
    if len(token) > _MAX_PAGE_TOKEN_LENGTH:
        errors.append(_BAD_PAGE_TOKEN)
    if errors:
        raise InvalidFields(errors)
    return int(size), token
