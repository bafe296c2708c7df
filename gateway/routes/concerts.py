"""Concerts, their dates and their seats, from caches of encoded JSON."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.access_guard import AccessGuard
from gateway.caching import LoadingCache
from gateway.catalogue import Changed
from gateway.clients import Clients
from gateway.errors import FieldError, InvalidFields, WrongRoom
from gateway.granian_worker import PART_BYTES
from gateway.recent import Recent
from gateway.requests import Id, path_id
from gateway.responses import JsonResponse
from gateway.routes.shared import ADMISSION_ERRORS, ALWAYS, IF_NONE_MATCH, TOKEN
from gateway.routing import Header, Parameter, Returns, Route
from gateway.schedules import Schedules
from gateway.seat_maps import FormattedSeats, SeatMaps
from gateway.seat_status import SeatStatus
from gateway.settings import Settings
from gateway.taken_seats import TakenSeats
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.queue.v1 import queue_pb2
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
# 40 dates with 20,000 taken seats, or 2,000 with 150.
_STATUSES_BYTES = 8_000_000
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
_ETAG = Header("ETag", str, "The version of this answer, in quotation marks.")
_SEATS_ERRORS = (
    "INVALID_REQUEST", *ADMISSION_ERRORS, "WRONG_ROOM", "SCHEDULE_NOT_FOUND", *ALWAYS
)  # fmt: skip


class ConcertRoutes:
    """GET /concerts, …/{concertId}/schedules, …/schedules/{scheduleId}/seats and …/seats/status."""

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
        self._statuses = LoadingCache[int, SeatStatus](
            settings.seats_ttl_seconds, _STATUSES_BYTES, limit, SeatStatus.weight
        )
        clients.catalogue.on_change(self._drop)
        # What was formatted, and the body.
        self._untouched = Recent[int, tuple[FormattedSeats, bytes]](facts_ttl, _UNTOUCHED)

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="GET",
                path="/concerts",
                handler=self.concerts,
                immediate=self._concerts_now,
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
                immediate=self._schedules_now,
                operation_id="listSchedules",
                tag="concerts",
                parameters=(_CONCERT_ID, TOKEN),
                returns=(Returns(200, schemas.Schedules, "The upcoming dates, by date."),),
                errors=(
                    "INVALID_REQUEST",
                    *ADMISSION_ERRORS,
                    "WRONG_ROOM",
                    "CONCERT_NOT_FOUND",
                    *ALWAYS,
                ),
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
                errors=_SEATS_ERRORS,
            ),
            Route(
                method="GET",
                path="/concerts/schedules/{scheduleId}/seats/status",
                handler=self.status,
                immediate=self._status_now,
                operation_id="getSeatStatus",
                tag="concerts",
                parameters=(_SCHEDULE_ID, TOKEN, IF_NONE_MATCH),
                returns=(
                    Returns(200, schemas.SeatsStatus, "The taken seats.", headers=(_ETAG,)),
                    Returns(304, None, "The same as last time.", headers=(_ETAG,)),
                ),
                errors=_SEATS_ERRORS,
            ),
        )

    async def concerts(self, request: Request) -> Response:
        """Lists the concerts by id, in pages of at most 100."""
        await self._guard.require_admission(request)
        page = _page(request)
        return JsonResponse(await self._pages.get(page, lambda: self._load_page(*page)))

    async def schedules(self, request: Request) -> Response:
        """Lists the upcoming dates of a concert. A date is SOLD_OUT when every seat is sold."""
        place = await self._guard.require_admission(request)
        concert_id = _concert_id(request)
        self._check_room_of_concert(place, concert_id)
        return JsonResponse(await self._schedules.get(concert_id))

    async def seats(self, request: Request) -> Response:
        """Lists every seat of a date, in seat order. The list is at most one second old."""
        place = await self._guard.require_admission(request)
        schedule_id = _schedule_id(request)
        # First: nothing else may be missing, and the taken seats must not be old when the facts
        # arrive.
        seats = await self._seat_maps.get(schedule_id)
        _check_room(place, seats.seat_map.room)
        body = self._known_seats(seats) or await self._seats.get(
            schedule_id, lambda: self._load_seats(seats)
        )
        return JsonResponse(body)

    async def status(self, request: Request) -> Response:
        """Lists the seats of a date that are not available: what a page with a large hall polls.

        `mapVersion` changes when the seats themselves do: read them again then."""
        place = await self._guard.require_admission(request)
        schedule_id = _schedule_id(request)
        seats = await self._seat_maps.get(schedule_id)
        _check_room(place, seats.seat_map.room)
        status = await self._statuses.get(schedule_id, lambda: self._load_status(seats))
        return status.response(request)

    def _concerts_now(self, request: Request) -> Response | None:
        if not self._guard.is_admitted_now(request):
            return None
        body = self._pages.cached(_page(request))
        return None if body is None else JsonResponse(body)

    def _schedules_now(self, request: Request) -> Response | None:
        if not self._guard.is_admitted_now(request):
            return None
        concert_id = _concert_id(request)
        self._check_room_of_concert(self._guard.identify(request), concert_id)
        body = self._schedules.cached(concert_id)
        return None if body is None else JsonResponse(body)

    def _seats_now(self, request: Request) -> Response | None:
        seats = self._seats_of_admitted(request)
        body = None if seats is None else self._known_seats(seats)
        return None if body is None else JsonResponse(body)

    def _status_now(self, request: Request) -> Response | None:
        seats = self._seats_of_admitted(request)
        if seats is None:
            return None
        status = self._statuses.cached(seats.seat_map.schedule_id)
        return None if status is None else status.response(request)

    def _seats_of_admitted(self, request: Request) -> FormattedSeats | None:
        """Returns the seats of the date if the place is admitted for certain and they need not be
        loaded. Raises WrongRoom."""
        if not self._guard.is_admitted_now(request):
            return None
        seats = self._seat_maps.cached(_schedule_id(request))
        if seats is not None:
            _check_room(self._guard.identify(request), seats.seat_map.room)
        return seats

    def _check_room_of_concert(self, place: queue_pb2.Place, concert_id: int) -> None:
        """Raises WrongRoom. A concert that is not known here yet may be read with any admission;
        reservation_service decides about its seats."""
        room = self._clients.catalogue.room_of(concert_id)
        if room is not None:
            _check_room(place, room)

    def _drop(self, changed: Changed) -> None:
        """Forgets what was made of concerts that have changed."""
        if changed.concert_ids is None or changed.concert_ids:
            self._pages.clear()
            self._schedules.drop(changed.concert_ids)
            self._seat_maps.drop(changed.schedule_ids)
        if changed.schedule_ids is None:
            self._seats.clear()
            self._statuses.clear()
            return
        for schedule_id in changed.schedule_ids:
            self._seats.drop(schedule_id)
            self._statuses.drop(schedule_id)

    def _known_seats(self, seats: FormattedSeats) -> bytes | None:
        """Returns the seats of a date, as a body, if nothing has to be loaded."""
        schedule_id = seats.seat_map.schedule_id
        if self._taken_seats.is_untouched(schedule_id) and len(seats.format) < _FORMATTED_BYTES:
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

    async def _load_status(self, seats: FormattedSeats) -> SeatStatus:
        seat_map = seats.seat_map
        taken = await self._taken_seats.get(seat_map.schedule_id, len(seat_map.layout))
        return SeatStatus.of(seat_map, taken.held_seat_ids, taken.sold_seat_ids)

    async def _get_seat_maps(self, schedule_ids: Sequence[int]) -> concert_pb2.GetSeatMapsResponse:
        return await call(
            self._clients.concert.GetSeatMaps,
            concert_pb2.GetSeatMapsRequest(schedule_ids=schedule_ids),
            budget=self._budget,
        )


def _bytes(content: bytes) -> int:
    """The weight of an entry in a cache."""
    return _ENTRY_BYTES + len(content)


def _check_room(place: queue_pb2.Place, room: str) -> None:
    if place.room != room:
        raise WrongRoom


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
